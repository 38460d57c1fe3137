//! What can go wrong between the host and an agent.

use std::fmt;
use std::io;

use crate::channel::protocol::{Refusal, RefusalReason};

/// Why an operation through the agent did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The session ended while the operation was under way: the guest rebooted, or its agent was restarted.
    Lost { reason: String },
    /// The connection to the machine is over, for good.
    Closed { reason: String },
    /// No agent has answered yet (or since the last reboot).
    NotReady,
    /// The agent speaks another version of the protocol.
    Version { host: u32, agent: u32, agent_version: String },
    /// The agent or the guest's kernel refused; not found, permission denied and connection refused are told apart.
    Refused { reason: RefusalReason, message: String },
    /// The agent said something that makes no sense.
    Protocol { detail: String },
    /// The operation was taken back on this side.
    Cancelled,
    /// Reading what was to be sent failed on this side.
    Source { kind: io::ErrorKind, message: String },
}

impl ChannelError {
    /// Whether the guest refused for this reason.
    pub fn is_refused(&self, wanted: RefusalReason) -> bool {
        matches!(self, ChannelError::Refused { reason, .. } if *reason == wanted)
    }

    /// The channel's error inside an `io::Error` that a reader or writer of this module gave.
    pub fn from_io(error: &io::Error) -> Option<&ChannelError> {
        error.get_ref()?.downcast_ref()
    }

    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            ChannelError::Lost { .. } | ChannelError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            ChannelError::NotReady => io::ErrorKind::NotConnected,
            ChannelError::Version { .. } => io::ErrorKind::Unsupported,
            ChannelError::Refused { reason, .. } => match reason {
                RefusalReason::NotFound => io::ErrorKind::NotFound,
                RefusalReason::PermissionDenied => io::ErrorKind::PermissionDenied,
                RefusalReason::ConnectionRefused => io::ErrorKind::ConnectionRefused,
                RefusalReason::ConnectionReset => io::ErrorKind::ConnectionReset,
                RefusalReason::Unreachable => io::ErrorKind::HostUnreachable,
                RefusalReason::TimedOut => io::ErrorKind::TimedOut,
                RefusalReason::NoSpace => io::ErrorKind::StorageFull,
                RefusalReason::Invalid => io::ErrorKind::InvalidInput,
                // Not `Interrupted`: readers would try again.
                RefusalReason::Cancelled => io::ErrorKind::ConnectionAborted,
                RefusalReason::Other => io::ErrorKind::Other,
            },
            ChannelError::Protocol { .. } => io::ErrorKind::InvalidData,
            ChannelError::Cancelled => io::ErrorKind::ConnectionAborted,
            ChannelError::Source { kind, .. } => *kind,
        };
        io::Error::new(kind, self)
    }
}

impl From<Refusal> for ChannelError {
    fn from(refusal: Refusal) -> Self {
        ChannelError::Refused { reason: refusal.reason, message: refusal.message }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Lost { reason } => write!(formatter, "the session with the guest's agent ended: {reason}"),
            ChannelError::Closed { reason } => {
                write!(formatter, "the connection to the guest's agent is over: {reason}")
            }
            ChannelError::NotReady => formatter.write_str("the guest's agent has not answered yet"),
            ChannelError::Version { host, agent, agent_version } => write!(
                formatter,
                "the guest's agent (version {agent_version}) speaks protocol {agent}, and this bootproof speaks {host}"
            ),
            ChannelError::Refused { message, .. } => formatter.write_str(message),
            ChannelError::Protocol { detail } => write!(formatter, "the guest's agent broke the protocol: {detail}"),
            ChannelError::Cancelled => formatter.write_str("cancelled"),
            ChannelError::Source { message, .. } => write!(formatter, "failed to read what was to be sent: {message}"),
        }
    }
}

impl std::error::Error for ChannelError {}
