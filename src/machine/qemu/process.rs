//! One QEMU process, paused, with all its sockets connected: nothing that it will ever print can be missed.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use qapi::qmp::Event;
use tokio::sync::mpsc;

use super::arguments::{AttachedDisk, GUEST_AGENT, LOGIN_SOCKET, QemuDefinition, render};
use super::disk_server;
use super::qmp::Qmp;
use crate::error::{Context, Error, Result};
use crate::lane::model::LoginDevice;
use crate::machine::FirstBoot;
use crate::machine::keeper::{Keeper, KeeperSpec, ServerSpec, SocketSpec};
use crate::machine::registry::MachineRecord;

/// Where a process keeps what belongs to it.
#[derive(Clone, Debug)]
pub struct ProcessPlace {
    /// Short (unix socket paths end at 108 bytes) and this machine's own.
    pub runtime: PathBuf,
    /// Command line and QMP record go here: the machine's folder in the proof root.
    pub evidence: PathBuf,
    pub record_path: PathBuf,
    /// Its process numbers are filled in by the keeper.
    pub record: MachineRecord,
    /// The run's folder, which the keeper holds.
    pub run_folder: PathBuf,
}

impl ProcessPlace {
    pub fn socket(&self, name: &str) -> PathBuf {
        self.runtime.join(format!("{name}.sock"))
    }

    /// The file that takes QEMU's standard error. Not in the proof: a machine that is kept may write to it after the seal.
    pub fn stderr(&self) -> PathBuf {
        self.runtime.join("qemu.stderr")
    }

    /// Keeps what QEMU has said so far with the evidence, if it said anything.
    pub fn keep_stderr(&self) -> Result<()> {
        let said = fs::read(self.stderr()).unwrap_or_default();
        if said.is_empty() {
            return Ok(());
        }
        let path = self.evidence.join("qemu.stderr");
        fs::write(&path, said).infrastructure(|| format!("failed to write `{}`", path.display()))
    }
}

/// A started QEMU. The guest is paused until `qmp.resume()`.
pub struct QemuProcess {
    pub keeper: Keeper,
    pub qmp: Qmp,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub console: UnixStream,
    /// `None` where the line to a shell is hvc0.
    pub console_hvc0: Option<UnixStream>,
    pub agent: UnixStream,
    /// The line to a shell, where there is one.
    pub line: Option<UnixStream>,
    /// QEMU's own agent, where it has a port.
    pub guest_agent: Option<UnixStream>,
}

impl QemuProcess {
    pub async fn start(
        program: &Path,
        definition: &QemuDefinition,
        first: FirstBoot,
        place: &ProcessPlace,
    ) -> Result<Self> {
        let arguments = definition.arguments(first, jiff::Timestamp::now());
        fs::create_dir_all(&place.evidence)
            .and_then(|()| fs::write(place.evidence.join("cmdline.txt"), render(program, &arguments)))
            .infrastructure(|| format!("failed to write to `{}`", place.evidence.display()))?;
        for name in definition.sockets() {
            // Left by the same machine's earlier process, if its power was cut.
            let _ = fs::remove_file(place.socket(name));
        }
        let _ = fs::remove_file(place.socket("keeper"));
        for server in definition.disks.iter().filter_map(|disk| disk.server.as_ref()) {
            let _ = fs::remove_file(&server.socket);
        }
        let spec = KeeperSpec {
            program: program.into(),
            arguments,
            sockets: definition
                .sockets()
                .map(|name| SocketSpec { name: name.into(), path: place.socket(name) })
                .collect(),
            servers: definition.disks.iter().filter_map(|disk| server(disk, place)).collect(),
            stderr: place.stderr(),
            control: place.socket("keeper"),
            record_path: place.record_path.clone(),
            record: place.record.clone(),
            run_folder: place.run_folder.clone(),
        };
        let mut keeper = Keeper::start(&spec).await?;
        match Sockets::connect(definition, place).await {
            Ok(Sockets { qmp, events, console, console_hvc0, agent, line, guest_agent }) => {
                Ok(Self { keeper, qmp, events, console, console_hvc0, agent, line, guest_agent })
            }
            Err(error) => {
                keeper.kill().await;
                keeper.exited().await;
                Err(explain(error, &place.stderr()))
            }
        }
    }
}

/// All that leads to a QEMU.
struct Sockets {
    qmp: Qmp,
    events: mpsc::UnboundedReceiver<Event>,
    console: UnixStream,
    console_hvc0: Option<UnixStream>,
    agent: UnixStream,
    line: Option<UnixStream>,
    guest_agent: Option<UnixStream>,
}

impl Sockets {
    async fn connect(definition: &QemuDefinition, place: &ProcessPlace) -> Result<Self> {
        // QEMU inherited sockets that were listening already, so connecting never has to be tried twice.
        let connect = |name: &str| {
            UnixStream::connect(place.socket(name))
                .infrastructure(|| format!("failed to connect to QEMU's `{name}` socket"))
        };
        let (console, hvc0, agent) = (connect("console")?, connect("console-hvc0")?, connect("agent")?);
        let (console_hvc0, line) = match definition.line {
            None => (Some(hvc0), None),
            Some(LoginDevice::Virtio) => (None, Some(hvc0)),
            Some(LoginDevice::Serial) => (Some(hvc0), Some(connect(LOGIN_SOCKET)?)),
        };
        let guest_agent = definition.guest_agent.then(|| connect(GUEST_AGENT)).transpose()?;
        let monitor = tokio::net::UnixStream::connect(place.socket("qmp"))
            .await
            .infrastructure(|| "failed to connect to QEMU's monitor".into())?;
        let (qmp, events) = Qmp::connect(monitor, &place.evidence.join("qmp.jsonl")).await?;
        Ok(Self { qmp, events, console, console_hvc0, agent, line, guest_agent })
    }
}

fn server(disk: &AttachedDisk, place: &ProcessPlace) -> Option<ServerSpec> {
    let server = disk.server.as_ref()?;
    Some(ServerSpec {
        name: disk.serial.clone(),
        program: disk_server::PROGRAM.into(),
        arguments: server.arguments(),
        socket: server.socket.clone(),
        // What the cache holds counts as the machine's disk, not as the host's temporary files.
        folder: server.file.parent().unwrap_or(&place.runtime).into(),
    })
}

/// What QEMU itself said is the best explanation of why it went away.
pub fn explain(error: Error, stderr: &Path) -> Error {
    let said = fs::read_to_string(stderr).unwrap_or_default();
    let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    match said.last() {
        Some(line) => Error::infrastructure(format!("failed to start QEMU: it said `{line}`")).with_source(error),
        None => error,
    }
}
