//! What convergence does to the machine beside writing files: programs and markers, in a way that tests can stand in for.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::agent::marker::MarkerJournal;
use crate::agent::say;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";
/// What is kept of what a program says, in bytes.
const TAIL: usize = 4 << 10;

/// A program to be run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// With a slash it is a file, else it is looked for where programs are.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub folder: Option<PathBuf>,
    pub environment: Vec<(&'static str, String)>,
    pub within: Duration,
}

impl Invocation {
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str], within: Duration) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program: program.into(), arguments, folder: None, environment: Vec::new(), within }
    }
}

/// The machine.
pub trait Host {
    /// Runs a program to its end, with everything that it started if that comes too late. The end of what it said, or
    /// why it failed.
    fn run(&self, invocation: &Invocation) -> Result<String, String>;

    fn mark(&self, name: &str, arguments: &[(&str, &str)]);

    fn say(&self, text: &str);

    /// Told after each change that a power cut would leave.
    fn durable(&self, _step: &str) {}
}

/// This machine.
pub struct ThisHost {
    pub markers: MarkerJournal,
}

impl Host for ThisHost {
    fn run(&self, invocation: &Invocation) -> Result<String, String> {
        run(invocation)
    }

    fn mark(&self, name: &str, arguments: &[(&str, &str)]) {
        let arguments: Vec<(String, String)> =
            arguments.iter().map(|(key, value)| ((*key).to_owned(), fitting(value).to_owned())).collect();
        if let Err(error) = self.markers.emit(name, None, &arguments) {
            say(&format!("failed to emit the marker `{name}`: {error}"));
        }
    }

    fn say(&self, text: &str) {
        say(text);
    }
}

/// As much of a value as has room in a marker, in which a byte may take three.
fn fitting(value: &str) -> &str {
    let mut room = 240;
    for (at, letter) in value.char_indices() {
        let needs = if letter.is_ascii_alphanumeric() { 1 } else { 3 * letter.len_utf8() };
        if needs > room {
            return &value[..at];
        }
        room -= needs;
    }
    value
}

/// Waits for the program, not for its pipe: what it leaves running in the background may hold that open.
pub fn run(invocation: &Invocation) -> Result<String, String> {
    let name = invocation.program.display();
    let failed = |error: std::io::Error| format!("failed to run `{name}`: {error}");
    let (mut output, writer) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new(&invocation.program);
    command
        .args(&invocation.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .envs(invocation.environment.iter().map(|(key, value)| (*key, value)))
        .current_dir(invocation.folder.as_deref().unwrap_or(Path::new("/")))
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    // It holds the pipe's other end.
    drop(command);
    let pid = Pid::from_child(&child);
    let mut tail = Vec::new();
    let deadline = Instant::now() + invocation.within;
    let watched = watch(pid, &mut output, &mut tail, deadline);
    if !matches!(watched, Ok(true)) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().map_err(failed)?;
    let said = String::from_utf8_lossy(&tail).trim().to_owned();
    match watched {
        Ok(true) if status.success() => Ok(said),
        Ok(true) if said.is_empty() => Err(format!("`{name}` ended with {status}")),
        Ok(true) => Err(format!("`{name}` ended with {status}: {said}")),
        Ok(false) => {
            let seconds = invocation.within.as_secs();
            let colon = if said.is_empty() { "" } else { ": " };
            Err(format!("`{name}` did not end within {seconds} s{colon}{said}"))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Until the process has ended, which is answered with `true`, or the time is over.
fn watch(pid: Pid, output: &mut PipeReader, tail: &mut Vec<u8>, deadline: Instant) -> std::io::Result<bool> {
    let exit = pidfd_open(pid, PidfdFlags::empty())?;
    fcntl_setfl(&*output, fcntl_getfl(&*output)? | OFlags::NONBLOCK)?;
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        let ended = {
            let mut watched = [PollFd::new(&exit, PollFlags::IN), PollFd::new(&*output, PollFlags::IN)];
            let count = if open { 2 } else { 1 };
            match poll(&mut watched[..count], timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            !watched[0].revents().is_empty()
        };
        open = open && drain(output, tail)?;
        if ended {
            return Ok(true);
        }
    }
}

/// Takes what is there, as far as a pipe holds; `false` once there never is more.
fn drain(output: &mut PipeReader, tail: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0; 4 << 10];
    // Whoever writes faster than this reads must not keep it from looking at the time.
    for _ in 0..16 {
        match output.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                tail.extend_from_slice(&chunk[..count]);
                let surplus = tail.len().saturating_sub(TAIL);
                tail.drain(..surplus);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, within: Duration) -> Result<String, String> {
        run(&Invocation::new("sh", &["-c", script], within))
    }

    #[test]
    fn a_program_is_judged_by_its_status_and_its_last_words_are_kept() {
        let long = Duration::from_secs(60);
        assert_eq!(shell("echo one; echo two >&2", long).unwrap(), "one\ntwo");
        let error = shell("seq 1 5000; echo last; exit 3", long).unwrap_err();
        assert!(
            error.starts_with("`sh` ended with exit status: 3: ") && error.ends_with("4999\n5000\nlast"),
            "{error}"
        );
        assert!(error.len() < TAIL + 100);
        assert!(run(&Invocation::new("/nowhere/x", &[], long)).unwrap_err().contains("failed to run `/nowhere/x`"));
    }

    #[test]
    fn what_stays_in_the_background_is_not_waited_for_and_what_takes_too_long_is_ended() {
        let begin = Instant::now();
        // The pipe stays open in the background process.
        assert_eq!(
            shell("sleep 1000 & echo $!", Duration::from_secs(60)).map(|pid| {
                let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
            }),
            Ok(())
        );
        let error = shell("echo begun; sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(error.contains("did not end within") && error.ends_with(": begun"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
