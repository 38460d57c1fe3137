//! The keeper: a small process of ours that holds one QEMU, so that no QEMU outlives its run.
//!
//! It owns QEMU as its child, the listening sockets that QEMU inherits, and the record by which `ps` and `stop` find a
//! machine. What always holds:
//!
//! - When the run goes away in any manner (SIGKILL included) the keeper's standard input ends, and QEMU is killed.
//! - When the keeper itself is killed, the kernel kills QEMU: the keeper has one thread, so the parent-death signal,
//!   which follows the spawning *thread*, follows the keeper.
//! - Only a machine that was told to be kept survives its run, and its keeper with it.
//!
//! Host side (`client`) and keeper side (`process`) speak JSON lines over the keeper's standard streams.

mod client;
mod consoles;
mod process;
mod protocol;
mod servers;

pub use client::{Keeper, KeeperExit};
pub use process::main;
pub use protocol::{CONNECTED, KILLED, KeeperSpec, REFUSED, STOP, STOPPED, ServerSpec, SocketSpec, TERMINATION_BOUND};
