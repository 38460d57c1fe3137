//! qemu-guest-agent: the way into a guest that has QEMU's own agent and not ours.
//!
//! `conversation` speaks its protocol over the virtio-serial port: one request after another, JSON in lines, put in step
//! by `guest-sync-delimited`. `command` makes commands with streams of what it offers, `channel` is what everything else
//! uses.
//!
//! The agent does one thing at a time, gives a command's output only at its end and only up to a limit, and tells nobody
//! that anything has happened. So outputs go to files in the guest that are read while they grow, standard input comes in
//! pieces that a small feeder in the guest hands on, and how a command stands is asked again. What always holds: no
//! request to the agent can block it, because nothing else could be asked of it then, not even to kill what blocks.

mod channel;
mod command;
mod conversation;
#[cfg(test)]
mod tests;

pub use channel::GuestAgentChannel;
