//! The keeper's own side: one thread, one `poll` loop, no runtime.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitid,
};

use super::consoles::KeptConsole;
use super::protocol::{KILLED, KeeperSpec, Order, REFUSED, STOP, STOPPED, Status, TERMINATION_BOUND};
use super::servers::Servers;
use crate::machine::folders;

/// How long a process may take from closing one file to having ended.
const RUN_EXIT_BOUND: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Runs the keeper over this process's standard streams until its machine is gone.
pub fn main() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Status::Failed { message: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

/// The run may be gone already: then nobody reads, and that is no reason to fail.
fn say(status: &Status) {
    let mut line = serde_json::to_vec(status).expect("a status is plain data");
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
}

fn keep() -> io::Result<()> {
    let mut stdin = BufReader::new(io::stdin().lock());
    let mut line = String::new();
    if stdin.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let spec: KeeperSpec = serde_json::from_str(&line)?;
    let run = getppid().and_then(|run| pidfd_open(run, PidfdFlags::empty()).ok());
    // From here on nobody takes the run's folders for left over.
    let run_folder = folders::hold(&spec.run_folder)?;
    let control = listen(&spec.control)?;
    let sockets = spec
        .sockets
        .iter()
        .map(|socket| listen(&socket.path).map(|listener| (socket.name.clone(), listener)))
        .collect::<io::Result<Vec<_>>>()?;
    let record_file = lock_record(&spec.record_path)?;
    let servers = Servers::start(&spec.servers, &spec.stderr)?;
    let child = spawn(&spec, &sockets)?;
    // QEMU has its own descriptors now; ours would keep a dead machine's sockets connectable.
    drop(sockets);
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut keeper = Keeper {
        spec,
        run,
        servers,
        child,
        pidfd,
        control,
        record_file,
        run_folder,
        kept: None,
        run_is_there: true,
        kill_at: None,
        overdue: false,
    };
    keeper.write_record()?;
    say(&Status::Started { pid: keeper.child.id() });
    let status = keeper.watch(&mut stdin)?;
    keeper.finish(status);
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(path)
        .map_err(|error| io::Error::new(error.kind(), format!("failed to listen on `{}`: {error}", path.display())))
}

fn lock_record(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        // Whoever looks for stale records (`ps`, another run) may have it for a moment, and have removed it then.
        flock(&file, FlockOperation::LockExclusive)?;
        let is_there = fs::metadata(path).is_ok_and(|there| there.ino() == file.metadata().map_or(0, |own| own.ino()));
        if is_there {
            return Ok(file);
        }
    }
}

/// Starts the machine's process with the listening sockets inherited.
fn spawn(spec: &KeeperSpec, sockets: &[(String, UnixListener)]) -> io::Result<Child> {
    let arguments = spec.arguments.iter().map(|argument| substitute(argument, sockets)).collect::<Vec<OsString>>();
    let stderr = OpenOptions::new().create(true).append(true).open(&spec.stderr)?;
    for (_, socket) in sockets {
        fcntl_setfd(socket, FdFlags::empty())?;
    }
    let keeper = rustix::process::getpid();
    let mut command = Command::new(&spec.program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // SAFETY: between fork and exec only async-signal-safe system calls happen: prctl and getppid.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The keeper may have died before the signal was asked for.
            if getppid() == Some(keeper) { Ok(()) } else { Err(io::Error::other("the keeper is gone")) }
        });
    }
    command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("failed to start `{}`: {error}", spec.program.display())))
}

fn substitute(argument: &str, sockets: &[(String, UnixListener)]) -> OsString {
    sockets
        .iter()
        .fold(argument.to_owned(), |text, (name, socket)| {
            text.replace(&format!("{{fd:{name}}}"), &socket.as_raw_fd().to_string())
        })
        .into()
}

/// What the keeper has to look after.
struct Happened {
    child_ended: bool,
    run_spoke: bool,
    caller: bool,
    server_ended: bool,
    /// Consoles that printed, or have room for what is typed, or callers of theirs that typed.
    consoles: bool,
}

struct Keeper {
    spec: KeeperSpec,
    /// Becomes readable when the run's process has ended; absent where that was so from the beginning.
    run: Option<OwnedFd>,
    servers: Servers,
    child: Child,
    /// Becomes readable when the child ends.
    pidfd: OwnedFd,
    control: UnixListener,
    record_file: File,
    run_folder: File,
    kept: Option<Kept>,
    run_is_there: bool,
    /// Until when the machine may take to end, having been asked to.
    kill_at: Option<Instant>,
    /// It took longer, and was killed.
    overdue: bool,
}

/// What a machine needs that goes on without its run.
struct Kept {
    consoles: Vec<KeptConsole>,
    /// Those who asked for the machine to stop and wait for the answer.
    waiting: Vec<UnixStream>,
}

impl Keeper {
    /// Until the child has ended.
    fn watch(&mut self, stdin: &mut BufReader<io::StdinLock<'_>>) -> io::Result<ExitStatus> {
        loop {
            if self.run_is_there && !stdin.buffer().is_empty() {
                self.take_order(stdin);
                continue;
            }
            let Happened { child_ended, run_spoke, caller, server_ended, consoles } = self.wait()?;
            if !child_ended && self.kill_at.is_some_and(|bound| bound <= Instant::now()) {
                self.kill_at = None;
                self.overdue = true;
                self.kill(Signal::KILL);
            }
            if consoles && let Some(kept) = &mut self.kept {
                kept.consoles.retain_mut(KeptConsole::go_on);
            }
            if server_ended && self.servers.take_ended(&self.spec.stderr) {
                // A machine whose disk is gone proves nothing any more.
                self.kill(Signal::KILL);
            }
            if caller {
                self.answer();
            }
            if run_spoke {
                self.take_order(stdin);
            }
            if child_ended {
                self.record_the_rest();
                return self.child.wait();
            }
        }
    }

    /// Blocks until something happens, or the machine's time to end is over.
    fn wait(&self) -> io::Result<Happened> {
        let stdin = io::stdin();
        let nothing: &[KeptConsole] = &[];
        let consoles = self.kept.as_ref().map_or(nothing, |kept| &kept.consoles);
        let mut watched: Vec<BorrowedFd<'_>> = vec![self.pidfd.as_fd(), self.control.as_fd()];
        watched.extend(self.servers.descriptors());
        let first_console = watched.len();
        let mut polled: Vec<PollFd<'_>> =
            watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        consoles.iter().for_each(|console| console.watch(&mut polled));
        let after_consoles = polled.len();
        if self.run_is_there {
            polled.push(PollFd::new(&stdin, PollFlags::IN));
        }
        loop {
            let left = self.kill_at.map(|bound| bound.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec::try_from(left).expect("the bound is no longer than seconds"));
            match poll(&mut polled, left.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(Happened {
            child_ended: ready[0],
            caller: ready[1],
            server_ended: ready[2..first_console].contains(&true),
            consoles: ready[first_console..after_consoles].contains(&true),
            run_spoke: self.run_is_there && ready[ready.len() - 1],
        })
    }

    fn take_order(&mut self, stdin: &mut impl BufRead) {
        let mut line = String::new();
        match stdin.read_line(&mut line) {
            Ok(count) if count > 0 => match serde_json::from_str(&line) {
                Ok(Order::Keep { consoles, console_limit, forwards }) => {
                    self.spec.record.forwards = forwards;
                    self.go_on_alone(&consoles, console_limit);
                }
                Ok(Order::Kill) | Err(_) => self.kill(Signal::KILL),
            },
            // The run is gone: so is its machine, unless it was told to stay.
            Ok(_) | Err(_) => {
                self.run_is_there = false;
                if self.kept.is_none() {
                    self.kill(Signal::KILL);
                }
            }
        }
    }

    /// With SIGKILL also what the machine's disks have not flushed is gone: QEMU, which would flush it at its end or ask
    /// for it again, stands still before the disks go, and is killed after them.
    fn kill(&mut self, signal: Signal) {
        if signal == Signal::KILL && !self.servers.is_empty() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::STOP);
            let states = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = waitid(WaitId::Pid(Pid::from_child(&self.child)), states);
            self.servers.kill();
        }
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    fn go_on_alone(&mut self, consoles: &[(PathBuf, PathBuf)], limit: u64) {
        let consoles =
            consoles.iter().filter_map(|(socket, file)| KeptConsole::open(socket, file, limit).ok()).collect();
        self.kept = Some(Kept { consoles, waiting: Vec::new() });
        self.spec.record.kept = true;
        let _ = self.write_record();
        // Whoever reads what the run says must not wait for the machine's end.
        if let Ok(nowhere) = OpenOptions::new().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stderr(nowhere);
        }
        say(&Status::Kept);
    }

    /// What the machine printed last may still be on its way when it has ended.
    fn record_the_rest(&mut self) {
        for console in self.kept.iter_mut().flat_map(|kept| &mut kept.consoles) {
            console.finish();
        }
    }

    /// A caller on the control socket: it wishes the machine to stop, or for a console. Who wants it to stop gets the answer
    /// when the machine is gone.
    fn answer(&mut self) {
        let Ok((mut caller, _)) = self.control.accept() else { return };
        // Somebody who connects and says nothing must not hold the keeper up.
        let _ = caller.set_read_timeout(Some(Duration::from_secs(1)));
        let mut wish = [0; 32];
        let read = caller.read(&mut wish).unwrap_or(0);
        let wish = String::from_utf8_lossy(&wish[..read]).trim().to_owned();
        if wish != STOP {
            let console = self.kept.iter_mut().flat_map(|kept| &mut kept.consoles).find(|console| console.name == wish);
            match console {
                Some(console) => console.add(caller),
                None => drop(writeln!(caller, "{REFUSED}")),
            }
            return;
        }
        // SIGTERM lets QEMU write back what it holds of its disks. One that hangs or is stopped does not take it; asking
        // again gives it no more time.
        self.kill(Signal::TERM);
        if !self.overdue {
            self.kill_at.get_or_insert_with(|| Instant::now() + TERMINATION_BOUND);
        }
        match &mut self.kept {
            Some(kept) => kept.waiting.push(caller),
            None => self.kept = Some(Kept { consoles: Vec::new(), waiting: vec![caller] }),
        }
    }

    fn write_record(&mut self) -> io::Result<()> {
        self.spec.record.keeper_pid = std::process::id();
        self.spec.record.qemu_pid = self.child.id();
        let bytes = serde_json::to_vec_pretty(&self.spec.record)?;
        self.record_file.set_len(0)?;
        rustix::io::pwrite(&self.record_file, &bytes, 0)?;
        Ok(())
    }

    /// A run that is going away closes what it holds one thing after another: its word to us may be gone before its lock
    /// on the run's folder, and then nobody would remove that. One that keeps its machines goes on a little longer.
    fn outlive_run(&self) {
        let Some(run) = &self.run else { return };
        if !self.run_is_there {
            let _ = poll(&mut [PollFd::new(run, PollFlags::IN)], Some(&RUN_EXIT_BOUND));
        }
    }

    fn finish(&mut self, status: ExitStatus) {
        self.servers.finish();
        let _ = fs::remove_file(&self.spec.record_path);
        let _ = fs::remove_file(&self.spec.control);
        if !self.run_is_there || self.spec.record.kept {
            self.outlive_run();
            folders::give_up(&self.spec.run_folder, &self.run_folder);
        }
        let how = if self.overdue { KILLED } else { STOPPED };
        for caller in self.kept.iter_mut().flat_map(|kept| &mut kept.waiting) {
            let _ = writeln!(caller, "{how}");
        }
        say(&Status::Exited { code: status.code(), signal: status.signal() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_somebody_looks_at_is_waited_for_and_made_anew_when_they_removed_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("running").join("record.json");
        drop(lock_record(&path).unwrap());
        let looker = File::open(&path).unwrap();
        flock(&looker, FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| lock_record(&path).unwrap());
            fs::remove_file(&path).unwrap();
            drop(looker);
            let held = keeper.join().unwrap();
            assert_eq!(held.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
            let other = File::open(&path).unwrap();
            assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err(), "it is locked");
        });
    }
}
