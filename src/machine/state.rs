//! What is known of one machine while it runs: its epoch, what its consoles showed, and who waits for what.
//!
//! Fed by the machine's backend in the order in which things happened; a fact is reported to the dispatcher before a wait
//! can end by it, so the log never tells an effect before its cause.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, mpsc, watch};

use crate::event::{Kind, MarkerStanding, Reporter, Severity, StopCause};
use crate::marker::CompiledRules;
use crate::marker::{Found, LineFinding, MachineEvent, MarkerHistory, Wait, WaitProgress};

/// Shared by a machine's backend and the executor.
pub struct MachineState {
    name: String,
    reporter: Reporter,
    inner: Mutex<Inner>,
    /// Told when a marker's line came damaged.
    damaged: Notify,
    /// Epoch, and whether the machine is off: for who waits for either.
    power: watch::Sender<(u32, bool)>,
}

struct Inner {
    history: MarkerHistory,
    /// From 1; 0 before the first power-on.
    epoch: u32,
    /// Why the machine is off; `None` while it is on.
    off: Option<Off>,
    waits: Vec<ActiveWait>,
    next_wait: u64,
}

#[derive(Clone, Debug)]
struct Off {
    cause: StopCause,
    detail: String,
}

struct ActiveWait {
    id: u64,
    wait: Wait,
    progress: mpsc::UnboundedSender<WaitProgress>,
}

impl MachineState {
    pub fn new(name: &str, rules: Arc<CompiledRules>, reporter: &Reporter) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            reporter: reporter.for_machine(name),
            inner: Mutex::new(Inner {
                history: MarkerHistory::new(rules),
                epoch: 0,
                off: None,
                waits: Vec::new(),
                next_wait: 0,
            }),
            damaged: Notify::new(),
            power: watch::Sender::new((0, true)),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine's own reporter.
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    pub fn epoch(&self) -> u32 {
        self.lock().epoch
    }

    /// Reports a fact in the machine's name and present epoch.
    pub fn report(&self, severity: Severity, kind: Kind) {
        let epoch = self.lock().epoch;
        self.reporter.report(severity, Some(epoch), kind);
    }

    /// A console showed something that means something.
    pub fn observe(&self, finding: LineFinding) {
        let mut inner = self.lock();
        let observed = inner.history.observe(finding);
        let finding = &observed.finding;
        if observed.worth_recording {
            let (severity, kind) = match &finding.found {
                Found::Marker(marker) => {
                    let kind = Kind::MarkerSeen {
                        name: marker.name.clone(),
                        node: marker.node.clone(),
                        arguments: marker.arguments.clone(),
                        marker_sequence: marker.sequence,
                        standing: marker.standing,
                        evidence: finding.evidence.clone(),
                    };
                    let counted = marker.standing == MarkerStanding::Counted;
                    if marker.standing == MarkerStanding::Damaged {
                        self.damaged.notify_one();
                    }
                    (if counted { Severity::Info } else { Severity::Warning }, Some(kind))
                }
                Found::FailurePattern { name } => {
                    let kind = Kind::FailurePatternSeen {
                        pattern: name.to_string(),
                        line: finding.text.clone(),
                        evidence: finding.evidence.clone(),
                    };
                    (Severity::Error, Some(kind))
                }
                Found::ConsoleMatch { .. } => (Severity::Info, None),
            };
            if let Some(kind) = kind {
                self.reporter.report(severity, Some(inner.epoch), kind);
            }
        }
        let Inner { history, waits, .. } = &mut *inner;
        waits.retain_mut(|active| {
            let progress = active.wait.advance(history);
            active.tell(progress)
        });
    }

    /// Returns when a marker's line has come damaged since this returned last: then it may be asked for again.
    pub async fn marker_damaged(&self) {
        self.damaged.notified().await;
    }

    /// A new boot began.
    pub fn epoch_began(&self, origin: &str) {
        let mut inner = self.lock();
        inner.epoch += 1;
        inner.off = None;
        inner.history.begin_epoch();
        self.reporter.info(Some(inner.epoch), Kind::EpochBegan { origin: origin.into() });
        self.power.send_replace((inner.epoch, false));
        // The first boot is nobody's surprise.
        if inner.epoch > 1 {
            inner.machine_event(&MachineEvent::EpochBegan { origin: origin.into() });
        }
    }

    /// The machine went off, for whatever reason; once per power-on.
    pub fn stopped(&self, cause: StopCause, detail: &str) {
        let mut inner = self.lock();
        if inner.off.is_some() {
            return;
        }
        inner.off = Some(Off { cause, detail: detail.into() });
        let severity = if cause == StopCause::Died { Severity::Error } else { Severity::Info };
        self.reporter.report(severity, Some(inner.epoch), Kind::MachineStopped { cause, detail: detail.into() });
        let event = off_event(cause, detail);
        inner.machine_event(&event);
        // Who waits for the end itself has it now.
        inner.waits.clear();
        self.power.send_replace((inner.epoch, true));
    }

    /// A console has reached its limit: from now on it is blind.
    pub fn console_capped(&self, limit: u64) {
        let mut inner = self.lock();
        inner.history.console_capped();
        self.reporter.error(Some(inner.epoch), Kind::ConsoleCapped { limit });
        inner.machine_event(&MachineEvent::ConsoleCapped { limit });
    }

    /// Why the machine is off, if it is.
    pub fn off(&self) -> Option<(StopCause, String)> {
        self.lock().off.as_ref().map(|off| (off.cause, off.detail.clone()))
    }

    /// Name of the last marker that counted.
    pub fn last_marker(&self) -> Option<String> {
        self.lock().history.last_marker().map(str::to_owned)
    }

    /// Returns once the machine is off.
    pub async fn until_off(&self) {
        // The sender lives as long as this does.
        let _ = self.power.subscribe().wait_for(|(_, off)| *off).await;
    }

    /// Returns once the machine has begun a boot after this one.
    pub async fn until_epoch_after(&self, epoch: u32) {
        let _ = self.power.subscribe().wait_for(|(now, _)| *now > epoch).await;
    }

    /// Starts a wait. Its progress arrives on the handle; what has been shown since the last wait counts.
    pub fn start_wait(self: &Arc<Self>, mut wait: Wait) -> WaitHandle {
        let (sender, progress) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        let id = inner.next_wait;
        inner.next_wait += 1;
        let first = wait.start(&mut inner.history);
        let mut active = ActiveWait { id, wait, progress: sender };
        let mut goes_on = active.tell(first);
        if goes_on && let Some(off) = &inner.off {
            let event = off_event(off.cause, &off.detail);
            if let Some(end) = active.wait.machine_event(&event, &inner.history) {
                active.tell(vec![WaitProgress::Ended(end)]);
            }
            goes_on = false;
        }
        if goes_on {
            inner.waits.push(active);
        }
        WaitHandle { state: self.clone(), id, progress }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while a machine's state is locked")
    }
}

fn off_event(cause: StopCause, detail: &str) -> MachineEvent {
    match cause {
        StopCause::Died => MachineEvent::Died { detail: detail.into() },
        StopCause::GuestShutdown | StopCause::Requested | StopCause::RunEnded => {
            MachineEvent::Stopped { detail: detail.into() }
        }
    }
}

impl Inner {
    fn machine_event(&mut self, event: &MachineEvent) {
        let Inner { history, waits, .. } = self;
        waits.retain_mut(|active| match active.wait.machine_event(event, history) {
            Some(end) => active.tell(vec![WaitProgress::Ended(end)]),
            None => true,
        });
    }
}

impl ActiveWait {
    /// Hands progress over; false when the wait is over.
    fn tell(&mut self, progress: Vec<WaitProgress>) -> bool {
        for one in progress {
            // Nobody listens any more: the wait was given up.
            if self.progress.send(one).is_err() {
                return false;
            }
        }
        !self.wait.is_over()
    }
}

/// A wait that is under way; dropping it gives the wait up.
pub struct WaitHandle {
    state: Arc<MachineState>,
    id: u64,
    progress: mpsc::UnboundedReceiver<WaitProgress>,
}

impl WaitHandle {
    /// The next progress; `None` once the wait is over, or the machine off and the wait content with that.
    pub async fn next(&mut self) -> Option<WaitProgress> {
        self.progress.recv().await
    }

    /// The deadline of what is due has passed: gives the wait's end, unless it has just come to one by itself.
    pub fn deadline_passed(&mut self) -> WaitProgress {
        if let Ok(progress) = self.progress.try_recv() {
            return progress;
        }
        let mut inner = self.state.lock();
        let Inner { history, waits, .. } = &mut *inner;
        let mut wait = match waits.iter().position(|active| active.id == self.id) {
            Some(index) => waits.remove(index).wait,
            None => Wait::watch(),
        };
        WaitProgress::Ended(wait.deadline_passed(history))
    }
}

impl Drop for WaitHandle {
    fn drop(&mut self) {
        self.state.lock().waits.retain(|active| active.id != self.id);
    }
}
