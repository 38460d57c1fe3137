//! Starting a plan's machines: disks, firmware, runtime folders, rules.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::libvirt::{self, LibvirtPlace};
use super::networks::Networks;
use super::steps::RunningMachine;
use super::{boot_data, identity, ssh};
use crate::channel::{Answer, Greeting, LineOptions};
use crate::checkpoint::{CONSOLES, Checkpoint, MEMORY};
use crate::error::{Context, Error, Result};
use crate::event::Reporter;
use crate::image::{Boot, BuiltImage};
use crate::lane::model::{
    Backend, DialogueLine, Firmware, HOST, Lane, LoginDevice, Machine as MachineDefinition, MachineChannel, NetworkBoot,
};
use crate::lane::units::Span;
use crate::machine::qemu::{
    self, AttachedDisk, AttachedLink, DirectKernel, DiskServer, Fork, Identity, MemoryFile, ProcessPlace,
    QemuDefinition, QemuMachine, QemuSetup, Way, WriteLog,
};
use crate::machine::registry::{self, MachineRecord, RECORD_VERSION};
use crate::machine::{Machine, MachineState, RecorderMachine, RunFolders};
use crate::marker::CompiledRules;
use crate::plan::model::Accelerator;
use crate::secret::Secrets;

/// What a machine writes to the image's disk, and its firmware to its store.
const ROOT_OVERLAY: &str = "root.qcow2";
const UEFI_VARIABLES: &str = "uefi-variables.fd";

/// Where a run's machines live.
pub struct Surroundings<'a> {
    pub run: &'a str,
    pub lane: &'a Lane,
    pub work_root: &'a Path,
    /// What relative paths in the normalised lane are relative to.
    pub project_root: &'a Path,
    /// The proof root, or what stands for it.
    pub evidence: &'a Path,
    pub accelerator: Accelerator,
    /// Deadlines are stretched by this.
    pub factor: f64,
    pub reporter: &'a Reporter,
    pub networks: &'a Networks,
    pub secrets: &'a Secrets,
    /// Where machines fetch the CA of the run's deployer from, with its pin; `None` where it serves no HTTPS.
    pub ca_url: Option<String>,
    /// What machines begin from that do not boot, by the machines' names.
    pub checkpoints: &'a BTreeMap<String, Arc<Checkpoint>>,
    /// A checkpoint is made of the machine: the file that its memory is.
    pub making: Option<&'a Path>,
    /// Where the machines run that are libvirt's.
    pub libvirt: Option<&'a LibvirtPlace>,
    /// Nothing is started: what machines would be made of is named, and not made.
    pub recorded: bool,
}

impl Surroundings<'_> {
    /// The one parameter that a lane cannot name beforehand, for a machine that comes by HTTPS and does not name it itself.
    fn ca_parameter(&self, machine: &MachineDefinition) -> Option<String> {
        let url = self.ca_url.as_ref()?;
        let has = |start: &str| machine.kernel_parameters.iter().any(|parameter| parameter.starts_with(start));
        // What is booted from the network is told where the deployer is.
        let told = machine.network_boot.is_some() && !has("bootproof.deployer_url=");
        let wanted = (told || has("bootproof.deployer_url=https://")) && !has("bootproof.ca_cert_url=");
        wanted.then(|| format!("bootproof.ca_cert_url={url}"))
    }
}

/// Where the kernel was told something by QEMU: what that was, in the machine's folder of the proof.
pub const KERNEL_COMMAND_LINE: &str = "kernel-command-line.txt";

/// Starts them all. When one cannot be started the others are ended again.
pub async fn start(
    surroundings: &Surroundings<'_>,
    folders: &RunFolders,
    images: &BTreeMap<String, BuiltImage>,
) -> Result<BTreeMap<String, RunningMachine>> {
    let starting = surroundings.lane.machines.iter().enumerate().map(|(index, (name, definition))| async move {
        let started = start_one(surroundings, folders, images, index, name, definition).await;
        (name.clone(), started)
    });
    let mut machines = BTreeMap::new();
    let mut failure = None;
    for (name, started) in futures_util::future::join_all(starting).await {
        match started {
            Ok(machine) => drop(machines.insert(name, machine)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        None => Ok(machines),
        Some(error) => {
            end(&machines).await;
            Err(error)
        }
    }
}

/// Ends them all at once.
pub async fn end(machines: &BTreeMap<String, RunningMachine>) -> Vec<Error> {
    let ending = machines.values().map(|machine| machine.machine.end());
    futures_util::future::join_all(ending).await.into_iter().filter_map(Result::err).collect()
}

async fn start_one(
    surroundings: &Surroundings<'_>,
    folders: &RunFolders,
    images: &BTreeMap<String, BuiltImage>,
    index: usize,
    name: &str,
    definition: &MachineDefinition,
) -> Result<RunningMachine> {
    let rules = Arc::new(CompiledRules::compile(surroundings.lane, name)?);
    let state = MachineState::new(name, rules.clone(), surroundings.reporter);
    let evidence = surroundings.evidence.join("machines").join(name);
    std::fs::create_dir_all(&evidence)
        .map_err(|error| Error::storage(error, format!("failed to create `{}`", evidence.display())))?;
    let limit = definition.console_limit.bytes();
    let machine: Arc<dyn Machine> = match definition.backend {
        Backend::Recorder => {
            let recording = definition
                .recording
                .as_deref()
                .ok_or_else(|| Error::usage(format!("machine `{name}` is a recorder and has no `recording`")))?;
            let recording = match recording.to_str() {
                Some("-") => recording.to_path_buf(),
                _ => surroundings.project_root.join(recording),
            };
            RecorderMachine::start(state.clone(), rules, &recording, &evidence, limit)?
        }
        Backend::Qemu | Backend::Libvirt => {
            let image = images
                .get(&definition.image)
                .ok_or_else(|| Error::infrastructure(format!("image `{}` was not prepared", definition.image)))?;
            // Unix socket paths end at 108 bytes: a number is short whatever the machine is called.
            let runtime = folders.runtime().join(index.to_string());
            let scratch = folders.scratch().join(name);
            for folder in [&runtime, &scratch] {
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::storage(error, format!("failed to create `{}`", folder.display())))?;
            }
            let ssh = match &definition.channel {
                MachineChannel::Ssh(choice) => {
                    let (evidence, factor) = (evidence.as_path(), surroundings.factor);
                    let place = ssh::Place { machine: name, runtime: &runtime, evidence, factor };
                    Some(ssh::prepare(choice, &place, surroundings.secrets, surroundings.networks)?)
                }
                MachineChannel::Agent {}
                | MachineChannel::Backdoor { .. }
                | MachineChannel::Serial { .. }
                | MachineChannel::GuestAgent { .. } => None,
            };
            let place = ProcessPlace {
                record_path: registry::folder(surroundings.work_root).join(format!("{}-{name}.json", surroundings.run)),
                record: MachineRecord {
                    version: RECORD_VERSION,
                    run: surroundings.run.into(),
                    lane: surroundings.lane.name.clone(),
                    machine: name.into(),
                    keeper_pid: 0,
                    qemu_pid: 0,
                    started: crate::event::wall_clock(),
                    memory: definition.memory.bytes(),
                    control: runtime.join("keeper.sock"),
                    kept: false,
                    evidence: evidence.clone(),
                    console: kept_folder(surroundings.work_root, surroundings.run, name).join("console.raw"),
                    forwards: Vec::new(),
                    ssh: ssh.as_ref().map(|ssh| ssh.access.clone()),
                },
                run_folder: folders.scratch().into(),
                runtime,
                evidence,
            };
            let checkpoint = surroundings.checkpoints.get(name);
            let mut defined =
                define(surroundings, name, definition, (image, checkpoint), (&scratch, &place.runtime)).await?;
            if let Some(ssh) = &ssh {
                ssh.hand_in(&mut defined.identity);
            }
            if let Some(line) = defined.command_line() {
                let path = place.evidence.join(KERNEL_COMMAND_LINE);
                std::fs::write(&path, line)
                    .map_err(|error| Error::storage(error, format!("failed to write `{}`", path.display())))?;
            }
            if definition.backend == Backend::Libvirt {
                let machine = libvirt::start(surroundings, defined, place, rules, limit, state.clone()).await?;
                return Ok(RunningMachine { state, machine, clock: definition.clock });
            }
            let machine = QemuMachine::start(QemuSetup {
                program: qemu::program(),
                definition: defined.clone(),
                place,
                rules,
                console_limit: limit,
                state: state.clone(),
                line: line_options(surroundings, &definition.channel)?,
                way: way(&definition.channel, ssh, surroundings.factor),
                fork: checkpoint.map(|checkpoint| fork(checkpoint)),
            })
            .await?;
            let running = RunningMachine { state: state.clone(), machine: machine.clone(), clock: definition.clock };
            if let Some(checkpoint) = checkpoint {
                let ready = surroundings.lane.images.get(&definition.image).and_then(|image| image.ready.clone());
                let ready = ready.unwrap_or_default();
                let factor = surroundings.factor;
                let given = identity::give(surroundings.run, &running, &defined, checkpoint, &ready, factor).await;
                if let Err(error) = given {
                    let _ = machine.end().await;
                    return Err(error);
                }
            }
            machine
        }
    };
    Ok(RunningMachine { state, machine, clock: definition.clock })
}

/// How to get to a shell on a machine's line, where one leads into it. What is typed is as secret as it comes out here.
fn line_options(surroundings: &Surroundings<'_>, channel: &MachineChannel) -> Result<Option<LineOptions>> {
    let (greeting, within) = match channel {
        MachineChannel::Agent {} | MachineChannel::Ssh(_) | MachineChannel::GuestAgent { .. } => return Ok(None),
        MachineChannel::Backdoor { within } => (Greeting::Backdoor, within),
        MachineChannel::Serial { dialogue, prompts, refusals, within, device: _ } => {
            let answer = |line: &DialogueLine| {
                let send = surroundings.secrets.fill(&line.send)?;
                Ok(Answer { expect: line.expect.clone(), send })
            };
            let answers = dialogue.iter().map(answer).collect::<Result<Vec<_>>>()?;
            (Greeting::Dialogue { answers, prompts: prompts.clone(), refusals: refusals.clone() }, within)
        }
    };
    let device = channel.line().unwrap_or_default();
    Ok(Some(LineOptions {
        kind: channel.kind(),
        device: device.name().into(),
        greeting,
        within: within.scaled(surroundings.factor).duration(),
        input_chunk: match device {
            LoginDevice::Serial => LineOptions::SERIAL_CHUNK,
            LoginDevice::Virtio => LineOptions::VIRTIO_CHUNK,
        },
    }))
}

/// How long QEMU's own agent may take for one request: none of them takes it long, but its guest may be busy.
const GUEST_AGENT_BOUND: Span = Span::from_secs(30);

/// How a guest is entered by something that is neither our agent nor a shell on a line.
fn way(channel: &MachineChannel, ssh: Option<ssh::SshMachine>, factor: f64) -> Option<Way> {
    match channel {
        MachineChannel::Agent {} | MachineChannel::Backdoor { .. } | MachineChannel::Serial { .. } => None,
        MachineChannel::Ssh(_) => ssh.map(|ssh| Way::Ssh(Box::new(ssh.way))),
        MachineChannel::GuestAgent { within } => Some(Way::GuestAgent {
            within: within.scaled(factor).duration(),
            bound: GUEST_AGENT_BOUND.scaled(factor).duration(),
        }),
    }
}

fn fork(checkpoint: &Checkpoint) -> Fork {
    Fork {
        state: checkpoint.folder.join(qemu::STATE),
        digest: checkpoint.digest.clone(),
        consoles: CONSOLES.iter().filter_map(|console| checkpoint.file(console)).collect(),
    }
}

/// Where a kept machine's console goes once its run's proof is sealed.
pub fn kept_folder(work_root: &Path, run: &str, machine: &str) -> PathBuf {
    work_root.join("kept").join(run).join(machine)
}

pub(super) async fn define(
    surroundings: &Surroundings<'_>,
    name: &str,
    machine: &MachineDefinition,
    (image, checkpoint): (&BuiltImage, Option<&Arc<Checkpoint>>),
    (scratch, runtime): (&Path, &Path),
) -> Result<QemuDefinition> {
    let mut disks = Vec::new();
    if let Some(base) = &image.disk {
        match checkpoint.and_then(|checkpoint| checkpoint.file(ROOT_OVERLAY)) {
            // What the boot has written is there already.
            Some(path) => disks.push(overlay(surroundings, "qcow2", &path, &scratch.join(ROOT_OVERLAY)).await?),
            None => {
                disks.push(overlay(surroundings, base.format.as_str(), &base.path, &scratch.join(ROOT_OVERLAY)).await?)
            }
        }
    }
    for disk in &machine.disks {
        let path = scratch.join(format!("{}.raw", disk.name));
        if !surroundings.recorded {
            // Sparse: it takes from the host what the guest writes.
            std::fs::File::create(&path)
                .and_then(|file| file.set_len(disk.size.bytes()))
                .map_err(|error| Error::storage(error, format!("failed to create the disk `{}`", path.display())))?;
        }
        let server = disk.is_served().then(|| DiskServer {
            socket: runtime.join(format!("disk{}.sock", disks.len())),
            file: path.clone(),
            write_cache: disk.forgets(),
            fallible: disk.fallible,
        });
        let log = disk.survives.map(|survives| WriteLog {
            file: path.clone(),
            survives,
            seed: format!("{}/{name}/{}", surroundings.lane.seed, disk.name),
        });
        disks.push(AttachedDisk { serial: disk.name.clone(), path, format: "raw".into(), server, log });
    }
    let mut network_index = machine.network_boot.map(|when| match when {
        NetworkBoot::First => 1,
        NetworkBoot::Last => disks.len() + 2,
    });
    let tells = |network: &str| surroundings.lane.networks.get(network).is_some_and(|one| one.boot_file.is_some());
    let links = machine.networks.iter().map(|(network, place)| AttachedLink {
        network: network.clone(),
        mac: place.mac.clone(),
        socket: surroundings.networks.socket(network, name),
        // The first card that is told something.
        boot_index: if tells(network) { network_index.take() } else { None },
    });
    let links = links.collect();
    let mut shares = Vec::new();
    for share in &image.shares {
        let folder = match &share.path {
            Some(path) => path.clone(),
            None => {
                let empty = scratch.join("nothing");
                std::fs::create_dir_all(&empty)
                    .map_err(|error| Error::storage(error, format!("failed to create `{}`", empty.display())))?;
                empty
            }
        };
        shares.push((share.tag.clone(), folder));
    }
    let uefi = match machine.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => {
            Some(own_firmware(surroundings, scratch, checkpoint.and_then(|saved| saved.file(UEFI_VARIABLES)))?)
        }
    };
    let making = surroundings.making;
    let memory_file = match (making, checkpoint) {
        (Some(path), _) => Some(MemoryFile { path: path.into(), shared: true }),
        (None, Some(checkpoint)) => Some(MemoryFile { path: checkpoint.folder.join(MEMORY), shared: false }),
        (None, None) => None,
    };
    let serial = machine.serial.clone().unwrap_or_else(|| name.into());
    let mut identity = Identity { serial, uuid: uuid(surroundings.run, name), ..Identity::default() };
    let (mut direct_kernel, mut medium) = (None, None);
    match &image.boot {
        _ if machine.network_boot.is_some() => {
            let mut parameters = vec![qemu::console_parameters(machine.console).to_owned()];
            parameters.extend(medium_parameters(surroundings.lane, name, machine));
            parameters.extend(surroundings.ca_parameter(machine));
            boot_data::leave(&parameters, surroundings.secrets, runtime, &mut identity)?;
        }
        Boot::Firmware => {}
        Boot::Medium { path, .. } => {
            medium = Some(path.clone());
            let mut parameters = medium_parameters(surroundings.lane, name, machine);
            parameters.extend(surroundings.ca_parameter(machine));
            boot_data::leave(&parameters, surroundings.secrets, runtime, &mut identity)?;
        }
        Boot::Kernel { kernel, uncompressed_kernel, initramfs, parameters } => {
            let mut all = parameters.clone();
            // A machine that is saved is nobody yet.
            let own = if making.is_some() { None } else { Some(name) };
            all.extend(own_parameters(surroundings.lane, own));
            all.extend(network_parameters(surroundings.lane, machine));
            all.extend(machine.kernel_parameters.iter().cloned());
            all.extend(surroundings.ca_parameter(machine));
            let kernel = uncompressed_kernel.as_ref().filter(|_| uefi.is_none()).unwrap_or(kernel);
            direct_kernel =
                Some(DirectKernel { kernel: kernel.clone(), initramfs: initramfs.clone(), parameters: all });
        }
    }
    Ok(QemuDefinition {
        name: name.into(),
        accelerator: surroundings.accelerator,
        cpus: machine.cpus,
        memory: machine.memory,
        firmware: machine.firmware,
        uefi,
        direct_kernel,
        disks,
        medium,
        identity,
        clock: machine.clock,
        network: machine.network.clone(),
        links,
        console: machine.console,
        line: machine.channel.line(),
        guest_agent: matches!(machine.channel, MachineChannel::GuestAgent { .. }),
        shares,
        relay: std::env::current_exe().infrastructure(|| "failed to find our own program".into())?,
        pluggable: making.is_some() || checkpoint.is_some(),
        memory_file,
    })
}

/// What every agent of ours is told.
fn own_parameters(lane: &Lane, name: Option<&str>) -> Vec<String> {
    let mut parameters: Vec<String> = name.iter().map(|name| format!("bootproof.node={name}")).collect();
    let prefix = &lane.markers.prefix;
    if prefix != crate::lane::model::DEFAULT_MARKER_PREFIX {
        parameters.push(format!("bootproof.marker_prefix={prefix}"));
    }
    parameters
}

/// What a medium's boot loader or the network's hands on. A network that gives addresses by DHCP is left to give them, as
/// elsewhere.
fn medium_parameters(lane: &Lane, name: &str, machine: &MachineDefinition) -> Vec<String> {
    let mut parameters = own_parameters(lane, Some(name));
    let given = |network: &String| lane.networks.get(network).is_some_and(|network| network.dhcp);
    if !machine.networks.keys().any(given) {
        parameters.extend(network_parameters(lane, machine));
    }
    parameters.extend(machine.kernel_parameters.iter().cloned());
    parameters
}

/// A number of the machine's own, in the form of a UUID: the same whenever it is switched on within a run.
pub fn uuid(run: &str, machine: &str) -> String {
    let digest = Sha256::digest(format!("{run}/{machine}"));
    let mut hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    // Version 8 (of one's own making), and the variant that all versions have.
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "a");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What the agent is told of the machine's networks: its places, and the names of all that can be reached.
fn network_parameters(lane: &Lane, machine: &MachineDefinition) -> Vec<String> {
    let mut parameters = Vec::new();
    let mut hosts: BTreeMap<&str, Ipv4Addr> = BTreeMap::new();
    for (name, place) in &machine.networks {
        let Some(network) = lane.networks.get(name) else { continue };
        parameters.push(format!("bootproof.network={},{}/{},{name}", place.mac, place.address, network.prefix));
        hosts.entry(HOST).or_insert_with(|| network.host());
        for (other, definition) in &lane.machines {
            if let Some(theirs) = definition.networks.get(name) {
                hosts.entry(other).or_insert(theirs.address);
            }
        }
    }
    parameters.extend(hosts.into_iter().map(|(name, address)| format!("bootproof.host={address},{name}")));
    parameters
}

/// A machine writes to its own overlay; the image is never changed.
async fn overlay(surroundings: &Surroundings<'_>, format: &str, base: &Path, path: &Path) -> Result<AttachedDisk> {
    let disk =
        AttachedDisk { serial: "root".into(), path: path.into(), format: "qcow2".into(), server: None, log: None };
    if surroundings.recorded {
        return Ok(disk);
    }
    let output = tokio::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .arg(base)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .await
        .infrastructure(|| "failed to run `qemu-img`".into())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(
            Error::infrastructure(format!("failed to create an overlay on `{}`", base.display())).with_source(said)
        );
    }
    Ok(disk)
}

/// The host's firmware with a variable store of the machine's own.
fn own_firmware(surroundings: &Surroundings<'_>, scratch: &Path, saved: Option<PathBuf>) -> Result<(PathBuf, PathBuf)> {
    let (code, template) = qemu::firmware::uefi().ok_or_else(|| {
        Error::blocked("no OVMF firmware was found").hint("install it (Debian and Ubuntu: `apt-get install ovmf`)")
    })?;
    let variables = scratch.join(UEFI_VARIABLES);
    if surroundings.recorded {
        return Ok((code, variables));
    }
    let template = saved.unwrap_or(template);
    std::fs::copy(&template, &variables)
        .map_err(|error| Error::storage(error, format!("failed to copy `{}`", template.display())))?;
    Ok((code, variables))
}
