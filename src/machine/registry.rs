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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Where its run records what it prints: the machine's folder in the proof root.
    #[serde(default)]
    pub evidence: PathBuf,
    /// Where a kept machine's console goes.
    pub console: PathBuf,
    /// Of a kept machine: guest TCP port and the host's port that leads to it.
    pub forwards: Vec<(u16, u16)>,
    /// How it is reached by SSH, where its lane does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshAccess>,
}

/// What an SSH client needs to get into a machine; the host's port is in `forwards`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SshAccess {
    pub user: String,
    /// The guest's TCP port.
    pub port: u16,
    /// The private key, which only its owner may read; it goes with the machine.
    pub key: PathBuf,
    /// The guest's host key, as a line of `known_hosts` without its hosts: `ssh-ed25519 AAAA...`; absent where it stands on the
    /// console alone.
    pub host_key: Option<String>,
}

/// The folder of the records.
pub fn folder(work_root: &Path) -> PathBuf {
    work_root.join("running")
}

/// The processes that a run's machines are, by what is recorded; nothing is locked or removed for it.
pub fn processes_of(work_root: &Path, run: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder(work_root)).into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(run.as_bytes()));
    let records = own.filter_map(|entry| serde_json::from_slice::<MachineRecord>(&fs::read(entry.path()).ok()?).ok());
    records.filter(|record| record.run == run).map(|record| record.qemu_pid).collect()
}

/// The records of machines that are up, the oldest first; those whose keeper is gone are removed on the way.
pub fn live(work_root: &Path) -> Result<Vec<MachineRecord>> {
    left_over(work_root, &mut |_| true)?;
    peek(work_root)
}

/// As `live`, and removes nothing.
pub fn peek(work_root: &Path) -> Result<Vec<MachineRecord>> {
    let mut records = Vec::new();
    for path in paths(work_root)? {
        let Ok(file) = File::open(&path) else { continue };
        if is_stale(&file) {
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

/// Shows `take` each record whose keeper is gone, and removes it where it says so.
pub fn left_over(work_root: &Path, take: &mut dyn FnMut(&[PathBuf]) -> bool) -> Result<()> {
    for path in paths(work_root)? {
        let Ok(file) = File::open(&path) else { continue };
        if is_stale(&file) && take(std::slice::from_ref(&path)) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Nobody holds it; the lock that this takes goes with the file.
fn is_stale(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn paths(work_root: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder(work_root);
    let failed = || format!("failed to read `{}`", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).infrastructure(failed),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.infrastructure(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    Ok(paths)
}
