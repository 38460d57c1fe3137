//! The way into a guest by qemu-guest-agent, as everything else uses it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::command::{self, Session};
use super::conversation::Conversation;
use crate::channel::{
    Channel, ChannelError, Command, ExecRequest, ExitStatus, FileContent, Input, RefusalReason, shell_files,
};
use crate::lane::model::ChannelKind;
use crate::secret::{hex, random};

/// Makes the folder, on a disk and not in memory: outputs wait there.
const FOLDER: &str = r#"mktemp -d "${TMPDIR:-/var/tmp}/bootproof-XXXXXXXXXX""#;
/// A file's permission bits, or why there are none.
const MODE: &str =
    r#"if [ ! -e "$1" ]; then exit 81; fi; if [ -d "$1" ]; then exit 83; fi; exec stat -L -c %a -- "$1""#;

/// qemu-guest-agent in one guest. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct GuestAgentChannel(Arc<Inner>);

struct Inner {
    conversation: Conversation,
    /// The session that was prepared last.
    session: Mutex<Option<Session>>,
    commands: AtomicU64,
    within: Duration,
}

impl GuestAgentChannel {
    /// Takes a connection to the port `org.qemu.guest_agent.0`, whether or not the guest is up. `within`: how long an agent
    /// may take until it answers for the first time, from when it is first needed; `bound`: how long one request may take it.
    /// Has to be called within a tokio runtime.
    pub fn start(stream: UnixStream, within: Duration, bound: Duration) -> Self {
        let conversation = Conversation::start(stream, bound);
        let session = Mutex::new(None);
        Self(Arc::new(Inner { conversation, session, commands: AtomicU64::new(0), within }))
    }

    /// Says that the guest is known to be gone (it was reset, or its power was cut): what is under way fails now.
    pub fn forget_session(&self, reason: &str) {
        self.0.conversation.forget(reason);
    }

    /// The session that is on, once it is prepared.
    async fn session(&self) -> Result<Session, ChannelError> {
        let within = self.0.within;
        timeout(within, self.prepare()).await.unwrap_or_else(|_| {
            let detail = format!(
                "no qemu-guest-agent answered within {} s; is it installed, and does it run?",
                within.as_secs_f64()
            );
            Err(ChannelError::NeverGreeted { detail })
        })
    }

    async fn prepare(&self) -> Result<Session, ChannelError> {
        let number = self.0.conversation.ready().await?;
        let mut held = self.0.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| session.number == number) {
            return Ok(session.clone());
        }
        let mut session = Session { conversation: self.0.conversation.clone(), number, folder: String::new() };
        let (status, folder) = session.script(FOLDER, &[]).await?;
        if !status.success() || !folder.starts_with('/') {
            let detail = format!("the guest has no folder for temporary files ({status})");
            return Err(ChannelError::Protocol { detail });
        }
        session.folder = folder;
        Ok(held.insert(session).clone())
    }

    async fn open(&self, path: &str) -> Result<FileContent, ChannelError> {
        let session = self.session().await?;
        let refused = |reason, what: &str| Err(ChannelError::Refused { reason, message: format!("`{path}`{what}") });
        let mode = match session.script(MODE, &[path]).await? {
            (ExitStatus::Code(0), said) => u32::from_str_radix(&said, 8)
                .map_err(|_| ChannelError::Protocol { detail: format!("the mode of `{path}` came as `{said}`") })?,
            (ExitStatus::Code(81), _) => return refused(RefusalReason::NotFound, ": no such file or directory"),
            (ExitStatus::Code(83), _) => return refused(RefusalReason::Invalid, " is a directory"),
            (status, _) => return refused(RefusalReason::Other, &format!(" has no mode ({status})")),
        };
        let handle = session.open(path, "r").await?;
        let (pipe, mut sink) = duplex(256 << 10);
        let carried = tokio::spawn(async move {
            let carried = loop {
                match session.read(handle).await {
                    Ok((bytes, at_end)) => {
                        // A reader that is gone wants no more.
                        if sink.write_all(&bytes).await.is_err() || at_end {
                            break Ok(());
                        }
                    }
                    Err(error) => break Err(error),
                }
            };
            let _ = session.close(handle).await;
            carried
        });
        Ok(FileContent { reader: Box::new(File { pipe, carried: Some(carried) }), mode: mode & 0o7777 })
    }

    async fn start_command(&self, request: &ExecRequest) -> Result<Command, ChannelError> {
        let session = self.session().await?;
        let mut bytes = [0; 4];
        random(&mut bytes)
            .map_err(|error| ChannelError::Source { kind: io::ErrorKind::Other, message: error.chain() })?;
        let number = self.0.commands.fetch_add(1, Ordering::Relaxed);
        command::start(&session, &format!("{number}-{}", hex(&bytes)), request).await
    }
}

/// A file's bytes; its end is only given once all were read.
struct File {
    pipe: DuplexStream,
    carried: Option<JoinHandle<Result<(), ChannelError>>>,
}

impl AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.pipe).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() == before && buffer.remaining() > 0 => {}
            other => return other,
        }
        let Some(carried) = &mut self.carried else { return Poll::Ready(Ok(())) };
        match Pin::new(carried).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.carried = None;
                Poll::Ready(result.map_err(io::Error::other)?.map_err(ChannelError::into_io))
            }
        }
    }
}

impl Channel for GuestAgentChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::GuestAgent
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ChannelError>> {
        async { self.session().await.map(drop) }.boxed()
    }

    fn forget_session(&self, reason: &str) {
        GuestAgentChannel::forget_session(self, reason);
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Command, ChannelError>> {
        async move { self.start_command(&request).await }.boxed()
    }

    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<FileContent, ChannelError>> {
        self.open(path).boxed()
    }

    fn write_file<'a>(&'a self, path: &'a str, mode: u32, source: Input) -> BoxFuture<'a, Result<u64, ChannelError>> {
        shell_files::write(self, path, mode, source).boxed()
    }
}
