//! SSH into a guest, for guests that have a server and not our agent.
//!
//! `keys` makes and reads keys, `connection` speaks the protocol (the crate `russh`) up to the login, `shell` makes a line
//! of a command, `command` carries its streams, `channel` is what everything else uses.
//!
//! What always holds: no connection is made to a server that shows another host key than the pinned one; nobody's trust on
//! first use. What a server does not say in time is an error that says what was waited for. A private key never reaches
//! a command line, a log or a proof.

mod channel;
mod command;
mod connection;
mod keys;
mod line;
mod shell;
#[cfg(test)]
mod tests;

pub use channel::{Connector, HostKeySource, SshChannel, SshSettings};
pub use connection::SshLogin;
pub use keys::{SshKey, SshPublicKey, host_key_on_console};
pub use line::ByteStream;
