//! Processes that are no children of the test: which there are, and waiting for their end without asking twice.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Far longer than anything takes to end; only so that what never ends is told.
pub const END: Duration = Duration::from_secs(60);

/// A process by descriptor: its number can be given to another one, this cannot.
pub struct Process {
    pub pid: u32,
    /// What it was started as, for messages.
    pub command: String,
    descriptor: OwnedFd,
}

impl Process {
    /// `None` when it is gone already.
    pub fn open(pid: u32) -> Option<Self> {
        let descriptor = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ").chars().take(120).collect();
        Some(Self { pid, command, descriptor })
    }

    pub fn kill(&self, signal: Signal) {
        pidfd_send_signal(&self.descriptor, signal).unwrap();
    }

    /// Whether it ends within the time.
    pub fn ends_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap();
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(self.descriptor.as_fd(), PollFlags::IN)], Some(&time)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Every process that was started, by whomever, for this work root: they have it in their environment. What has ended
/// and was not reaped yet has no environment any more.
pub fn of_work_root(work_root: &Path) -> Vec<Process> {
    let wanted = format!("BOOTPROOF_WORK_ROOT={}", work_root.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.extend(Process::open(pid));
        }
    }
    found
}

/// Waits until no process of the work root is left.
#[track_caller]
pub fn expect_none_left(work_root: &Path) {
    let until = Instant::now() + END;
    loop {
        // A keeper may start its QEMU after we looked: so look again once all that were seen have ended.
        let left = of_work_root(work_root);
        if left.is_empty() {
            return;
        }
        for process in left {
            let time = until.saturating_duration_since(Instant::now());
            assert!(process.ends_within(time), "process {} is left: {}", process.pid, process.command);
        }
    }
}
