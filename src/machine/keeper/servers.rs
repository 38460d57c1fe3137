//! Programs that a machine needs beside it: each serves one unix socket, starts before the machine and goes with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, dup2, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use super::protocol::ServerSpec;

/// Where systemd's convention puts the first inherited socket.
const FIRST_SOCKET: i32 = 3;

/// The convention also wants the process's own number in its environment, which only the process itself knows in time.
const LAUNCH: &str = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";

/// The servers of one machine.
pub(super) struct Servers(Vec<Server>);

struct Server {
    name: String,
    child: Child,
    /// Becomes readable when the child ends.
    pidfd: OwnedFd,
}

impl Servers {
    /// Starts them all. Their sockets are connectable when this returns, whether or not they have read a request yet.
    pub fn start(specs: &[ServerSpec], stderr: &Path) -> io::Result<Self> {
        let mut servers = Self(Vec::new());
        for spec in specs {
            let server = start(spec, stderr).map_err(|error| {
                io::Error::new(error.kind(), format!("failed to start `{}`: {error}", spec.program.display()))
            })?;
            servers.0.push(server);
        }
        Ok(servers)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Readable when one of them has ended.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|server| server.pidfd.as_fd())
    }

    /// Takes out those that have ended by themselves, and says so where the machine's own errors go.
    pub fn take_ended(&mut self, stderr: &Path) -> bool {
        let before = self.0.len();
        self.0.retain_mut(|server| match server.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                let said = format!("the server of the disk `{}` ended by itself: {status}\n", server.name);
                let file = OpenOptions::new().create(true).append(true).open(stderr);
                let _ = file.and_then(|mut file: File| file.write_all(said.as_bytes()));
                false
            }
            Err(_) => false,
        });
        self.0.len() < before
    }

    /// Ends them at once, with whatever they have not written; they are gone when this returns.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Lets them put things in order; they are gone when this returns.
    pub fn finish(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, signal: Signal) {
        for server in &self.0 {
            let _ = pidfd_send_signal(&server.pidfd, signal);
        }
        for mut server in self.0.drain(..) {
            let _ = server.child.wait();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(spec: &ServerSpec, stderr: &Path) -> io::Result<Server> {
    let listener = UnixListener::bind(&spec.socket)?;
    let stderr = OpenOptions::new().create(true).append(true).open(stderr)?;
    let keeper = rustix::process::getpid();
    let socket = listener.as_raw_fd();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LAUNCH, "sh"]).arg(&spec.program).args(&spec.arguments);
    command.current_dir(&spec.folder).env("TMPDIR", &spec.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // SAFETY: between fork and exec only async-signal-safe system calls happen: prctl, getppid, dup2 and fcntl. The
    // descriptors are the child's own copies; the one taken over is not closed here.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(keeper) {
                return Err(io::Error::other("the keeper is gone"));
            }
            let mut first = ManuallyDrop::new(OwnedFd::from_raw_fd(FIRST_SOCKET));
            if socket != FIRST_SOCKET {
                dup2(BorrowedFd::borrow_raw(socket), &mut first)?;
            }
            fcntl_setfd(first.as_fd(), FdFlags::empty())?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok(Server { name: spec.name.clone(), child, pidfd })
}
