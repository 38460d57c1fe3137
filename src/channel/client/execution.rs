//! A command that runs in the guest.

use std::sync::Arc;

use super::stream::{Guard, PipeReader, PipeWriter};
use crate::channel::ChannelError;
use crate::channel::command::{CommandOutput, keep};
use crate::channel::protocol::{ExitStatus, Outcome, PIPE_STDERR, PIPE_STDOUT, TerminalSize};

/// A command under way in the guest.
///
/// Its pipes can be taken out and used apart. Dropping the `Execution` before the command has exited kills the command's
/// process group; afterwards the pipes live on until they are dropped.
pub struct Execution {
    pid: u32,
    terminal: bool,
    guard: Arc<Guard>,
    /// Present when the request asked for it.
    pub stdin: Option<PipeWriter>,
    pub stdout: Option<PipeReader>,
    pub stderr: Option<PipeReader>,
}

impl Execution {
    pub(super) fn new(guard: Arc<Guard>, pid: u32, stdin: bool, terminal: bool) -> Self {
        Self {
            pid,
            terminal,
            stdin: stdin.then(|| PipeWriter::new(guard.clone())),
            stdout: Some(PipeReader::new(guard.clone(), PIPE_STDOUT)),
            stderr: Some(PipeReader::new(guard.clone(), PIPE_STDERR)),
            guard,
        }
    }

    /// The command's process id in the guest, which is its process group's too.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has a terminal; a guest with an agent that knows of none gives pipes instead.
    pub fn has_terminal(&self) -> bool {
        self.terminal
    }

    /// Tells the command's terminal its new size.
    pub fn resize(&self, size: TerminalSize) {
        self.guard.stream.resize(size);
    }

    /// Waits until the command itself has exited.
    ///
    /// Its output may not have been read to the end yet; and a process that it left behind may hold its output open for as
    /// long as that runs, so wait for both only where the command is known to leave nothing behind.
    pub async fn wait(&self) -> Result<ExitStatus, ChannelError> {
        match self.guard.stream.outcome().await? {
            Outcome::Exited(status) => Ok(status),
            other => Err(ChannelError::Protocol { detail: format!("a command came out as {other:?}") }),
        }
    }

    /// Kills the command's process group. What it has printed can still be read as far as it has arrived.
    pub fn cancel(&self) {
        self.guard.cancel();
    }

    /// Ends standard input, reads both outputs to their ends and waits for the exit. Of each output at most `limit` bytes
    /// are kept; the rest is read and dropped.
    pub async fn output(mut self, limit: usize) -> Result<CommandOutput, ChannelError> {
        self.stdin = None;
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr, status) = tokio::join!(keep(stdout, limit), keep(stderr, limit), self.wait());
        let (status, (stdout, more_stdout), (stderr, more_stderr)) = (status?, stdout?, stderr?);
        Ok(CommandOutput { status, stdout, stderr, truncated: more_stdout || more_stderr })
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if !self.guard.stream.has_outcome() {
            self.guard.cancel();
        }
    }
}
