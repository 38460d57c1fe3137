//! The wire between host and agent, version 1.
//!
//! Frames (`frame`) carry multiplexed streams; messages (`message`) are the JSON that opens, answers and ends them.
//! What always holds:
//!
//! - A receiver finds the next whole frame whatever came before it: it looks for the magic and checks the CRC. A frame
//!   that was cut off (its sender was reset) could hold up what follows for at most one frame's length, so each side
//!   begins with [`preamble`]: as many zeros as the longest frame has bytes.
//! - A session begins when the agent's HELLO has been answered by a HELLO-ACK with the same nonce. Until then both sides
//!   ignore everything else. A HELLO with another nonce, at any time, means that the old session is over.
//! - A host that connects to a guest that is already up asks for a HELLO with SOLICIT; a HELLO that repeats the nonce
//!   of the session changes nothing.
//! - Every pipe of every stream has its own credit: a sender owns [`WINDOW`] bytes at first and gets more as the receiver
//!   consumes. A frame costs its whole length, header included, so tiny writes are bounded too. Hence what is queued is
//!   bounded and a pump never waits for a consumer.
//! - Stream numbers are the host's, and are not used twice on one connection.

mod awaiting;
mod frame;
mod message;

pub use awaiting::{AwaitEnd, AwaitRequest, Awaited, Condition, FileState, ToldBy};
pub use frame::{
    Decoder, Frame, FrameKind, HEADER_LENGTH, MAGIC, MAX_FRAME, MAX_PAYLOAD, encode, encode_json, preamble,
};
pub use message::{
    ExecRequest, ExitStatus, Hello, HelloAck, Identity, IdentityNames, IdentityTaken, Opened, Outcome, Refusal,
    RefusalReason, Request, Role, Solicit, TerminalSize,
};

/// The version that this code speaks, and the only one.
pub const PROTOCOL_VERSION: u32 = 1;

/// The virtio-serial port's name.
pub const PORT_NAME: &str = "bootproof.agent.0";

/// What a sender may have under way on one pipe, in bytes of frames.
pub const WINDOW: usize = 256 << 10;

/// A receiver gives credit back once this much has been consumed.
pub const CREDIT_BATCH: usize = WINDOW / 4;

/// A sender waits until it has this much credit, so that a busy pipe is not cut into crumbs. Less than
/// `WINDOW - CREDIT_BATCH`, or a sender and a receiver could wait for each other.
pub const LEAST_CREDIT: usize = 8 << 10;

/// What a stream carries: standard input, a file, a connection.
pub const PIPE_MAIN: u8 = 0;
/// A command's standard output.
pub const PIPE_STDOUT: u8 = 1;
/// A command's standard error.
pub const PIPE_STDERR: u8 = 2;
/// How many pipes a stream can have.
pub const PIPES: usize = 3;
