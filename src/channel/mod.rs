//! Ways into a guest.
//!
//! Owns the wire between host and agent: `protocol` and `marker_line` are what both sides share, so they are plain
//! blocking code without tokio; `client` (feature `host`) is the host's end. What always holds: one virtio-serial port
//! carries everything, a slow reader holds up its own stream and no other, and a guest that reboots fails every open
//! operation with a reason instead of leaving it waiting.

pub mod marker_line;
pub mod protocol;

#[cfg(feature = "host")]
mod client;

#[cfg(feature = "host")]
pub use client::{
    AgentChannel, ChannelError, ChannelEvent, ChannelStream, CommandOutput, Execution, FileReader, PipeReader,
    PipeWriter,
};
#[cfg(feature = "host")]
pub use protocol::{ExecRequest, ExitStatus, Hello, Identity, IdentityNames, IdentityTaken, RefusalReason, Role};
