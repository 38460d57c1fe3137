//! Records of the machines that are up: `<work root>/running/<run>-<machine>.json`.
//!
//! A record is alive exactly as long as its keeper holds the lock on it; so a stale one is recognised for certain, with
//! no guess about process numbers.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};

pub const RECORD_VERSION: u32 = 1;

/// What is known of a machine that is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    pub version: u32,
    pub run: String,
    pub lane: String,
    pub machine: String,
    /// The process that holds QEMU.
    pub keeper_pid: u32,
    pub qemu_pid: u32,
    /// RFC 3339.
    pub started: String,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The keeper's socket.
    pub control: PathBuf,
    /// Kept on purpose after its run.
    pub kept: bool,
    /// Where a kept machine's console goes.
    pub console: PathBuf,
    /// Of a kept machine: guest TCP port and the host's port that leads to it.
    pub forwards: Vec<(u16, u16)>,
}

/// The folder of the records.
pub fn folder(work_root: &Path) -> PathBuf {
    work_root.join("running")
}

/// The records of machines that are up, by file name; those whose keeper is gone are removed on the way.
pub fn live(work_root: &Path) -> Result<Vec<MachineRecord>> {
    let folder = folder(work_root);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).infrastructure(|| format!("failed to read `{}`", folder.display())),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.infrastructure(|| format!("failed to read `{}`", folder.display()))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody holds it: its keeper is gone.
            let _ = fs::remove_file(&path);
            continue;
        }
        // A keeper that is just writing its record has it locked and incomplete for a moment.
        if let Some(record) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            records.push(record);
        }
    }
    records
        .sort_by(|left: &MachineRecord, right| (&left.started, &left.machine).cmp(&(&right.started, &right.machine)));
    Ok(records)
}
