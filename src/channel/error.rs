//! What can go wrong between the host and a guest, whichever way leads into it.

use std::fmt;
use std::io;

use crate::channel::protocol::{Refusal, RefusalReason};

/// Why an operation in the guest did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The session ended while the operation was under way: the guest rebooted, or what answers in it was restarted.
    Lost { reason: String },
    /// The connection to the machine is over, for good.
    Closed { reason: String },
    /// Nothing in the guest has answered yet (or since the last reboot).
    NotReady,
    /// What had to come from the guest before anything else did not come in time: a greeting, a prompt, an answer.
    NeverGreeted { detail: String },
    /// The guest knows the user, the password or the key as wrong.
    Authentication { detail: String },
    /// The guest shows another host key than the one that it was given.
    HostKey { detail: String },
    /// The agent speaks another version of the protocol.
    Version { host: u32, agent: u32, agent_version: String },
    /// The guest refused; not found, permission denied and connection refused are told apart.
    Refused { reason: RefusalReason, message: String },
    /// The guest said something that makes no sense.
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

    /// The same, for what only the channel can have caused.
    pub(crate) fn of_io(error: &io::Error) -> ChannelError {
        let other = || ChannelError::Protocol { detail: error.to_string() };
        Self::from_io(error).cloned().unwrap_or_else(other)
    }

    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            ChannelError::Lost { .. } | ChannelError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            ChannelError::NotReady => io::ErrorKind::NotConnected,
            ChannelError::NeverGreeted { .. } => io::ErrorKind::TimedOut,
            ChannelError::Authentication { .. } | ChannelError::HostKey { .. } => io::ErrorKind::PermissionDenied,
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
            ChannelError::Lost { reason } => write!(formatter, "the session with the guest ended: {reason}"),
            ChannelError::Closed { reason } => write!(formatter, "the connection to the guest is over: {reason}"),
            ChannelError::NotReady => formatter.write_str("nothing in the guest has answered yet"),
            ChannelError::NeverGreeted { detail } => write!(formatter, "the guest does not answer: {detail}"),
            ChannelError::Authentication { detail } => write!(formatter, "the guest lets nobody in: {detail}"),
            ChannelError::HostKey { detail } => write!(formatter, "the guest is not who it has to be: {detail}"),
            ChannelError::Version { host, agent, agent_version } => write!(
                formatter,
                "the guest's agent (version {agent_version}) speaks protocol {agent}, and this bootproof speaks {host}"
            ),
            ChannelError::Refused { message, .. } => formatter.write_str(message),
            ChannelError::Protocol { detail } => write!(formatter, "what the guest says makes no sense: {detail}"),
            ChannelError::Cancelled => formatter.write_str("cancelled"),
            ChannelError::Source { message, .. } => write!(formatter, "failed to read what was to be sent: {message}"),
        }
    }
}

impl std::error::Error for ChannelError {}
