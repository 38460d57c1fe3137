//! A command's handles: pipes and control, over the session's orders.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, DuplexStream, ReadBuf};
use tokio::sync::{Semaphore, mpsc, watch};

use super::LineChannel;
use super::session::Order;
use crate::channel::command::{Command, CommandControl, Input, Output};
use crate::channel::error::ChannelError;
use crate::channel::protocol::ExitStatus;

/// How a command has ended, once it has.
pub type Status = Option<Result<ExitStatus, ChannelError>>;
/// Chunks of one output; the sender's end is the output's.
pub type Chunks = mpsc::UnboundedReceiver<Result<Vec<u8>, ChannelError>>;

/// What the session gives of a command that runs.
pub struct Parts {
    pub id: u64,
    /// Permits for chunks of standard input, where it has one; closed when the command reads no more.
    pub room: Option<Arc<Semaphore>>,
    /// Bytes of input at a time.
    pub input_chunk: usize,
    pub outputs: [Chunks; 2],
    pub status: watch::Receiver<Status>,
}

pub fn assemble(parts: Parts, channel: LineChannel) -> Command {
    let Parts { id, room, input_chunk, outputs, status } = parts;
    let stdin = room.map(|room| -> Output {
        let (ours, theirs) = tokio::io::duplex(2 * input_chunk);
        tokio::spawn(feed(id, theirs, room, input_chunk, channel.clone()));
        Box::new(ours)
    });
    let [stdout, stderr] = outputs;
    let pipe = |stream, chunks| -> Input {
        Box::new(OutputReader { id, stream, channel: channel.clone(), chunks, current: Vec::new(), at: 0, over: false })
    };
    let (stdout, stderr) = (pipe(0, stdout), pipe(1, stderr));
    Command::new(stdin, stdout, stderr, Box::new(LineControl { id, status, channel }))
}

/// Carries standard input as far as the guest has room for it.
async fn feed(id: u64, mut source: DuplexStream, room: Arc<Semaphore>, limit: usize, channel: LineChannel) {
    let mut chunk = vec![0; limit];
    while let Ok(permit) = room.acquire().await {
        permit.forget();
        let mut filled = source.read(&mut chunk).await.unwrap_or(0);
        if filled == 0 {
            let _ = channel.orders.send(Order::EndInput { id });
            return;
        }
        // What is there already goes along: each chunk costs the guest two processes.
        while filled < limit
            && let Some(Ok(more)) = source.read(&mut chunk[filled..]).now_or_never()
            && more > 0
        {
            filled += more;
        }
        if channel.orders.send(Order::Feed { id, bytes: chunk[..filled].to_vec() }).is_err() {
            return;
        }
    }
}

/// One output, chunk by chunk; the guest may send the next one when one was read.
struct OutputReader {
    id: u64,
    stream: usize,
    channel: LineChannel,
    chunks: Chunks,
    current: Vec<u8>,
    at: usize,
    over: bool,
}

impl OutputReader {
    fn give_credit(&self) {
        let _ = self.channel.orders.send(Order::Credit { id: self.id, stream: self.stream });
    }
}

impl AsyncRead for OutputReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 || self.over {
            return Poll::Ready(Ok(()));
        }
        if self.at == self.current.len() {
            match self.chunks.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.over = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into_io())),
                Poll::Ready(Some(Ok(chunk))) => {
                    self.current = chunk;
                    self.at = 0;
                }
            }
        }
        let count = buffer.remaining().min(self.current.len() - self.at);
        buffer.put_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        if self.at == self.current.len() {
            self.give_credit();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        // What nobody reads must not hold the guest up.
        self.chunks.close();
        if self.at < self.current.len() {
            self.give_credit();
        }
        while let Ok(Ok(_)) = self.chunks.try_recv() {
            self.give_credit();
        }
    }
}

struct LineControl {
    id: u64,
    status: watch::Receiver<Status>,
    channel: LineChannel,
}

impl CommandControl for LineControl {
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>> {
        async {
            let mut status = self.status.clone();
            loop {
                if let Some(ended) = &*status.borrow_and_update() {
                    return ended.clone();
                }
                if status.changed().await.is_err() {
                    return Err(self.channel.closed());
                }
            }
        }
        .boxed()
    }

    fn cancel(&self) {
        let _ = self.channel.orders.send(Order::Cancel { id: self.id });
    }
}

impl Drop for LineControl {
    fn drop(&mut self) {
        if self.status.borrow().is_none() {
            self.cancel();
        }
    }
}
