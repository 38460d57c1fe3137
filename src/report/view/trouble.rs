//! What went wrong, in the four classes that decide a verdict.

use crate::event::{Failure, FailureReason};

/// The class of a trouble, in their order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// QEMU died by itself, the harness, the host.
    Infrastructure,
    /// A reserved amount of disk, memory or time was crossed, or the host ran out.
    Budget,
    /// A signal asked the run to stop.
    Interrupted,
    /// The product.
    Failed,
}

impl TroubleKind {
    /// Who is to blame for a step that failed for this reason.
    pub fn of(reason: FailureReason) -> Self {
        match reason {
            FailureReason::MachineDied | FailureReason::Harness => TroubleKind::Infrastructure,
            FailureReason::ConsoleCapped => TroubleKind::Budget,
            FailureReason::Deadline
            | FailureReason::ForbiddenMarker
            | FailureReason::OutOfOrder
            | FailureReason::FailurePattern
            | FailureReason::MachineOff
            | FailureReason::UnexpectedReboot
            | FailureReason::ExitStatus
            | FailureReason::OutputMismatch
            | FailureReason::Refused
            | FailureReason::Cancelled => TroubleKind::Failed,
        }
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// The event that said so.
    pub sequence: u64,
    /// Nanoseconds since the run began.
    pub at_ns: u64,
    /// It decides the verdict; a weighted gate that fails does not.
    pub decisive: bool,
    /// One line for people.
    pub message: String,
    pub machine: Option<String>,
    /// Index of the step it happened in.
    pub step: Option<usize>,
    pub gate: Option<String>,
    /// What the step said about it.
    pub failure: Option<Failure>,
}

impl Trouble {
    /// It follows from another trouble and explains nothing by itself.
    pub fn is_consequence(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.reason == FailureReason::Cancelled)
    }
}
