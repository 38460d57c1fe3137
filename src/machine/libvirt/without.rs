//! The same as `connection` and `holder` in a program that was built without libvirt: each says how to get it.

use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;

use super::host::{Host, Left};
use super::target::Target;
use crate::error::{Error, Result};

fn missing() -> Error {
    Error::blocked("this bootproof was built without libvirt")
        .hint("install libvirt's C library and pkg-config (Debian and Ubuntu: `apt-get install libvirt-dev pkg-config`), and build with `cargo build --release --features libvirt`")
}

/// # Errors
/// Blocked, always.
pub fn describe(_: &Target) -> Result<Host> {
    Err(missing())
}

/// # Errors
/// Blocked, always.
pub fn prune(_: &Target, _: &Path, _: bool) -> Result<Vec<Left>> {
    Err(missing())
}

pub fn hold(_: RawFd) -> ExitCode {
    eprintln!("{}", missing());
    ExitCode::FAILURE
}
