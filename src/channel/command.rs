//! What a way into a guest can do, whichever it is.

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::error::ChannelError;
use super::protocol::{ExecRequest, ExitStatus};
use crate::lane::model::ChannelKind;

/// Bytes that go into a guest, or come out of it.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Where bytes for a guest are written; shutting it down, or dropping it, says that no more come.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A way into one guest.
///
/// A path is one of the guest's. Dropping a future takes back what it has begun.
pub trait Channel: Send + Sync {
    fn kind(&self) -> ChannelKind;

    /// Waits until the guest answers: at once where it does, through its boot otherwise.
    ///
    /// # Errors
    /// What can be known without more waiting: a connection that is over, a greeting that did not come within its bound, a
    /// wrong password or key.
    fn ready(&self) -> BoxFuture<'_, Result<(), ChannelError>>;

    /// Says that the guest is known to be gone (it was reset, or its power is off): what is under way fails now, and `ready`
    /// waits for the next boot.
    fn forget_session(&self, reason: &str);

    /// Starts a command in a process group of its own; answers once it runs.
    ///
    /// # Errors
    /// `Refused` with `NotFound` or `PermissionDenied` when the program or its working directory is the cause. Ways that are
    /// told no more than the command's end say it by its status, 127 and 126, as a shell does.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Command, ChannelError>>;

    /// Opens a file for reading. Its reader ends only once the whole file was read: anything else is an error.
    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<FileContent, ChannelError>>;

    /// Writes a file with these permission bits; answers the bytes written once it is there, whole and synced. Until then,
    /// and when this fails or is dropped, a file of that name stays as it was.
    fn write_file<'a>(&'a self, path: &'a str, mode: u32, source: Input) -> BoxFuture<'a, Result<u64, ChannelError>>;
}

/// A file of the guest.
pub struct FileContent {
    /// Ends once the whole file was read.
    pub reader: Input,
    /// The permission bits.
    pub mode: u32,
}

/// How a command that is under way is waited for and ended. Dropping it before the command has ended kills the command's
/// process group.
pub trait CommandControl: Send + Sync {
    /// Waits until the command itself has ended; a process that it left behind may hold its output open for longer.
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>>;

    /// Kills the command's process group, unless the command has ended. What it has printed can still be read as far as it
    /// has arrived.
    fn cancel(&self);
}

/// A command under way in the guest.
///
/// Its pipes can be taken out and used apart. Dropping the rest before the command has ended kills its process group.
pub struct Command {
    /// Present when the request asked for it.
    pub stdin: Option<Output>,
    pub stdout: Option<Input>,
    pub stderr: Option<Input>,
    control: Box<dyn CommandControl>,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// More was printed than the limit allowed to keep.
    pub truncated: bool,
}

impl Command {
    pub fn new(stdin: Option<Output>, stdout: Input, stderr: Input, control: Box<dyn CommandControl>) -> Self {
        Self { stdin, stdout: Some(stdout), stderr: Some(stderr), control }
    }

    /// Waits until the command itself has ended.
    ///
    /// Its output may not have been read to the end yet; and a process that it left behind may hold its output open for as
    /// long as that runs, so wait for both only where the command is known to leave nothing behind.
    pub fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>> {
        self.control.wait()
    }

    /// Kills the command's process group. What it has printed can still be read as far as it has arrived.
    pub fn cancel(&self) {
        self.control.cancel();
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

/// Reads a pipe to its end; gives the first `limit` bytes, and whether there were more.
pub(super) async fn keep(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Result<(Vec<u8>, bool), ChannelError> {
    let mut kept = Vec::new();
    let mut truncated = false;
    let Some(mut pipe) = pipe else { return Ok((kept, truncated)) };
    let mut chunk = vec![0; 32 << 10];
    loop {
        let count = match pipe.read(&mut chunk).await {
            Ok(0) => return Ok((kept, truncated)),
            Ok(count) => count,
            Err(error) => return Err(ChannelError::of_io(&error)),
        };
        let room = limit - kept.len();
        truncated |= count > room;
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
}
