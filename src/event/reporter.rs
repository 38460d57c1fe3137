//! How every stage reports facts: a reporter is a machine's (or the run's) way to the dispatcher, which alone turns
//! reports into events.

use std::sync::mpsc::SyncSender;

use super::{Kind, Severity};

/// A fact on its way to the dispatcher, not yet numbered or on disk.
#[derive(Clone, Debug)]
pub struct Report {
    pub machine: Option<String>,
    pub epoch: Option<u32>,
    pub severity: Severity,
    pub correlation: Option<String>,
    pub kind: Kind,
}

/// Sends reports. The queue is bounded: a guest that floods its console is slowed down, not buffered.
#[derive(Clone)]
pub struct Reporter {
    queue: SyncSender<Report>,
    machine: Option<String>,
    correlation: Option<String>,
}

impl Reporter {
    pub fn new(queue: SyncSender<Report>) -> Self {
        Self { queue, machine: None, correlation: None }
    }

    /// The same queue, in a machine's name.
    pub fn for_machine(&self, name: &str) -> Self {
        Self { machine: Some(name.into()), ..self.clone() }
    }

    /// The same queue, for facts that belong together.
    pub fn correlated(&self, correlation: impl Into<String>) -> Self {
        Self { correlation: Some(correlation.into()), ..self.clone() }
    }

    pub fn info(&self, epoch: Option<u32>, kind: Kind) {
        self.report(Severity::Info, epoch, kind);
    }

    pub fn warning(&self, epoch: Option<u32>, kind: Kind) {
        self.report(Severity::Warning, epoch, kind);
    }

    pub fn error(&self, epoch: Option<u32>, kind: Kind) {
        self.report(Severity::Error, epoch, kind);
    }

    /// A report that comes after the log was closed is dropped: the run is over.
    pub fn report(&self, severity: Severity, epoch: Option<u32>, kind: Kind) {
        let report =
            Report { machine: self.machine.clone(), epoch, severity, correlation: self.correlation.clone(), kind };
        let _ = self.queue.send(report);
    }
}
