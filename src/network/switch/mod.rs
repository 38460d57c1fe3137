//! The switch of one network: a thread of its own, and the handle by which it is told what to do.

mod engine;
mod outbox;
mod port;
mod statistics;

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};

use self::engine::{Command, Engine};
use super::capture::{CaptureOptions, CaptureSummary, Recorder, RunningCapture};
use super::fabric::Fabric;
use super::fault::{Fault, FaultCounters, FaultId};
use super::held::HeldFrames;
use super::links::LinkSelection;
use crate::error::{Context, Error, Result};

pub use self::port::{SOURCE_LIMIT, STALL};
pub use self::statistics::PortStatistics;

/// What a switch has to say, on its own thread or, where a recording ends, on that one's. It must not call the switch.
#[derive(Debug)]
pub enum SwitchReport {
    /// A machine has connected.
    PortUp { port: String },
    /// A machine's connection has ended; it may come again.
    PortDown { port: String, why: Disconnection },
    /// The recording's file is finished. `reason` is `None` where it was asked to end.
    CaptureEnded { bytes: u64, frames: u64, missed: u64, reason: Option<String> },
    /// Something on the host failed. The network may not work from here on.
    Failed { detail: String },
}

/// Why a machine is not connected any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnection {
    /// The machine's side ended: its QEMU went away.
    Ended,
    /// Another connection to the same port came.
    Replaced,
    /// It sent a length that no frame has; where the next one begins nobody can know.
    Garbage { length: u32 },
    /// The socket failed.
    Failed(String),
}

type Report = Arc<dyn Fn(SwitchReport) + Send + Sync>;

/// What a switch is made of.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// The network's name, in errors and as a part of what chance follows from.
    pub network: String,
    /// The run's seed.
    pub seed: u64,
    /// Bytes of memory that frames which wait because of a fault may take, in all and on one directed link.
    pub held_limit: usize,
    pub held_link_limit: usize,
}

impl SwitchOptions {
    /// With room for a tenth of a second at a gigabit per second on one link, and for four such links in all.
    pub fn new(network: impl Into<String>, seed: u64) -> Self {
        Self { network: network.into(), seed, held_limit: 64 << 20, held_link_limit: 16 << 20 }
    }
}

/// A layer-2 network that is being switched. It ends with this.
pub struct Switch {
    network: String,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// The wall time at which the switch's clock began, in nanoseconds since 1970.
    epoch: u64,
    report: Report,
    capture: Mutex<Option<RunningCapture>>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Switch").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Switch {
    /// Starts a network without ports. Reports must be taken quickly: while they are, nothing is switched.
    pub fn start(options: &SwitchOptions, report: impl Fn(SwitchReport) + Send + Sync + 'static) -> Result<Self> {
        let failed = || format!("failed to start the network `{}`", options.network);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).infrastructure(failed)?;
        let wake = Arc::new(wake);
        let (commands, receiver) = channel();
        let held = HeldFrames::new(options.held_limit, options.held_link_limit);
        let fabric = Fabric::new(&options.network, options.seed, held);
        let report: Report = Arc::new(report);
        let (start, wall) = (Instant::now(), SystemTime::now());
        let epoch = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let engine = Engine::new(fabric, start, wake.clone(), receiver, report.clone());
        let alarm = Alarm(report.clone());
        let run = move || {
            let _alarm = alarm;
            engine.run();
        };
        let thread = std::thread::Builder::new().name("network".into()).spawn(run).infrastructure(failed)?;
        let (network, thread) = (options.network.clone(), Some(thread));
        Ok(Self { network, commands, wake, thread, epoch, report, capture: Mutex::new(None) })
    }

    pub fn network(&self) -> &str {
        &self.network
    }

    /// Adds a port that a machine connects to: `-netdev stream,server=off,addr.type=unix,addr.path=PATH`. It may go and
    /// come as it likes (its power is cut, its QEMU is another); a second connection waits until the first has ended. The path must be short (unix paths end at 108 bytes), in a folder that is the run's alone, and free.
    pub fn listen(&self, port: &str, path: &Path) -> Result<()> {
        let failed =
            || format!("failed to open the port of `{port}` on the network `{}` at `{}`", self.network, path.display());
        let listener = UnixListener::bind(path).infrastructure(failed)?;
        let (name, path) = (port.to_owned(), path.to_owned());
        self.call(move |engine| {
            let port = engine.port(&name);
            engine.listen(port, listener, path)
        })?
        .infrastructure(failed)
    }

    /// Adds a port, if need be, and connects it with the other end of a stream socket; a connection that it has ends.
    pub fn attach(&self, port: &str, stream: UnixStream) -> Result<()> {
        let name = port.to_owned();
        self.call(move |engine| {
            let port = engine.port(&name);
            engine.attach(port, stream)
        })?
        .infrastructure(|| format!("failed to connect `{port}` to the network `{}`", self.network))
    }

    /// Sets a fault on links; it acts on whatever comes next, and a partition also on what is on its way. The label
    /// (a step's name) is what the fault's chance follows from, together with the run's seed, the network and the link:
    /// the same label set again begins the same chance again.
    ///
    /// Usage errors: numbers that make no sense, a port that there is not, a selection of no link.
    pub fn set_fault(&self, fault: Fault, label: &str, links: &LinkSelection) -> Result<FaultId> {
        fault.validate()?;
        let (label, links, network) = (label.to_owned(), links.clone(), self.network.clone());
        self.call(move |engine| {
            let links = links.resolve(&network, engine.fabric.names())?;
            Ok(engine.fabric.set_fault(fault, &label, &links))
        })?
    }

    /// Takes a fault away and gives what it did. What waited only because of it is delivered at once, in order. `None`
    /// where there is no such fault (any more).
    pub fn heal(&self, fault: FaultId) -> Result<Option<FaultCounters>> {
        self.call(move |engine| {
            let (counters, released) = engine.fabric.heal(fault)?;
            engine.release(released);
            Some(counters)
        })
    }

    /// What a fault has done so far; `None` where there is no such fault (any more).
    pub fn fault_counters(&self, fault: FaultId) -> Result<Option<FaultCounters>> {
        self.call(move |engine| engine.fabric.counters(fault))
    }

    /// What there was on each port, in the order in which they were added.
    pub fn statistics(&self) -> Result<Vec<PortStatistics>> {
        self.call(|engine| engine.statistics())
    }

    /// Frames that wait on links because of faults.
    pub fn waiting(&self) -> Result<usize> {
        self.call(|engine| engine.fabric.waiting())
    }

    /// Begins to record the network. Its end is reported, whatever ends it.
    pub fn start_capture(&self, options: &CaptureOptions) -> Result<()> {
        let mut capture = self.capture.lock().expect("nobody panics while holding it");
        if capture.is_some() {
            return Err(Error::usage(format!("the network `{}` is being recorded already", self.network)));
        }
        let report = self.report.clone();
        let (mut recorder, running) = Recorder::start(options, self.epoch, move |summary| report(summary.into()))?;
        self.call(move |engine| {
            engine.fabric.names().iter().for_each(|name| recorder.add_interface(name));
            engine.recorder = Some(recorder);
        })?;
        *capture = Some(running);
        Ok(())
    }

    /// Ends the recording and waits until its file is finished; `None` where there is none.
    pub fn stop_capture(&self) -> Result<Option<CaptureSummary>> {
        let Some(running) = self.capture.lock().expect("nobody panics while holding it").take() else {
            return Ok(None);
        };
        self.call(|engine| engine.recorder = None)?;
        running.join().map(Some)
    }

    /// Does something on the switch's thread and waits for its answer, which takes as long as handling what has just
    /// come.
    fn call<T: Send + 'static>(&self, command: impl FnOnce(&mut Engine) -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = channel();
        let command: Command = Box::new(move |engine| {
            // Whoever asked waits for it.
            let _ = answer.send(command(engine));
        });
        let gone = || Error::infrastructure(format!("the network `{}` is not switched any more", self.network));
        self.commands.send(command).map_err(|_| gone())?;
        // Only a counter at its limit could refuse, and that would wake the thread as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        answered.recv().map_err(|_| gone())
    }
}

/// A network whose thread panics must not just fall silent.
struct Alarm(Report);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)(SwitchReport::Failed { detail: "the network's thread panicked".into() });
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.call(|engine| engine.running = false);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(capture) = self.capture.get_mut().ok().and_then(Option::take) {
            let _ = capture.join();
        }
    }
}

impl From<&CaptureSummary> for SwitchReport {
    fn from(summary: &CaptureSummary) -> Self {
        use super::capture::CaptureEnd;
        let reason = match &summary.end {
            CaptureEnd::Stopped => None,
            CaptureEnd::LimitReached => Some("its limit was reached".into()),
            CaptureEnd::Failed(error) => Some(error.chain()),
        };
        SwitchReport::CaptureEnded { bytes: summary.bytes, frames: summary.frames, missed: summary.missed, reason }
    }
}
