//! What a guest can be asked to wait for, and what came of it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A condition to wait for. Answered at once when it holds already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitRequest {
    pub condition: Condition,
    /// The agent answers at the latest after this long, with what it has seen last.
    pub within_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A whole path of the guest's; symbolic links are followed.
    File { path: String, state: FileState },
    /// A unit of systemd's, with its suffix. `state` as `ActiveState` has it; `active` holds while it reloads, too.
    Unit { name: String, state: String },
    /// A TCP socket of the agent's network namespace that listens on the port: on this address or on all, or on any.
    Port { port: u16, address: Option<IpAddr> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    Present,
    Gone,
    /// A regular file with this text in it.
    Contains(String),
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    pub end: AwaitEnd,
    /// What was there when it ended, in words.
    pub last_seen: String,
    /// What made the agent look again.
    pub told_by: ToldBy,
    /// How often the agent looked.
    pub looks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AwaitEnd {
    Held,
    /// It cannot come any more: `last_seen` says why.
    Impossible,
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToldBy {
    /// Nothing had to: it was so at the first look.
    FirstLook,
    Inotify,
    Systemd,
    Tracepoint,
    /// Nothing can tell in this guest, so the agent looks every few milliseconds.
    Polling,
}

impl fmt::Display for ToldBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ToldBy::FirstLook => "it was so at the first look",
            ToldBy::Inotify => "inotify",
            ToldBy::Systemd => "systemd's signals",
            ToldBy::Tracepoint => "the kernel's tracepoints",
            ToldBy::Polling => "looking every few milliseconds",
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::File { path, state: FileState::Present } => write!(formatter, "file {path}"),
            Condition::File { path, state: FileState::Gone } => write!(formatter, "file {path} is gone"),
            Condition::File { path, state: FileState::Contains(text) } => {
                write!(formatter, "file {path} contains `{text}`")
            }
            Condition::Unit { name, state } => write!(formatter, "unit {name} is {state}"),
            Condition::Port { port, address: None } => write!(formatter, "port {port} listens"),
            Condition::Port { port, address: Some(address) } => {
                write!(formatter, "port {} listens", std::net::SocketAddr::new(*address, *port))
            }
        }
    }
}
