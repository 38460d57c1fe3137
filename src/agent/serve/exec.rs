//! Commands: one thread and one `poll` for the outputs, the input and the exit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::children::Started;
use super::stream::{Input, Stream};
use super::terminal::Terminal;
use crate::agent::{APPLETS, OWN_NAME};
use crate::channel::protocol::{
    ExecRequest, MAX_PAYLOAD, Opened, Outcome, PIPE_STDERR, PIPE_STDOUT, RefusalReason, Role,
};

/// Where programs are looked for when nobody has said it: the kernel gives init no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn run(stream: &Stream, request: &ExecRequest) {
    match start(stream, request) {
        Ok(mut running) => {
            let terminal = running.terminal.is_some();
            stream.opened(&Opened::Exec { pid: running.pid.as_raw_nonzero().get().unsigned_abs(), terminal });
            if let Err(error) = running.pump(stream) {
                running.kill(stream);
                stream.refuse(RefusalReason::from_error(&error), format!("failed to follow the command: {error}"));
            }
        }
        Err((reason, message)) => stream.refuse(reason, message),
    }
}

struct Running {
    pid: Pid,
    exit: OwnedFd,
    exited: bool,
    stdin: Option<OwnedFd>,
    /// Stands for all three streams, where it was asked for.
    terminal: Option<Terminal>,
    outputs: [Output; 2],
    /// Input that the command has not taken yet, and how much of it it has.
    pending: Option<(Vec<u8>, usize)>,
    buffer: Vec<u8>,
}

struct Output {
    pipe: u8,
    descriptor: Option<OwnedFd>,
}

fn start(stream: &Stream, request: &ExecRequest) -> Result<Running, (RefusalReason, String)> {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Err((RefusalReason::Invalid, "the command has no words".into()));
    };
    if let Some(directory) = &request.directory {
        check_directory(directory)?;
    }
    let agent = &stream.session.agent;
    let path = request.environment.get("PATH").cloned().or_else(|| std::env::var("PATH").ok());
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    let terminal = request.terminal.map(Terminal::open).transpose();
    let terminal =
        terminal.map_err(|error| (RefusalReason::from_error(&error), format!("failed to open a terminal: {error}")))?;
    let launch = |file: &Path, name: &str| {
        let mut command = Command::new(file);
        command.arg0(name).args(arguments).env("PATH", &path).envs(&request.environment);
        if let Some(directory) = &request.directory {
            command.current_dir(directory);
        }
        match &terminal {
            Some(terminal) => terminal.give_to(&mut command)?,
            None => {
                command.process_group(0).stdin(if request.stdin { Stdio::piped() } else { Stdio::null() });
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        agent.children.spawn(&mut command)
    };
    let mut launched = find_program(program, &path).and_then(|file| launch(&file, program));
    let is_missing = matches!(&launched, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let applet = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // By its own name the agent is there wherever it was started from.
    let stands_in = agent.role == Role::Init && APPLETS.contains(&applet) || applet == OWN_NAME;
    if is_missing && stands_in {
        launched = launch(Path::new("/proc/self/exe"), applet);
    }
    let Started { mut child, pid, exit } = launched
        .map_err(|error| (RefusalReason::from_error(&error), format!("failed to start `{program}`: {error}")))?;
    let follow = |error: io::Error| {
        let _ = kill_process_group(pid, Signal::KILL);
        agent.children.wait(pid);
        (RefusalReason::from_error(&error), format!("failed to follow `{program}`: {error}"))
    };
    let mut stdin = child.stdin.take().map(OwnedFd::from);
    let mut stdout = child.stdout.take().map(OwnedFd::from);
    if let Some(terminal) = &terminal {
        stdin = Some(terminal.share().map_err(follow)?);
        stdout = Some(terminal.share().map_err(follow)?);
        stream.end(PIPE_STDERR);
    }
    let outputs = [
        Output { pipe: PIPE_STDOUT, descriptor: stdout },
        Output { pipe: PIPE_STDERR, descriptor: child.stderr.take().map(OwnedFd::from) },
    ];
    // Our ends only: the command's ends are descriptions of their own.
    for descriptor in stdin.iter().chain(outputs.iter().filter_map(|output| output.descriptor.as_ref())) {
        rustix::io::ioctl_fionbio(descriptor, true).map_err(|error| follow(error.into()))?;
    }
    // The command has its end now; while ours were open, the terminal would never end.
    let terminal = terminal.map(Terminal::without_peer);
    Ok(Running { pid, exit, exited: false, stdin, terminal, outputs, pending: None, buffer: vec![0; MAX_PAYLOAD] })
}

fn check_directory(directory: &str) -> Result<(), (RefusalReason, String)> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err((RefusalReason::Invalid, format!("the working directory `{directory}` is none"))),
        Err(error) => {
            let reason = RefusalReason::from_error(&error);
            Err((reason, format!("failed to enter the working directory `{directory}`: {error}")))
        }
    }
}

/// The file of a program without a slash in its name. Looked up here and not by the standard library, which would have to
/// copy this process for it instead of borrowing its memory.
fn find_program(program: &str, path: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(program.into());
    }
    let mut found = io::ErrorKind::NotFound;
    for directory in path.split(':') {
        let file = Path::new(if directory.is_empty() { "." } else { directory }).join(program);
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(metadata) if metadata.is_file() => found = io::ErrorKind::PermissionDenied,
            _ => {}
        }
    }
    let message = match found {
        io::ErrorKind::NotFound => format!("no such program in `{path}`"),
        _ => format!("none in `{path}` may be executed"),
    };
    Err(io::Error::new(found, message))
}

impl Running {
    /// Until the command has exited and its outputs have ended, or the host takes it back.
    fn pump(&mut self, stream: &Stream) -> io::Result<()> {
        loop {
            if stream.is_cancelled() {
                self.kill(stream);
                stream.close();
                return Ok(());
            }
            if let (Some(terminal), Some(size)) = (&self.terminal, stream.take_size()) {
                // A command that has just ended has no use for it.
                let _ = terminal.resize(size);
            }
            self.feed(stream);
            if self.exited && self.outputs.iter().all(|output| output.descriptor.is_none()) {
                stream.close();
                return Ok(());
            }
            let readable: Vec<bool> =
                self.outputs.iter().map(|output| output.descriptor.is_some() && stream.room(output.pipe) > 0).collect();
            let mut descriptors = Vec::with_capacity(4);
            let none = PollFlags::empty();
            for (output, readable) in self.outputs.iter().zip(&readable) {
                if let (Some(descriptor), true) = (&output.descriptor, readable) {
                    descriptors.push(PollFd::new(descriptor, PollFlags::IN));
                }
            }
            if let (Some(stdin), Some(_)) = (&self.stdin, &self.pending) {
                descriptors.push(PollFd::new(stdin, PollFlags::OUT));
            }
            if !self.exited {
                descriptors.push(PollFd::from_borrowed_fd(self.exit.as_fd(), PollFlags::IN));
            }
            stream.wait(&mut descriptors)?;
            let exited = !self.exited && descriptors.last().is_some_and(|last| last.revents() != none);
            drop(descriptors);
            for (output, readable) in self.outputs.iter_mut().zip(readable) {
                if readable {
                    output.forward(stream, &mut self.buffer)?;
                }
            }
            if exited {
                self.exited = true;
                self.stdin = None;
                let status = stream.session.agent.children.wait(self.pid);
                stream.outcome(&Outcome::Exited(status));
            }
        }
    }

    /// Hands input to the command as far as it takes it. What it does not want any more is dropped, so that the host is
    /// not held up.
    fn feed(&mut self, stream: &Stream) {
        loop {
            if self.pending.is_none() {
                match stream.take_input() {
                    Input::Bytes(bytes) => self.pending = Some((bytes, 0)),
                    Input::End => {
                        if let (Some(terminal), Some(stdin)) = (&self.terminal, self.stdin.take()) {
                            terminal.end_input(&stdin);
                        }
                        self.stdin = None;
                        return;
                    }
                    Input::None => return,
                }
            }
            let Some((bytes, taken)) = &mut self.pending else { return };
            let result = match &self.stdin {
                Some(stdin) => rustix::io::write(stdin, &bytes[*taken..]),
                None => Ok(bytes.len() - *taken),
            };
            match result {
                Ok(count) => {
                    *taken += count;
                    if *taken == bytes.len() {
                        self.pending = None;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.stdin = None,
            }
        }
    }

    /// Ends the whole process group. When the command itself has exited, its group is only asked for while something still
    /// holds an output open: the number may belong to someone else otherwise.
    fn kill(&mut self, stream: &Stream) {
        if !self.exited || self.outputs.iter().any(|output| output.descriptor.is_some()) {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        if !self.exited {
            self.exited = true;
            stream.session.agent.children.wait(self.pid);
        }
    }
}

impl Output {
    /// Sends what is there, once; the descriptor goes at its end.
    fn forward(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<()> {
        let Some(descriptor) = &self.descriptor else { return Ok(()) };
        let room = stream.room(self.pipe).min(buffer.len());
        match rustix::io::read(descriptor, &mut buffer[..room]) {
            Ok(0) => {
                self.descriptor = None;
                stream.end(self.pipe);
            }
            Ok(count) => stream.send(self.pipe, &buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // How a terminal ends that nobody has open any more.
            Err(Errno::IO) => {
                self.descriptor = None;
                stream.end(self.pipe);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
