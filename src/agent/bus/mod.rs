//! A client of D-Bus, as much of one as speaking with systemd takes: calls with strings, answers, signals.
//!
//! Written by hand: the crates that speak D-Bus bring an asynchronous runtime along (`zbus`), or pull in macros and system call
//! wrappers that nothing else of the agent uses (`rustbus`), and the agent is copied into every initramfs. What always
//! holds: nothing here waits, so that whoever waits for systemd can be cancelled; a peer that talks nonsense is an error
//! and no panic.

mod connection;
mod message;

pub use connection::Connection;
pub use message::{Call, Kind, Message};
