//! What a run and the process that holds its domain say to each other: one JSON document a line.

use serde::{Deserialize, Serialize};

/// From the run. Each has one answer, in the same order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Once, and first: create the domain, its processors stopped.
    Start {
        uri: String,
        xml: String,
        /// Its machines run on this host: what libvirt has left behind can be ended without it.
        local: bool,
    },
    /// Let the guest's processors run.
    Resume {},
    Pause {},
    Reset {},
    PressPowerButton {},
    /// End the domain at once; the answer comes when it is gone.
    Destroy {},
    /// Bound a disk, by libvirt's name for it, in bytes per second; 0 for no bound.
    Throttle {
        device: String,
        bytes_per_second: u64,
    },
    /// A line for QEMU's human monitor.
    Monitor {
        line: String,
    },
}

/// To the run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// The answer to an order: what it gave, or why it was refused.
    Answer(Result<Outcome, String>),
    /// The guest began to boot anew.
    Rebooted {},
    /// The guest was asked to go off, or went off, by libvirt's word for it (`guest`, `host`).
    ShuttingDown { by: String },
    /// The guest's kernel said that it had panicked.
    Panicked {},
    /// A request to a disk failed.
    DiskFailed { device: String, reason: String },
    /// The domain is gone, by libvirt's word for why.
    Stopped { why: StopReason },
    /// libvirt is gone: nothing more is known of the domain from it.
    ConnectionLost { reason: String },
}

/// What an order gave.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done {},
    /// `pid`: QEMU's process, where it is seen from here.
    Started {
        pid: Option<u32>,
        /// QEMU's command line, where it is seen from here.
        command_line: Vec<String>,
    },
    Text {
        text: String,
    },
}

/// libvirt's details of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The guest went off.
    Shutdown,
    /// Somebody ended it through libvirt.
    Destroyed,
    /// QEMU or the guest crashed.
    Crashed,
    Failed,
    /// Migrated, saved, or what a newer libvirt says.
    Other,
}
