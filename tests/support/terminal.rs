//! A command at a terminal of the test's making.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::process::{END, Process};

pub struct Terminal {
    ours: File,
    /// Held, so that its settings can be looked at when the command is gone.
    theirs: OwnedFd,
    child: Child,
    seen: String,
    /// Up to where `until` has looked.
    at: usize,
}

impl Terminal {
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        set_size(&ours, rows, columns);
        let peer = || theirs.try_clone().unwrap();
        let child = command.stdin(peer()).stdout(peer()).stderr(peer()).spawn().unwrap();
        Self { ours: ours.into(), theirs, child, seen: String::new(), at: 0 }
    }

    /// Reads on until the text comes.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        let bound = Instant::now() + END;
        loop {
            if let Some(found) = self.seen[self.at..].find(text) {
                self.at += found + text.len();
                return;
            }
            let left = Timespec::try_from(bound.saturating_duration_since(Instant::now())).unwrap();
            let ready = poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&left)).unwrap();
            let mut bytes = [0; 4096];
            let count = if ready > 0 { self.ours.read(&mut bytes).unwrap_or(0) } else { 0 };
            assert!(count > 0, "`{text}` never came, but:\n{}", self.seen);
            // What a test waits for is ASCII, and so is what is between.
            self.seen.extend(bytes[..count].iter().map(|byte| char::from(*byte)));
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.ours, rows, columns);
        // It is no session's terminal, so the kernel tells nobody.
        self.signal(Signal::WINCH);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether every key is handed on as it comes, as a program wants it that has taken the terminal over.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs)
            .unwrap()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[track_caller]
    pub fn expect(&mut self, status: i32) {
        let ends = Process::open(self.child.id()).unwrap().ends_within(END);
        assert!(ends, "it does not end; it said:\n{}", self.seen);
        assert_eq!(self.child.wait().unwrap().code(), Some(status), "{}", self.seen);
        assert!(!self.is_raw(), "the terminal is as it was");
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
