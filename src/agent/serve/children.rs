//! Children: who waits for which process.
//!
//! A stream wants to know how the command ended that it started. As init the agent also inherits every orphan of the
//! guest and has to wait for those; as it cannot know which ended before it has waited, one thread waits for all then.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroI32;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, pidfd_open, waitid,
    waitpid,
};

use crate::channel::protocol::ExitStatus;

/// The processes that streams have started.
#[derive(Default)]
pub struct Children {
    /// As init, [`reap`](Self::reap) runs and nothing else may wait.
    is_init: bool,
    table: Mutex<Table>,
    changed: Condvar,
}

/// A command under way.
pub struct Started {
    /// For its pipes only: the standard library must not wait for it.
    pub child: Child,
    pub pid: Pid,
    /// Readable once it has ended.
    pub exit: OwnedFd,
}

#[derive(Default)]
struct Table {
    /// Started by a stream, with the status once it is known.
    owned: BTreeMap<NonZeroI32, Option<ExitStatus>>,
    /// How many were ever started.
    started: u64,
}

impl Children {
    /// For a service: its own children only.
    pub fn of_service() -> Self {
        Self::default()
    }

    /// For init; a thread has to run [`reap`](Self::reap).
    pub fn of_init() -> Self {
        Self { is_init: true, ..Self::default() }
    }

    /// Starts a command that the caller has to [`wait`](Self::wait) for, without blocking once the pidfd is readable.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        // Held while it starts: its end must not be seen before it is known to be owned, nor taken before it has a pidfd.
        let mut table = self.lock();
        table.started += 1;
        self.changed.notify_all();
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let exit = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(exit) => exit,
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                return Err(error.into());
            }
        };
        table.owned.insert(pid.as_raw_nonzero(), None);
        Ok(Started { child, pid, exit })
    }

    /// Waits until the process has ended.
    pub fn wait(&self, pid: Pid) -> ExitStatus {
        if !self.is_init {
            let status = loop {
                match waitpid(Some(pid), WaitOptions::empty()) {
                    Ok(Some((_, status))) => break Some(status),
                    Ok(None) | Err(Errno::INTR) => {}
                    Err(_) => break None,
                }
            };
            self.lock().owned.remove(&pid.as_raw_nonzero());
            return status.and_then(exit_status).unwrap_or(ExitStatus::Signal(0));
        }
        let table = self.lock();
        let mut table = self
            .changed
            .wait_while(table, |table| matches!(table.owned.get(&pid.as_raw_nonzero()), Some(None)))
            .unwrap_or_else(PoisonError::into_inner);
        table.owned.remove(&pid.as_raw_nonzero()).flatten().unwrap_or(ExitStatus::Signal(0))
    }

    /// Waits for every child and orphan, for ever: init's duty.
    pub fn reap(&self) -> ! {
        loop {
            let started = self.lock().started;
            // Only looks, because a command that is just being started must not be taken from under the standard library:
            // when it cannot be executed, that waits for the child itself, and panics where it cannot.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => self.reap_ended(),
                Err(Errno::INTR) => {}
                // Without children there can be no orphans either, until the next command is started.
                Err(_) => drop(self.changed.wait_while(self.lock(), |table| table.started == started)),
            }
        }
    }

    fn reap_ended(&self) {
        let mut table = self.lock();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let (Some(entry), Some(status)) = (table.owned.get_mut(&pid.as_raw_nonzero()), exit_status(status)) {
                *entry = Some(status);
            }
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    status.exit_status().map(ExitStatus::Code).or(status.terminating_signal().map(ExitStatus::Signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs a process of its own: it waits for every child there is.
    const INSIDE: &str = "BOOTPROOF_TEST_REAPER";

    #[test]
    fn init_reaps_orphans_and_still_knows_how_its_own_commands_ended() {
        if std::env::var_os(INSIDE).is_some() {
            return reap_in_this_process();
        }
        let name = "agent::serve::children::tests::init_reaps_orphans_and_still_knows_how_its_own_commands_ended";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
    }

    fn reap_in_this_process() {
        rustix::process::set_child_subreaper(Some(Pid::INIT)).unwrap();
        let children = std::sync::Arc::new(Children::of_init());
        let reaper = children.clone();
        std::thread::spawn(move || reaper.reap());
        for round in 0..200 {
            // Ends within the standard library's own start, which forks when it has to look in another `PATH`.
            assert!(children.spawn(Command::new("no-such-program").env("PATH", "/no/such")).is_err());
            let mut command = Command::new("sh");
            command.args(["-c", &format!("sleep 0 & exit {}", round % 7)]);
            let started = children.spawn(&mut command).unwrap();
            assert_eq!(children.wait(started.pid), ExitStatus::Code(round % 7));
        }
        assert!(children.lock().owned.is_empty());
    }
}
