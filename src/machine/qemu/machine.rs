//! A machine under QEMU, as a run drives it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::arguments::{AttachedDisk, QemuDefinition};
use super::devices::PORTS;
use super::process::{ProcessPlace, QemuProcess, explain};
use super::saving::{self, Saving};
use super::supervisor::{Order, Supervisor};
use super::way::Way;
use crate::channel::{AgentChannel, Channel, LineChannel, LineOptions};
use crate::console::{CaptureOptions, ConsoleReport, capture};
use crate::error::{Context, Error, Result};
use crate::event::{Kind, Severity};
use crate::lane::model::DiskOperations;
use crate::machine::consoles::Consoles;
use crate::machine::{ConsoleTap, FirstBoot, Machine, MachineState};
use crate::marker::CompiledRules;

/// Everything that a machine is made of.
pub struct QemuSetup {
    pub program: PathBuf,
    pub definition: QemuDefinition,
    pub place: ProcessPlace,
    pub rules: Arc<CompiledRules>,
    /// Bound on what is recorded of each console, in bytes.
    pub console_limit: u64,
    pub state: Arc<MachineState>,
    /// How to get to a shell on the definition's line.
    pub line: Option<LineOptions>,
    /// How the lane enters the guest, where that is neither our agent nor a line.
    pub way: Option<Way>,
    /// The machine begins as a fork instead of booting.
    pub fork: Option<Fork>,
}

/// Where a machine begins that does not boot; its memory and its disks are in its definition.
pub struct Fork {
    /// What was saved of processors and devices.
    pub state: PathBuf,
    /// Of the checkpoint: `sha256:<hex>`.
    pub digest: String,
    /// What the boot that led there printed.
    pub consoles: Vec<PathBuf>,
}

/// A machine under QEMU; off between a power cut and the next power-on.
pub struct QemuMachine {
    setup: QemuSetup,
    consoles: Mutex<Option<Arc<Consoles>>>,
    current: Mutex<Option<Current>>,
    ways: std::sync::Mutex<Ways>,
    /// How often the power was cut.
    cuts: AtomicU32,
}

/// What leads into the guest of this power-on.
#[derive(Clone, Default)]
struct Ways {
    agent: Option<AgentChannel>,
    /// The way that the lane has chosen, where it is not the agent.
    other: Option<Arc<dyn Channel>>,
}

/// One power-on.
struct Current {
    pid: u32,
    orders: mpsc::UnboundedSender<Order>,
    /// Guest TCP port and the host's port that leads to it.
    forwards: Vec<(u16, u16)>,
    supervisor: JoinHandle<()>,
}

impl QemuMachine {
    /// Starts the machine and lets it run.
    pub async fn start(setup: QemuSetup) -> Result<Arc<Self>> {
        std::fs::create_dir_all(&setup.place.evidence)
            .infrastructure(|| format!("failed to create `{}`", setup.place.evidence.display()))?;
        let consoles = Consoles::start(&setup.state, &setup.rules, &setup.place.evidence, setup.console_limit)?;
        let machine = Arc::new(Self {
            setup,
            consoles: Mutex::new(Some(Arc::new(consoles))),
            current: Mutex::new(None),
            ways: std::sync::Mutex::default(),
            cuts: AtomicU32::new(0),
        });
        match &machine.setup.fork {
            None => machine.switch_on("power-on", FirstBoot::Disk, None).await?,
            Some(Fork { state, digest, consoles: _ }) => {
                let wanted = machine.setup.definition.ports_wanted();
                if wanted > PORTS {
                    let name = machine.setup.state.name();
                    return Err(Error::usage(format!(
                        "machine `{name}` has {wanted} network cards and disks, and a checkpoint has room for {PORTS}"
                    )));
                }
                machine.switch_on(&format!("checkpoint:{digest}"), FirstBoot::Forked, Some(state)).await?;
            }
        }
        Ok(machine)
    }

    /// `state`: what was saved of the machine, where it begins in the middle.
    async fn switch_on(&self, origin: &str, first: FirstBoot, state: Option<&Path>) -> Result<()> {
        let mut current = self.current.lock().await;
        // That it is off is told a moment before its supervisor has ended.
        if self.setup.state.off().is_some()
            && let Some(Current { supervisor, .. }) = current.take()
        {
            let _ = supervisor.await;
        }
        if self.is_on(&current) {
            return Err(Error::usage(format!("machine `{}` is on already", self.setup.state.name())));
        }
        let setup = &self.setup;
        let consoles = self.consoles.lock().await.clone();
        let consoles = consoles.ok_or_else(|| Error::infrastructure("the machine has ended with its run"))?;
        for log in setup.definition.disks.iter().filter_map(|disk| disk.log.as_ref()) {
            log.prepare().await?;
        }
        let process = QemuProcess::start(&setup.program, &setup.definition, first, &setup.place).await?;
        let QemuProcess { mut keeper, qmp, mut events, console, console_hvc0, agent, line, guest_agent } = process;
        if let Some(state) = state {
            let shared = first == FirstBoot::Forked;
            let loaded = async {
                saving::load(&qmp, &mut events, &setup.place.socket("state"), state, shared).await?;
                let plugs = if shared { setup.definition.plugs() } else { Vec::new() };
                for plug in plugs {
                    qmp.plug(&plug).await?;
                }
                Ok(())
            };
            if let Err(error) = loaded.await {
                keeper.kill().await;
                keeper.exited().await;
                return Err(explain(error, &setup.place.stderr()));
            }
        }
        consoles.attach(console, console_hvc0)?;
        agent.set_nonblocking(true).infrastructure(|| "failed to prepare the agent's socket".into())?;
        let agent =
            tokio::net::UnixStream::from_std(agent).infrastructure(|| "failed to take the agent's socket".into())?;
        let (channel, channel_events) = AgentChannel::start(agent);
        let line = line.zip(setup.line.clone()).map(|(line, options)| start_line(line, options)).transpose()?;
        setup.state.epoch_began(origin);
        if first == FirstBoot::Forked {
            self.recall().await?;
        }
        let firmware = if setup.definition.uefi.is_some() { "uefi" } else { "bios" };
        let started = Kind::MachineStarted {
            pid: keeper.pid(),
            firmware: firmware.into(),
            command_line_file: format!("machines/{}/cmdline.txt", setup.state.name()),
        };
        setup.state.report(Severity::Info, started);
        let wants_forwards = !setup.definition.network.forward.is_empty();
        let forwards = if wants_forwards { qmp.forwards().await? } else { Vec::new() };
        for (guest_port, host_port) in forwards.iter().copied() {
            setup.state.report(Severity::Info, Kind::ForwardOpened { guest_port, host_port });
        }
        let other = match (&setup.way, line) {
            (Some(way), _) => Some(way.open(&forwards, guest_agent)?),
            (None, line) => line.map(|line| Arc::new(line) as Arc<dyn Channel>),
        };
        *self.ways() = Ways { agent: Some(channel.clone()), other: other.clone() };
        if first == FirstBoot::Medium {
            // Once: the order was read for this boot, and is read again at each reset. What was installed then boots.
            qmp.set_boot_index("medium", setup.definition.medium_last()).await?;
        }
        // Of several that were restored none goes on before all of them are there.
        if first != FirstBoot::Restored {
            qmp.resume().await?;
        }
        let (orders, order_queue) = mpsc::unbounded_channel();
        let pid = keeper.pid();
        let supervisor = Supervisor {
            state: setup.state.clone(),
            consoles,
            channel,
            channel_events,
            other,
            qmp,
            events,
            orders: order_queue,
            stderr: setup.place.stderr(),
            fallible: setup.definition.fallible_nodes(),
        };
        *current = Some(Current { pid, orders, forwards, supervisor: tokio::spawn(supervisor.run(keeper)) });
        Ok(())
    }

    /// Takes in what the boot before the fork has printed, as if it were printed now; it is kept in a file of its own.
    async fn recall(&self) -> Result<()> {
        let setup = &self.setup;
        for console in setup.fork.iter().flat_map(|fork| &fork.consoles) {
            let name = format!("checkpoint-{}", file_name(console).display());
            let options = CaptureOptions {
                recording: setup.place.evidence.join(&name),
                file: format!("machines/{}/{name}", setup.state.name()),
                limit: setup.console_limit,
                rules: setup.rules.clone(),
            };
            let failed = || format!("failed to read `{}`", console.display());
            let file = std::fs::File::open(console).infrastructure(failed)?;
            let state = setup.state.clone();
            let played = capture(file, options, move |report| {
                if let ConsoleReport::Finding(finding) = report {
                    state.observe(finding);
                }
            })?;
            tokio::task::spawn_blocking(move || drop(played.join())).await.infrastructure(failed)?;
        }
        Ok(())
    }

    fn ways(&self) -> std::sync::MutexGuard<'_, Ways> {
        self.ways.lock().expect("nobody panics while holding the ways")
    }

    fn is_on(&self, current: &Option<Current>) -> bool {
        current.as_ref().is_some_and(|current| !current.supervisor.is_finished())
    }

    async fn order<T>(&self, make: impl FnOnce(tokio::sync::oneshot::Sender<Result<T>>) -> Order) -> Result<T> {
        let off = || Error::usage(format!("machine `{}` is off", self.setup.state.name()));
        let (sender, answer) = tokio::sync::oneshot::channel();
        {
            let current = self.current.lock().await;
            let current = current.as_ref().ok_or_else(off)?;
            current.orders.send(make(sender)).map_err(|_| off())?;
        }
        answer.await.map_err(|_| off())?
    }

    fn disk(&self, name: &str) -> Result<&AttachedDisk> {
        let disk = self.setup.definition.disks.iter().find(|disk| disk.serial == name);
        disk.ok_or_else(|| Error::usage(format!("machine `{}` has no disk `{name}`", self.setup.state.name())))
    }

    /// Kills QEMU for a reason and waits until it is gone.
    async fn kill(&self, make: fn() -> Order) -> Result<()> {
        let mut current = self.current.lock().await;
        if let Some(Current { orders, supervisor, .. }) = current.take() {
            // A supervisor that takes no orders any more has seen its machine end.
            let _ = orders.send(make());
            supervisor.await.infrastructure(|| format!("the supervisor of `{}` failed", self.setup.state.name()))?;
        }
        Ok(())
    }

    /// Files that the machine writes to.
    fn own_files(&self) -> impl Iterator<Item = &Path> {
        let definition = &self.setup.definition;
        let variables = definition.uefi.as_ref().map(|(_, variables)| variables.as_path());
        definition.disks.iter().map(|disk| disk.path.as_path()).chain(variables)
    }

    /// Ends the recording; the machine's sockets are free afterwards.
    async fn finish_consoles(&self) {
        if let Some(consoles) = self.consoles.lock().await.take().and_then(Arc::into_inner) {
            consoles.finish().await;
        }
    }
}

impl Machine for QemuMachine {
    fn channel(&self) -> Option<Arc<dyn Channel>> {
        let Ways { agent, other } = self.ways().clone();
        other.or_else(|| agent.map(|agent| Arc::new(agent) as Arc<dyn Channel>))
    }

    fn agent(&self) -> Option<AgentChannel> {
        let Ways { agent, other } = self.ways().clone();
        agent.filter(|_| other.is_none())
    }

    fn tap_console<'a>(&'a self, console: &'a str) -> BoxFuture<'a, Option<ConsoleTap>> {
        async move { self.consoles.lock().await.as_ref()?.tap(console) }.boxed()
    }

    fn press_power_button(&self) -> BoxFuture<'_, Result<()>> {
        self.order(Order::PressPowerButton).boxed()
    }

    fn reset(&self) -> BoxFuture<'_, Result<()>> {
        self.order(Order::Reset).boxed()
    }

    fn cut(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>> {
        async {
            self.kill(|| Order::Cut).await?;
            let cut = self.cuts.fetch_add(1, Ordering::Relaxed) + 1;
            let mut effects = BTreeMap::new();
            for log in self.setup.definition.disks.iter().filter_map(|disk| disk.log.clone()) {
                let failed = || "the replay of a disk's writes ended early".into();
                let survivors = tokio::task::spawn_blocking(move || log.replay(cut)).await.infrastructure(failed)??;
                for (what, count) in
                    [("unflushed blocks kept", survivors.kept), ("unflushed blocks lost", survivors.lost)]
                {
                    *effects.entry(what.to_owned()).or_insert(0) += count;
                }
            }
            Ok(effects)
        }
        .boxed()
    }

    fn power_on(&self, first: FirstBoot) -> BoxFuture<'_, Result<()>> {
        if first == FirstBoot::Medium && self.setup.definition.medium.is_none() {
            let message = format!("machine `{}` has no medium to boot", self.setup.state.name());
            return async { Err(Error::usage(message).hint("its image has to be an `iso`")) }.boxed();
        }
        self.switch_on("power-on", first, None).boxed()
    }

    fn save(&self, folder: PathBuf) -> BoxFuture<'_, Result<()>> {
        async move {
            let definition = &self.setup.definition;
            if let Some(disk) = definition.disks.iter().find(|disk| disk.server.is_some() || disk.log.is_some()) {
                return Err(Error::usage(format!(
                    "machine `{}` cannot be saved: nobody knows what the cache of its disk `{}` holds",
                    self.setup.state.name(),
                    disk.serial
                ))
                .hint("leave out the disk's `write_cache`, and the faults that it is to take part in"));
            }
            let request = |answer| {
                let saving = Saving {
                    socket: self.setup.place.socket("state"),
                    state: folder.join(STATE),
                    memory_is_shared: definition.memory_file.as_ref().is_some_and(|memory| memory.shared),
                };
                Order::Save(saving, answer)
            };
            self.order(request).await?;
            // The guest is paused, and QEMU has written all that it had of the disks.
            for file in self.own_files() {
                copy_sparse(file, &folder.join(file_name(file))).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn restore<'a>(&'a self, folder: &'a Path, origin: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.kill(|| Order::Replace).await?;
            for file in self.own_files() {
                copy_sparse(&folder.join(file_name(file)), file).await?;
            }
            self.switch_on(origin, FirstBoot::Restored, Some(&folder.join(STATE))).await
        }
        .boxed()
    }

    fn pause(&self, paused: bool) -> BoxFuture<'_, Result<()>> {
        self.order(move |answer| Order::Pause(paused, answer)).boxed()
    }

    fn slow_disk<'a>(&'a self, disk: &'a str, bytes_per_second: Option<u64>) -> BoxFuture<'a, Result<()>> {
        async move {
            let device = self.disk(disk)?.backend_path();
            self.order(|answer| Order::Throttle(device, bytes_per_second.unwrap_or(0), answer)).await
        }
        .boxed()
    }

    fn fail_disk<'a>(&'a self, disk: &'a str, requests: Option<DiskOperations>) -> BoxFuture<'a, Result<()>> {
        async move {
            let disk = self.disk(disk)?;
            let server = disk.server.as_ref().ok_or_else(|| {
                Error::usage(format!("the disk `{}` of `{}` cannot fail", disk.serial, self.setup.state.name()))
            })?;
            server.fail(requests)
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<()>> {
        async {
            let ended = self.kill(|| Order::End).await;
            self.finish_consoles().await;
            ended.and(self.setup.place.keep_stderr())
        }
        .boxed()
    }

    fn keep(&self, folder: PathBuf) -> BoxFuture<'_, Result<u32>> {
        async move {
            let Some(Current { pid, orders, forwards, supervisor }) = self.current.lock().await.take() else {
                return Err(Error::usage(format!(
                    "machine `{}` is off: there is nothing to keep",
                    self.setup.state.name()
                )));
            };
            let (sender, keeper) = tokio::sync::oneshot::channel();
            let gone = || {
                Error::infrastructure(format!("machine `{}` ended before it could be kept", self.setup.state.name()))
            };
            orders.send(Order::HandOver(sender)).map_err(|_| gone())?;
            let keeper = keeper.await.map_err(|_| gone())?;
            let _ = supervisor.await;
            *self.ways() = Ways::default();
            self.finish_consoles().await;
            let place = &self.setup.place;
            place.keep_stderr()?;
            let consoles =
                ["console", "console-hvc0"].map(|name| (place.socket(name), folder.join(format!("{name}.raw"))));
            keeper.keep(consoles.to_vec(), self.setup.console_limit, forwards).await?;
            Ok(pid)
        }
        .boxed()
    }
}

fn start_line(line: std::os::unix::net::UnixStream, options: LineOptions) -> Result<LineChannel> {
    let failed = || format!("failed to take the socket of `{}`", options.device);
    line.set_nonblocking(true).infrastructure(failed)?;
    let line = tokio::net::UnixStream::from_std(line).infrastructure(failed)?;
    Ok(LineChannel::start(line, options))
}

/// What was saved of processors, devices and, unless that is a file of its own, memory.
pub const STATE: &str = "state";

fn file_name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// Shares the blocks where the file system can; holes stay holes.
async fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("failed to copy `{}` to `{}`", from.display(), to.display());
    let output = tokio::process::Command::new("cp")
        .args(["--reflink=auto", "--sparse=always", "--"])
        .args([from, to])
        .stdin(Stdio::null())
        .output()
        .await
        .infrastructure(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::infrastructure(failed()).with_source(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
