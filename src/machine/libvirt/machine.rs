//! A machine under libvirt, as a run drives it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::domain::{self, Domain, MEDIUM, SOCKETS};
use super::mark::Mark;
use super::monitor::Monitor;
use super::protocol::{Order as Ask, Outcome};
use super::supervisor::{Intent, Order, Supervisor};
use super::target::Target;
use crate::channel::{AgentChannel, Channel};
use crate::error::{Context, Error, Result};
use crate::event::{Kind, Severity, StopCause};
use crate::lane::model::{DiskOperations, LibvirtNetwork};
use crate::machine::consoles::Consoles;
use crate::machine::keeper::{Keeper, KeeperSpec, SocketSpec};
use crate::machine::qemu::{ProcessPlace, QemuDefinition, explain, parse_forwards, render};
use crate::machine::{ConsoleTap, FirstBoot, Machine, MachineState};
use crate::marker::CompiledRules;

/// The holder's socket.
const MONITOR: &str = "libvirt";

/// Everything that a machine is made of.
pub struct LibvirtSetup {
    pub target: Target,
    pub definition: QemuDefinition,
    pub mark: Mark,
    pub emulator: PathBuf,
    /// What that libvirt keeps machines apart with.
    pub security_models: Vec<String>,
    pub networks: BTreeMap<String, LibvirtNetwork>,
    pub place: ProcessPlace,
    pub rules: Arc<CompiledRules>,
    /// Bound on what is recorded of each console, in bytes.
    pub console_limit: u64,
    pub state: Arc<MachineState>,
}

impl LibvirtSetup {
    fn domain(&self) -> Domain<'_> {
        Domain {
            definition: &self.definition,
            mark: &self.mark,
            emulator: &self.emulator,
            runtime: &self.place.runtime,
            security_models: &self.security_models,
            owner: super::owner(),
            networks: &self.networks,
        }
    }
}

/// A machine under libvirt; off between a power cut and the next power-on.
pub struct LibvirtMachine {
    setup: LibvirtSetup,
    consoles: Mutex<Option<Arc<Consoles>>>,
    current: Mutex<Option<Current>>,
    channel: std::sync::Mutex<Option<AgentChannel>>,
}

/// One power-on.
struct Current {
    pid: u32,
    monitor: Monitor,
    intent: Arc<Intent>,
    orders: mpsc::UnboundedSender<Order>,
    /// Guest TCP port and the host's port that leads to it.
    forwards: Vec<(u16, u16)>,
    supervisor: JoinHandle<()>,
}

impl LibvirtMachine {
    /// Creates the domain and lets it run.
    ///
    /// # Errors
    /// Infrastructure: libvirt refuses it.
    pub async fn start(setup: LibvirtSetup) -> Result<Arc<Self>> {
        fs::create_dir_all(&setup.place.evidence)
            .infrastructure(|| format!("failed to create `{}`", setup.place.evidence.display()))?;
        let consoles = Consoles::start(&setup.state, &setup.rules, &setup.place.evidence, setup.console_limit)?;
        let machine = Arc::new(Self {
            setup,
            consoles: Mutex::new(Some(Arc::new(consoles))),
            current: Mutex::new(None),
            channel: std::sync::Mutex::new(None),
        });
        machine.switch_on(FirstBoot::Disk).await?;
        Ok(machine)
    }

    async fn switch_on(&self, first: FirstBoot) -> Result<()> {
        let mut current = self.current.lock().await;
        // That it is off is told a moment before its supervisor has ended.
        if self.setup.state.off().is_some()
            && let Some(Current { supervisor, .. }) = current.take()
        {
            let _ = supervisor.await;
        }
        if current.as_ref().is_some_and(|current| !current.supervisor.is_finished()) {
            return Err(Error::usage(format!("machine `{}` is on already", self.setup.state.name())));
        }
        let consoles = self.consoles.lock().await.clone();
        let consoles = consoles.ok_or_else(|| Error::infrastructure("the machine has ended with its run"))?;
        let xml = self.setup.domain().xml(first)?;
        let mut keeper = self.start_holder(&xml).await?;
        match self.begin(&keeper, &consoles, xml, first).await {
            Ok(begun) => {
                let Begun { pid, monitor, forwards, supervisor, orders, intent } = begun;
                let supervisor = tokio::spawn(supervisor.run(keeper));
                *current = Some(Current { pid, monitor, intent, orders, forwards, supervisor });
                Ok(())
            }
            Err(error) => {
                keeper.kill().await;
                keeper.exited().await;
                let _ = self.setup.place.keep_stderr();
                Err(error)
            }
        }
    }

    async fn start_holder(&self, xml: &str) -> Result<Keeper> {
        let place = &self.setup.place;
        let evidence = place.evidence.join("domain.xml");
        fs::write(&evidence, xml).infrastructure(|| format!("failed to write `{}`", evidence.display()))?;
        for name in SOCKETS.into_iter().chain([MONITOR, "keeper"]) {
            // Left by the same machine's earlier domain, if its power was cut.
            let _ = fs::remove_file(place.socket(name));
        }
        let spec = KeeperSpec {
            program: std::env::current_exe().infrastructure(|| "failed to find our own program".into())?,
            arguments: vec!["libvirt-holder".into(), format!("{{fd:{MONITOR}}}")],
            sockets: vec![SocketSpec { name: MONITOR.into(), path: place.socket(MONITOR) }],
            servers: Vec::new(),
            stderr: place.stderr(),
            control: place.socket("keeper"),
            record_path: place.record_path.clone(),
            record: place.record.clone(),
            run_folder: place.run_folder.clone(),
        };
        Keeper::start(&spec).await
    }

    /// From a started holder to a running guest: nothing that it will ever print can be missed.
    async fn begin(&self, keeper: &Keeper, consoles: &Arc<Consoles>, xml: String, first: FirstBoot) -> Result<Begun> {
        let setup = &self.setup;
        let place = &setup.place;
        let uri = setup.target.uri();
        let holder = tokio::net::UnixStream::connect(place.socket(MONITOR)).await;
        let holder = holder.infrastructure(|| "failed to connect to the domain's holder".into())?;
        let (monitor, happened) = Monitor::start(holder, &place.evidence.join("libvirt.jsonl"))?;
        let start = Ask::Start { uri: uri.into(), xml, local: !setup.target.is_remote() };
        let what = format!("start `{}` at `{uri}`", setup.mark.domain_name());
        let started = monitor.order(start, &what).await.map_err(|error| explain(error, &place.stderr()))?;
        let Outcome::Started { pid, command_line } = started else {
            return Err(Error::infrastructure(format!("the holder said {started:?} instead of starting its domain")));
        };
        if let [program, arguments @ ..] = command_line.as_slice() {
            let path = place.evidence.join("cmdline.txt");
            fs::write(&path, render(Path::new(program), arguments))
                .infrastructure(|| format!("failed to write `{}`", path.display()))?;
        }
        // QEMU listens before libvirt says that it has started.
        let connect = |name: &str| {
            UnixStream::connect(domain::socket(&place.runtime, name))
                .infrastructure(|| format!("failed to connect to the domain's `{name}` socket"))
        };
        consoles.attach(connect("console")?, Some(connect("console-hvc0")?))?;
        let agent = connect("agent")?;
        agent.set_nonblocking(true).infrastructure(|| "failed to prepare the agent's socket".into())?;
        let agent =
            tokio::net::UnixStream::from_std(agent).infrastructure(|| "failed to take the agent's socket".into())?;
        let (channel, channel_events) = AgentChannel::start(agent);
        *self.channel.lock().expect("nobody panics while holding the channel") = Some(channel.clone());
        setup.state.epoch_began("power-on");
        let firmware = if setup.definition.uefi.is_some() { "uefi" } else { "bios" };
        let pid = pid.unwrap_or_else(|| keeper.pid());
        let started = Kind::MachineStarted {
            pid,
            firmware: firmware.into(),
            command_line_file: format!("machines/{}/domain.xml", setup.state.name()),
        };
        setup.state.report(Severity::Info, started);
        let forwards = self.forwards(&monitor).await?;
        for (guest_port, host_port) in forwards.iter().copied() {
            setup.state.report(Severity::Info, Kind::ForwardOpened { guest_port, host_port });
        }
        if first == FirstBoot::Medium {
            // Once: the order was read for this boot, and is read again at each reset. What was installed then boots.
            let last = setup.definition.medium_last();
            let line = format!("qom-set /machine/peripheral/{MEDIUM} bootindex {last}");
            monitor.order(Ask::Monitor { line }, "change the boot order").await?;
        }
        monitor.done(Ask::Resume {}, "let the machine run").await?;
        let (orders, order_queue) = mpsc::unbounded_channel();
        let intent = Arc::new(Intent::default());
        let supervisor = Supervisor {
            state: setup.state.clone(),
            consoles: consoles.clone(),
            channel,
            channel_events,
            happened,
            orders: order_queue,
            intent: intent.clone(),
            uri: uri.into(),
            stderr: place.stderr(),
        };
        Ok(Begun { pid, monitor, forwards, supervisor, orders, intent })
    }

    async fn forwards(&self, monitor: &Monitor) -> Result<Vec<(u16, u16)>> {
        if self.setup.definition.network.forward.is_empty() {
            return Ok(Vec::new());
        }
        let line = Ask::Monitor { line: "info usernet".into() };
        match monitor.order(line, "tell the forwarded ports").await? {
            Outcome::Text { text } => Ok(parse_forwards(&text)),
            Outcome::Done {} | Outcome::Started { .. } => Ok(Vec::new()),
        }
    }

    /// The present power-on.
    async fn present(&self) -> Result<(Monitor, Arc<Intent>)> {
        let current = self.current.lock().await;
        let off = || Error::usage(format!("machine `{}` is off", self.setup.state.name()));
        let current = current.as_ref().filter(|_| self.setup.state.off().is_none()).ok_or_else(off)?;
        Ok((current.monitor.clone(), current.intent.clone()))
    }

    /// Ends the domain for a reason and waits until it is gone.
    async fn kill(&self, cause: StopCause, why: &'static str) -> Result<()> {
        let Some(Current { monitor, intent, orders, supervisor, .. }) = self.current.lock().await.take() else {
            return Ok(());
        };
        if !supervisor.is_finished() && self.setup.state.off().is_none() {
            intent.end(cause, why);
            if monitor.done(Ask::Destroy {}, "end the domain").await.is_err() {
                // Without its holder the domain ends, too: by libvirt, or by the holder where that is gone.
                let _ = orders.send(Order::Kill);
            }
        }
        supervisor.await.infrastructure(|| format!("the supervisor of `{}` failed", self.setup.state.name()))
    }

    /// Ends the recording; the machine's sockets are free afterwards.
    async fn finish_consoles(&self) {
        if let Some(consoles) = self.consoles.lock().await.take().and_then(Arc::into_inner) {
            consoles.finish().await;
        }
    }

    fn cannot<T>(&self, what: &str) -> BoxFuture<'_, Result<T>> {
        let error = Error::usage(format!("machine `{}` is libvirt's: {what}", self.setup.state.name()));
        async { Err(error.hint("`bootproof doctor --backends` tells what each backend can do")) }.boxed()
    }
}

/// A domain that runs, and nobody watches yet.
struct Begun {
    pid: u32,
    monitor: Monitor,
    forwards: Vec<(u16, u16)>,
    supervisor: Supervisor,
    orders: mpsc::UnboundedSender<Order>,
    intent: Arc<Intent>,
}

impl Machine for LibvirtMachine {
    fn channel(&self) -> Option<Arc<dyn Channel>> {
        self.agent().map(|agent| Arc::new(agent) as Arc<dyn Channel>)
    }

    fn agent(&self) -> Option<AgentChannel> {
        self.channel.lock().expect("nobody panics while holding the channel").clone()
    }

    fn tap_console<'a>(&'a self, console: &'a str) -> BoxFuture<'a, Option<ConsoleTap>> {
        async move { self.consoles.lock().await.as_ref()?.tap(console) }.boxed()
    }

    fn press_power_button(&self) -> BoxFuture<'_, Result<()>> {
        async {
            let (monitor, intent) = self.present().await?;
            intent.button.store(true, Ordering::Relaxed);
            monitor.done(Ask::PressPowerButton {}, "press the power button").await
        }
        .boxed()
    }

    fn reset(&self) -> BoxFuture<'_, Result<()>> {
        async {
            let (monitor, intent) = self.present().await?;
            intent.reset.store(true, Ordering::Relaxed);
            let done = monitor.done(Ask::Reset {}, "reset the machine").await;
            if done.is_err() {
                intent.reset.store(false, Ordering::Relaxed);
            }
            done
        }
        .boxed()
    }

    fn cut(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>> {
        async {
            self.kill(StopCause::Requested, "its power was cut").await?;
            Ok(BTreeMap::new())
        }
        .boxed()
    }

    fn power_on(&self, first: FirstBoot) -> BoxFuture<'_, Result<()>> {
        if first == FirstBoot::Medium && self.setup.definition.medium.is_none() {
            let message = format!("machine `{}` has no medium to boot", self.setup.state.name());
            return async { Err(Error::usage(message).hint("its image has to be an `iso`")) }.boxed();
        }
        self.switch_on(first).boxed()
    }

    fn save(&self, _: PathBuf) -> BoxFuture<'_, Result<()>> {
        self.cannot("it cannot be saved")
    }

    fn restore<'a>(&'a self, _: &'a Path, _: &'a str) -> BoxFuture<'a, Result<()>> {
        self.cannot("it cannot be restored")
    }

    fn pause(&self, paused: bool) -> BoxFuture<'_, Result<()>> {
        async move {
            let (monitor, _) = self.present().await?;
            match paused {
                true => monitor.done(Ask::Pause {}, "pause the machine").await,
                false => monitor.done(Ask::Resume {}, "let the machine run").await,
            }
        }
        .boxed()
    }

    fn slow_disk<'a>(&'a self, disk: &'a str, bytes_per_second: Option<u64>) -> BoxFuture<'a, Result<()>> {
        async move {
            let index = self.setup.definition.disks.iter().position(|one| one.serial == disk);
            let missing = || Error::usage(format!("machine `{}` has no disk `{disk}`", self.setup.state.name()));
            let device = domain::device(index.ok_or_else(missing)?);
            let (monitor, _) = self.present().await?;
            let throttle = Ask::Throttle { device, bytes_per_second: bytes_per_second.unwrap_or(0) };
            monitor.done(throttle, "bound the disk").await
        }
        .boxed()
    }

    fn fail_disk<'a>(&'a self, _: &'a str, _: Option<DiskOperations>) -> BoxFuture<'a, Result<()>> {
        self.cannot("its disks cannot fail")
    }

    fn end(&self) -> BoxFuture<'_, Result<()>> {
        async {
            let ended = self.kill(StopCause::RunEnded, "the run is over").await;
            self.finish_consoles().await;
            ended.and(self.setup.place.keep_stderr())
        }
        .boxed()
    }

    fn keep(&self, folder: PathBuf) -> BoxFuture<'_, Result<u32>> {
        async move {
            let name = self.setup.state.name();
            let Some(Current { pid, orders, forwards, supervisor, monitor, .. }) = self.current.lock().await.take()
            else {
                return Err(Error::usage(format!("machine `{name}` is off: there is nothing to keep")));
            };
            let (sender, keeper) = tokio::sync::oneshot::channel();
            let gone = || Error::infrastructure(format!("machine `{name}` ended before it could be kept"));
            orders.send(Order::HandOver(sender)).map_err(|_| gone())?;
            let keeper = keeper.await.map_err(|_| gone())?;
            let _ = supervisor.await;
            drop(monitor);
            *self.channel.lock().expect("nobody panics while holding the channel") = None;
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
