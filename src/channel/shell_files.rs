//! Files, for ways into a guest that only run commands: any POSIX shell with `cat`, `stat`, `mktemp`, `chmod`, `mv` and `sync`
//! carries them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::command::{Channel, Command, CommandOutput, FileContent, Input, keep};
use super::error::ChannelError;
use super::protocol::{ExecRequest, ExitStatus, RefusalReason};

/// Says the permission bits in a line of its own, then gives the file.
const READ: &str = r#"
if [ ! -e "$1" ]; then exit 81; fi
if [ ! -r "$1" ]; then exit 82; fi
if [ -d "$1" ]; then exit 83; fi
stat -L -c %a -- "$1" && exec cat <"$1""#;

/// Takes the bytes into a file beside the one that they are for; says its name, before anything is in it.
const TAKE: &str = r#"
umask 077
case $1 in
*/) exit 83 ;;
*/*) folder=${1%/*}/ ;;
*) folder=./ ;;
esac
if [ ! -d "$folder" ]; then exit 81; fi
if [ ! -w "$folder" ]; then exit 82; fi
if [ -d "$1" ]; then exit 83; fi
file=$(mktemp "${folder}.bootproof.XXXXXX") && printf '%s\n' "$file" && exec cat >"$file""#;

/// Puts that file in its place if it has all the bytes.
const PLACE: &str = r#"
set -e
[ "$(wc -c <"$1")" -eq "$4" ]
chmod "$3" "$1"
sync "$1" 2>/dev/null || sync
mv -f -- "$1" "$2"
sync "${2%/*}" 2>/dev/null || sync"#;

/// More than any shell says of one file.
const MESSAGE_LIMIT: usize = 4 << 10;
/// A path's length, and a mode's, have an end.
const LINE_LIMIT: usize = 4 << 10;

/// `Channel::read_file` through a shell.
pub async fn read(channel: &dyn Channel, path: &str) -> Result<FileContent, ChannelError> {
    let mut command = channel.exec(shell(READ, &[path], false)).await?;
    let (stdout, stderr) = (command.stdout.take(), command.stderr.take());
    let Some(mut stdout) = stdout else { return Err(missing_pipe()) };
    let line = line(&mut stdout).await?;
    let file = path.to_owned();
    let ending = async move {
        let (said, status) = tokio::join!(keep(stderr, MESSAGE_LIMIT), command.wait());
        judge(&file, status?, &said?.0)
    };
    let Ok(mode) = u32::from_str_radix(&line, 8) else {
        drop(stdout);
        ending.await?;
        return Err(ChannelError::Protocol { detail: format!("the mode of `{path}` came as `{line}`") });
    };
    Ok(FileContent { reader: Box::new(ShellFile { stdout, ending: Some(ending.boxed()) }), mode: mode & 0o7777 })
}

/// `Channel::write_file` through a shell. `channel` is cloned for what has to be taken away again.
pub async fn write<C: Channel + Clone + 'static>(
    channel: &C,
    path: &str,
    mode: u32,
    mut source: Input,
) -> Result<u64, ChannelError> {
    let mut command = channel.exec(shell(TAKE, &[path], true)).await?;
    let Some(mut stdout) = command.stdout.take() else { return Err(missing_pipe()) };
    let temporary = line(&mut stdout).await?;
    command.stdout = Some(stdout);
    if temporary.is_empty() {
        let CommandOutput { status, stderr, .. } = command.output(MESSAGE_LIMIT).await?;
        judge(path, status, &stderr)?;
        return Err(ChannelError::Protocol { detail: format!("there is no file for what is to become `{path}`") });
    }
    let leftover = Leftover { channel: Some(channel.clone()), file: temporary.clone() };
    let count = send(&mut command, &mut source).await?;
    let CommandOutput { status, stderr, .. } = command.output(MESSAGE_LIMIT).await?;
    judge(path, status, &stderr)?;
    let (mode, bytes) = (format!("{mode:o}"), count.to_string());
    let placed = channel.exec(shell(PLACE, &[&temporary, path, &mode, &bytes], false)).await?;
    let CommandOutput { status, stderr, .. } = placed.output(MESSAGE_LIMIT).await?;
    judge(path, status, &stderr)?;
    leftover.disarm();
    Ok(count)
}

fn shell(script: &str, arguments: &[&str], stdin: bool) -> ExecRequest {
    let words = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
    ExecRequest { stdin, ..ExecRequest::new(words) }
}

/// Whatever the command has not read stays unsent: how it ended says why.
async fn send(command: &mut Command, source: &mut Input) -> Result<u64, ChannelError> {
    let Some(mut stdin) = command.stdin.take() else { return Err(missing_pipe()) };
    let mut chunk = vec![0; 64 << 10];
    let mut sent = 0;
    loop {
        let count = match source.read(&mut chunk).await {
            Ok(count) => count,
            Err(error) => return Err(ChannelError::Source { kind: error.kind(), message: error.to_string() }),
        };
        if count == 0 || stdin.write_all(&chunk[..count]).await.is_err() {
            break;
        }
        sent += count as u64;
    }
    let _ = stdin.shutdown().await;
    Ok(sent)
}

async fn line(stdout: &mut Input) -> Result<String, ChannelError> {
    let mut line = Vec::new();
    while line.len() < LINE_LIMIT {
        match stdout.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                line.clear();
                break;
            }
            Err(error) => return Err(ChannelError::of_io(&error)),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// What became of a file, by its shell's status and words.
fn judge(path: &str, status: ExitStatus, said: &[u8]) -> Result<(), ChannelError> {
    let refused = |reason, message| Err(ChannelError::Refused { reason, message });
    match status {
        ExitStatus::Code(0) => Ok(()),
        ExitStatus::Code(81) => refused(RefusalReason::NotFound, format!("`{path}`: no such file or directory")),
        ExitStatus::Code(82) => refused(RefusalReason::PermissionDenied, format!("`{path}`: permission denied")),
        ExitStatus::Code(83) => refused(RefusalReason::Invalid, format!("`{path}` is a directory")),
        status => {
            let said = String::from_utf8_lossy(said);
            let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was said");
            let no_room = said.contains("No space left on device");
            let reason = if no_room { RefusalReason::NoSpace } else { RefusalReason::Other };
            refused(reason, format!("`{path}`: {said} ({status})"))
        }
    }
}

fn missing_pipe() -> ChannelError {
    ChannelError::Protocol { detail: "a command came without a pipe that was asked for".into() }
}

/// The file beside the one that is written, for as long as it has to go when nobody waits any more.
struct Leftover<C: Channel + Clone + 'static> {
    channel: Option<C>,
    file: String,
}

impl<C: Channel + Clone + 'static> Leftover<C> {
    fn disarm(mut self) {
        self.channel = None;
    }
}

impl<C: Channel + Clone + 'static> Drop for Leftover<C> {
    fn drop(&mut self) {
        let (Some(channel), Ok(runtime)) = (self.channel.take(), tokio::runtime::Handle::try_current()) else { return };
        let request = ExecRequest::new(["rm", "-f", "--", &self.file]);
        runtime.spawn(async move {
            if let Ok(command) = channel.exec(request).await {
                let _ = command.output(0).await;
            }
        });
    }
}

/// A file's bytes; after them, how the command that gave them has ended.
struct ShellFile {
    stdout: Input,
    ending: Option<BoxFuture<'static, Result<(), ChannelError>>>,
}

// The future inside is boxed, and the pipe is its own.
impl Unpin for ShellFile {}

impl AsyncRead for ShellFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ending.is_some() {
            match Pin::new(&mut self.stdout).poll_read(context, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() == before && buffer.remaining() > 0 => {}
                other => return other,
            }
        }
        let Some(ending) = &mut self.ending else { return Poll::Ready(Ok(())) };
        match ending.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.ending = None;
                Poll::Ready(result.map_err(ChannelError::into_io))
            }
        }
    }
}
