//! The QEMU backend.
//!
//! `arguments` is the pure command line, with `devices` for what can be plugged in as well (`plug`), `process` a started QEMU
//! with its sockets, `qmp` its monitor, `saving` the way of its state into a file and back, `machine` the `Machine` that a run
//! drives, `way` the way into its guest where that is not our agent, `firmware` the UEFI files of the host.

mod arguments;
mod devices;
mod disk_server;
pub mod firmware;
mod machine;
mod plug;
mod process;
mod qmp;
mod saving;
mod supervisor;
mod way;
mod write_log;

pub use arguments::{
    AttachedDisk, AttachedLink, DirectKernel, Identity, MemoryFile, QemuDefinition, console_parameters, render,
};
pub use disk_server::{DiskServer, PROGRAM as DISK_SERVER};
pub use machine::{Fork, QemuMachine, QemuSetup, STATE};
pub use process::{ProcessPlace, QemuProcess, explain};
pub use qmp::{Qmp, parse_forwards};
pub use way::{SshWay, Way};
pub use write_log::WriteLog;

use std::path::PathBuf;

/// The QEMU program for this host's architecture; `BOOTPROOF_QEMU` overrides it.
pub fn program() -> PathBuf {
    std::env::var_os("BOOTPROOF_QEMU").map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from)
}
