//! The state machine of a wait on one machine: what is due, what was met, and what ends it early.

use std::sync::Arc;

use super::history::MarkerHistory;
use super::line::Marker;
use super::rules::{Found, LineFinding};
use crate::event::{Evidence, Failure, FailureReason};
use crate::lane::model::{Expectation, Expected};

/// One wait on one machine. Every wait is one of these, also those that expect nothing on the console (a command that
/// runs, a hold): a failure pattern ends it all the same.
///
/// A marker that came before the wait began but after the last match of the wait before counts. Each expectation needs
/// a finding of its own; the one that is due is looked at first, and the marker of a later one before its turn ends the
/// wait as out of order.
#[derive(Clone, Debug)]
pub struct Wait {
    expectations: Vec<Expectation>,
    forbid: Vec<String>,
    across_reboot: bool,
    until_off: bool,
    past_failures: bool,
    met: usize,
    /// The next entry of the history to look at.
    position: u64,
    ended: bool,
}

/// Something that happened to the machine rather than on its console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// A new boot began. Tell the history first ([`MarkerHistory::begin_epoch`]).
    EpochBegan { origin: String },
    /// It went off.
    Stopped { detail: String },
    /// Its QEMU ended by itself.
    Died { detail: String },
    /// A console reached its limit. Tell the history too ([`MarkerHistory::console_capped`]).
    ConsoleCapped { limit: u64 },
}

/// What came of looking.
#[derive(Clone, Debug, PartialEq)]
pub enum WaitProgress {
    /// The expectation of this index was met, by this.
    Met { expectation: usize, finding: Arc<LineFinding> },
    /// All expectations are met; the wait is over.
    Done,
    /// The wait cannot be met any more.
    Ended(WaitEnd),
}

/// Why a wait ended without being met.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitEnd {
    pub reason: FailureReason,
    /// One line for people.
    pub message: String,
    /// What was due.
    pub expected: Option<String>,
    /// The last marker that counted.
    pub last_marker: Option<String>,
    pub evidence: Option<Evidence>,
}

impl WaitEnd {
    pub fn into_failure(self, machine: &str, waited_ms: u64) -> Failure {
        Failure {
            reason: self.reason,
            message: self.message,
            machine: Some(machine.to_owned()),
            expected: self.expected,
            last_marker: self.last_marker,
            waited_ms,
            evidence: self.evidence,
        }
    }
}

impl Wait {
    /// Waits for these, in this order; a marker in `forbid` ends the wait. Without expectations it is never `Done`.
    pub fn new(expectations: &[Expectation], forbid: &[String]) -> Self {
        Self {
            expectations: expectations.to_vec(),
            forbid: forbid.to_vec(),
            across_reboot: false,
            until_off: false,
            past_failures: false,
            met: 0,
            position: 0,
            ended: false,
        }
    }

    /// Expects nothing on the console and watches for failures.
    pub fn watch() -> Self {
        Self::new(&[], &[])
    }

    /// The machine is meant to reboot: a new epoch does not end the wait.
    pub fn across_reboot(mut self) -> Self {
        self.across_reboot = true;
        self
    }

    /// The machine is meant to go off: that does not end the wait.
    pub fn until_off(mut self) -> Self {
        self.until_off = true;
        self
    }

    /// Failure patterns do not end the wait: for steps that collect what is needed to understand a failure.
    pub fn past_failures(mut self) -> Self {
        self.past_failures = true;
        self
    }

    /// Begins, with what the machine has shown since the wait before was satisfied.
    pub fn start(&mut self, history: &mut MarkerHistory) -> Vec<WaitProgress> {
        self.position = history.cursor();
        if history.is_capped() {
            let message = "the console has reached its limit and is not recorded any more".into();
            let end = self.end(FailureReason::ConsoleCapped, message, None, history);
            return vec![WaitProgress::Ended(end)];
        }
        self.advance(history)
    }

    /// Looks at what the history has got since; to be called after each [`MarkerHistory::observe`].
    pub fn advance(&mut self, history: &mut MarkerHistory) -> Vec<WaitProgress> {
        let mut progress = Vec::new();
        while !self.ended
            && let Some((position, finding)) = history.next(self.position)
        {
            self.position = position + 1;
            match self.consider(&finding, history) {
                Step::Nothing => {}
                Step::Met => {
                    history.advance_cursor(self.position);
                    progress.push(WaitProgress::Met { expectation: self.met, finding });
                    self.met += 1;
                    if self.met == self.expectations.len() {
                        self.ended = true;
                        progress.push(WaitProgress::Done);
                    }
                }
                Step::Ended(reason, message) => {
                    history.advance_cursor(self.position);
                    let end = self.end(reason, message, Some(finding.evidence.clone()), history);
                    progress.push(WaitProgress::Ended(end));
                }
            }
        }
        progress
    }

    /// What a machine's event does to the wait: ends it, or nothing.
    pub fn machine_event(&mut self, event: &MachineEvent, history: &MarkerHistory) -> Option<WaitEnd> {
        if self.ended {
            return None;
        }
        let (reason, message) = match event {
            MachineEvent::EpochBegan { .. } if self.across_reboot => return None,
            MachineEvent::Stopped { .. } if self.until_off => return None,
            MachineEvent::EpochBegan { origin } => {
                (FailureReason::UnexpectedReboot, format!("the machine booted anew ({origin})"))
            }
            MachineEvent::Stopped { detail } => (FailureReason::MachineOff, format!("the machine went off ({detail})")),
            MachineEvent::Died { detail } => (FailureReason::MachineDied, format!("the machine died ({detail})")),
            MachineEvent::ConsoleCapped { limit } => {
                (FailureReason::ConsoleCapped, format!("the console reached its limit of {limit} bytes"))
            }
        };
        Some(self.end(reason, message, None, history))
    }

    /// The deadline of what is due has passed.
    pub fn deadline_passed(&mut self, history: &MarkerHistory) -> WaitEnd {
        let message = match self.due().map(|expectation| &expectation.what) {
            Some(what @ Expected::Marker { name, .. }) => match history.damaged(name) {
                0 => format!("{} did not come in time", describe(what)),
                1 => format!("{} did not come in time; one line with that name came damaged", describe(what)),
                count => format!("{} did not come in time; {count} lines with that name came damaged", describe(what)),
            },
            Some(what @ Expected::Console { .. }) => format!("{} did not come in time", describe(what)),
            None => "the deadline passed".into(),
        };
        self.end(FailureReason::Deadline, message, None, history)
    }

    /// Index of the expectation that is due.
    pub fn due_index(&self) -> Option<usize> {
        (self.met < self.expectations.len()).then_some(self.met)
    }

    /// The expectation that is due; its `within` runs from the one before.
    pub fn due(&self) -> Option<&Expectation> {
        self.expectations.get(self.met)
    }

    /// Done or ended.
    pub fn is_over(&self) -> bool {
        self.ended
    }

    fn consider(&self, finding: &LineFinding, history: &MarkerHistory) -> Step {
        match &finding.found {
            Found::FailurePattern { .. } if self.past_failures => Step::Nothing,
            Found::FailurePattern { name } => {
                Step::Ended(FailureReason::FailurePattern, format!("failure pattern `{name}`: {}", finding.text))
            }
            Found::ConsoleMatch { pattern } => match self.due().map(|expectation| &expectation.what) {
                Some(Expected::Console { pattern: wanted }) if **wanted == **pattern => Step::Met,
                _ => Step::Nothing,
            },
            Found::Marker(marker) => self.consider_marker(marker, history.rules().machine()),
        }
    }

    fn consider_marker(&self, marker: &Marker, machine: &str) -> Step {
        // What another node's name is attached to says nothing about this machine.
        if marker.node.as_deref().is_some_and(|node| node != machine) {
            return Step::Nothing;
        }
        if self.forbid.contains(&marker.name) {
            return Step::Ended(FailureReason::ForbiddenMarker, format!("forbidden marker `{}`", marker.name));
        }
        let mut outstanding = self.expectations[self.met..].iter().map(|expectation| &expectation.what);
        let Some(due) = outstanding.next() else { return Step::Nothing };
        if fits(due, marker) {
            return Step::Met;
        }
        if outstanding.any(|later| fits(later, marker)) {
            let message = format!("marker `{}` came before {}, which was due", marker.name, describe(due));
            return Step::Ended(FailureReason::OutOfOrder, message);
        }
        Step::Nothing
    }

    fn end(
        &mut self,
        reason: FailureReason,
        message: String,
        evidence: Option<Evidence>,
        history: &MarkerHistory,
    ) -> WaitEnd {
        self.ended = true;
        WaitEnd {
            reason,
            message,
            expected: self.due().map(|expectation| describe(&expectation.what)),
            last_marker: history.last_marker().map(str::to_owned),
            evidence,
        }
    }
}

enum Step {
    Nothing,
    Met,
    Ended(FailureReason, String),
}

/// Name and arguments are what was asked; further arguments do not matter.
fn fits(expected: &Expected, marker: &Marker) -> bool {
    match expected {
        Expected::Marker { name, arguments } => {
            *name == marker.name && arguments.iter().all(|(key, value)| marker.arguments.get(key) == Some(value))
        }
        Expected::Console { .. } => false,
    }
}

/// An expectation in words.
fn describe(expected: &Expected) -> String {
    match expected {
        Expected::Marker { name, arguments } if arguments.is_empty() => format!("marker `{name}`"),
        Expected::Marker { name, arguments } => {
            let arguments: Vec<_> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("marker `{name} {}`", arguments.join(" "))
        }
        Expected::Console { pattern } => format!("console line matching `{pattern}`"),
    }
}
