//! Ways into a guest.
//!
//! Owns what everything else knows of them: the trait `Channel`, behind which a command, its streams and a file look the same
//! whichever way leads into the guest, and `ChannelError`. `client` is the way through our agent; what it and the agent share
//! of the wire, `protocol` and `marker_line`, is plain blocking code without tokio. `shell_files` carries files for ways
//! that only run commands. `ssh` and `guest_agent` are ways into guests without our agent, and so is `line`, a shell on a terminal
//! line. What always holds: a slow reader holds up its own stream and no other; a command whose handle is
//! dropped is killed with its process group; a guest that reboots or dies fails every open operation with a reason instead
//! of leaving it waiting.

pub mod marker_line;
pub mod protocol;

#[cfg(feature = "host")]
mod agent;
#[cfg(feature = "host")]
mod client;
#[cfg(feature = "host")]
mod command;
#[cfg(feature = "host")]
mod error;
#[cfg(feature = "host")]
mod guest_agent;
#[cfg(feature = "host")]
mod line;
#[cfg(feature = "host")]
pub mod shell_files;
#[cfg(feature = "host")]
pub mod ssh;

#[cfg(feature = "host")]
pub use client::{AgentChannel, ChannelEvent, ChannelStream, Execution, FileReader, PipeReader, PipeWriter};
#[cfg(feature = "host")]
pub use command::{Channel, Command, CommandControl, CommandOutput, FileContent, Input, Output};
#[cfg(feature = "host")]
pub use error::ChannelError;
#[cfg(feature = "host")]
pub use guest_agent::GuestAgentChannel;
#[cfg(feature = "host")]
pub use line::{Answer, Greeting, LineChannel, LineOptions};
#[cfg(feature = "host")]
pub use protocol::{
    ExecRequest, ExitStatus, Hello, Identity, IdentityNames, IdentityTaken, RefusalReason, Role, TerminalSize,
};
