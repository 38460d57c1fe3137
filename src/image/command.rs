//! Runs the host's tools (apt-get, mmdebstrap, mkfs.ext4, ...) so that nothing of them outlives its purpose.
//!
//! What always holds: a tool runs in a process group of its own, which is ended as a whole when the work is cancelled, the
//! caller goes away or bootproof is killed; its output is kept in bounded memory; its standard input is the lock of the
//! temporary folder it works in, so that the folder counts as in use for as long as any process of the group lives. A tool that mounts does so in a mount namespace of its own, so that its mounts end with it: left in the
//! host's, they would lead whoever cleans up into the host's own `/dev/shm`.

use std::collections::VecDeque;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::process_group::ProcessGroup;

/// How many lines of a tool's standard error are kept.
const KEPT_LINES: usize = 400;
/// How long a tool has to clean up after itself once it was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How a tool ended.
pub(crate) struct Finished {
    pub status: std::process::ExitStatus,
    pub stdout: String,
    /// The last lines.
    pub stderr: Vec<String>,
}

impl Finished {
    pub fn ran_out_of_space(&self) -> bool {
        self.stderr
            .iter()
            .any(|line| line.contains("No space left on device") || line.contains("not enough free space"))
    }

    /// The last few lines of what the tool said, for an error's excerpt.
    pub fn tail(&self) -> String {
        let said: Vec<&str> = self.stderr.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        said[said.len().saturating_sub(8)..].join("; ")
    }
}

/// A tool to run, with its surroundings.
pub(crate) struct Tool<'a> {
    pub command: Command,
    pub lock: Option<&'a File>,
    name: String,
}

impl<'a> Tool<'a> {
    pub fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        // Tools in sbin are not in every user's path; messages are read by us.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        Self { command, lock: None, name: program.into() }
    }

    /// A tool that mounts file systems when it is run as root. Other users' mounts are in a namespace anyway.
    pub fn that_mounts(program: &str) -> Self {
        if !super::tools::is_root() {
            return Self::new(program);
        }
        let mut tool = Self::new("unshare").args(["--mount", "--propagation", "private", "--", program]);
        tool.name = program.into();
        tool
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub fn locked_by(mut self, lock: &'a File) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Runs the tool to its end. A non-zero status is not an error here: the caller knows what it means.
    pub async fn run(mut self, cancel: &CancellationToken, mut on_line: impl FnMut(&str)) -> Result<Finished> {
        let name = self.name.clone();
        let stdin = match self.lock {
            Some(lock) => {
                Stdio::from(lock.try_clone().infrastructure(|| format!("failed to share a lock with `{name}`"))?)
            }
            None => Stdio::null(),
        };
        let mut group = ProcessGroup::new()?;
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(group.number());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let program = self.command.as_std().get_program().to_string_lossy().into_owned();
                return Err(
                    Error::blocked(format!("`{program}` is not installed")).hint(super::tools::how_to_get(&program))
                );
            }
            Err(error) => return Err(Error::infrastructure(format!("failed to start `{name}`")).with_source(error)),
        };
        let mut stdout = Lines::new(child.stdout.take());
        let mut stderr = Lines::new(child.stderr.take());
        let mut said = String::new();
        let mut complained = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    group.signal(Signal::TERM);
                    let ended = tokio::time::timeout(GRACE, child.wait()).await.is_ok();
                    group.signal(Signal::KILL);
                    if !ended {
                        let _ = child.wait().await;
                    }
                    return Err(Error::new(ErrorKind::Interrupted, format!("interrupted while `{name}` was running")));
                }
                line = stdout.next() => if let Some(line) = line { said.push_str(&line); said.push('\n') },
                line = stderr.next() => if let Some(line) = line {
                    on_line(&line);
                    if complained.len() == KEPT_LINES {
                        complained.pop_front();
                    }
                    complained.push_back(line);
                },
                status = child.wait(), if stdout.ended() && stderr.ended() => {
                    let status = status.infrastructure(|| format!("failed to wait for `{name}`"))?;
                    group.ended().await;
                    return Ok(Finished { status, stdout: said, stderr: complained.into() });
                }
            }
        }
    }

    /// Runs the tool and demands success; `doing` completes the sentence `failed to ...`.
    pub async fn succeed(self, cancel: &CancellationToken, doing: &str) -> Result<Finished> {
        let name = self.name.clone();
        let finished = self.run(cancel, |_| {}).await?;
        if finished.status.success() { Ok(finished) } else { Err(failed(&name, doing, &finished)) }
    }
}

/// The error for a tool that ended badly: what it was doing, how it ended, what it said last.
pub(super) fn failed(name: &str, doing: &str, finished: &Finished) -> Error {
    let cause = format!("`{name}` ended with {}: {}", finished.status, finished.tail());
    if finished.ran_out_of_space() {
        return Error::budget(format!("failed to {doing}: the disk is full"))
            .with_source(cause)
            .hint("free some space, or put the work root on another file system with `--work-root`");
    }
    Error::infrastructure(format!("failed to {doing}")).with_source(cause)
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted while preparing an image")
}

/// Lines of a pipe, lossily decoded; waits for ever once the pipe has ended.
struct Lines<R>(Option<BufReader<R>>, Vec<u8>);

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(pipe: Option<R>) -> Self {
        Self(pipe.map(BufReader::new), Vec::new())
    }

    fn ended(&self) -> bool {
        self.0.is_none()
    }

    /// `None` exactly once, at the end. Cancellation-safe: a line cut off by another branch is kept and continued.
    async fn next(&mut self) -> Option<String> {
        let Some(reader) = &mut self.0 else { return std::future::pending().await };
        match reader.read_until(b'\n', &mut self.1).await {
            Ok(0) | Err(_) => {
                self.0 = None;
                None
            }
            Ok(_) => {
                let line = String::from_utf8_lossy(&self.1).trim_end_matches(['\n', '\r']).to_string();
                self.1.clear();
                Some(line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool<'static> {
        Tool::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn output_and_status_come_back() {
        let cancel = CancellationToken::new();
        let finished = shell("echo one; echo two >&2; exit 3").run(&cancel, |_| {}).await.unwrap();
        assert_eq!(finished.stdout, "one\n");
        assert_eq!(finished.stderr, ["two"]);
        assert_eq!(finished.status.code(), Some(3));
    }

    #[tokio::test]
    async fn cancelling_ends_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let outcome =
            shell("sleep 1000 & echo up >&2; wait").locked_by(&lock).run(&cancel, move |_| stop.cancel()).await;
        assert_eq!(outcome.err().map(|error| error.kind()), Some(ErrorKind::Interrupted));
        // Nobody but us holds the lock's description any more: a fresh one can be locked once ours is closed.
        drop(lock);
        let again = File::open(folder.path().join("lock")).unwrap();
        rustix::fs::flock(&again, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_a_budget_error_and_a_missing_tool_is_blocked() {
        let cancel = CancellationToken::new();
        let error = shell("echo 'tar: x: Cannot write: No space left on device' >&2; exit 2")
            .succeed(&cancel, "unpack")
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Budget);
        let error = Tool::new("bootproof-no-such-tool").succeed(&cancel, "try").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Blocked);
    }
}
