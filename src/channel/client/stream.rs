//! Streams: the state that the pump and a stream's handles share, and the handles for its pipes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::channel::AgentChannel;
use super::session::Session;
use crate::channel::ChannelError;
use crate::channel::protocol::{
    CREDIT_BATCH, Frame, FrameKind, HEADER_LENGTH, LEAST_CREDIT, MAX_PAYLOAD, Opened, Outcome, PIPE_MAIN, PIPE_STDERR,
    PIPE_STDOUT, PIPES, Refusal, TerminalSize, WINDOW, encode,
};

pub(super) struct Stream {
    pub(super) number: u32,
    session: Arc<Session>,
    state: Mutex<State>,
    /// Something other than a pipe has changed: opened, an outcome, a failure.
    progress: Notify,
}

struct State {
    opened: Option<Opened>,
    outcome: Option<Outcome>,
    failure: Option<ChannelError>,
    incoming: [Incoming; PIPES],
    credit: usize,
    sending_ended: bool,
    writer: Option<Waker>,
}

#[derive(Default)]
struct Incoming {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk has been read.
    offset: usize,
    /// Bytes of frames, waiting in `chunks`.
    held: usize,
    /// Bytes of frames, read but not yet given back as credit.
    consumed: usize,
    ended: bool,
    /// Nobody reads any more: what comes is dropped.
    abandoned: bool,
    reader: Option<Waker>,
}

impl Stream {
    pub(super) fn new(number: u32, session: Arc<Session>) -> Self {
        let state = State {
            opened: None,
            outcome: None,
            failure: None,
            incoming: Default::default(),
            credit: WINDOW,
            sending_ended: false,
            writer: None,
        };
        Self { number, session, state: Mutex::new(state), progress: Notify::new() }
    }

    /// Called by the pump; never waits.
    pub(super) fn handle(&self, frame: Frame) {
        let pipe = usize::from(frame.pipe);
        let mut state = self.lock();
        match frame.kind {
            FrameKind::Opened => match serde_json::from_slice(&frame.payload) {
                Ok(opened) => state.opened = Some(opened),
                Err(error) => state.fail(unreadable("OPENED", &error)),
            },
            FrameKind::Finished => match serde_json::from_slice(&frame.payload) {
                Ok(outcome) => {
                    state.outcome = Some(outcome);
                    // Nobody takes input any more.
                    state.wake_writer();
                }
                Err(error) => state.fail(unreadable("FINISHED", &error)),
            },
            FrameKind::Reset => match serde_json::from_slice::<Refusal>(&frame.payload) {
                Ok(refusal) => state.fail(refusal.into()),
                Err(error) => state.fail(unreadable("RESET", &error)),
            },
            FrameKind::Data => {
                let cost = HEADER_LENGTH + frame.payload.len();
                let incoming = &mut state.incoming[pipe];
                if incoming.held + incoming.consumed + cost > WINDOW {
                    state.fail(ChannelError::Protocol { detail: "it sent more than it had credit for".into() });
                    drop(state);
                    self.session.cancel_stream(self.number);
                    self.progress.notify_waiters();
                    return;
                }
                if incoming.abandoned || frame.payload.is_empty() {
                    incoming.consumed += cost;
                    self.return_credit(frame.pipe, incoming);
                } else {
                    incoming.held += cost;
                    incoming.chunks.push_back(frame.payload);
                    incoming.wake();
                }
                return;
            }
            FrameKind::End => {
                state.incoming[pipe].ended = true;
                state.incoming[pipe].wake();
            }
            FrameKind::Credit => {
                if let Ok(bytes) = frame.payload.try_into() {
                    state.credit = (state.credit + u32::from_le_bytes(bytes) as usize).min(WINDOW);
                    state.wake_writer();
                }
                return;
            }
            FrameKind::Solicit
            | FrameKind::Hello
            | FrameKind::HelloAck
            | FrameKind::Open
            | FrameKind::Resize
            | FrameKind::Ping
            | FrameKind::Pong => return,
        }
        drop(state);
        self.progress.notify_waiters();
    }

    /// Ends the stream with a reason, unless it is over already.
    pub(super) fn fail(&self, error: ChannelError) {
        self.lock().fail(error);
        self.progress.notify_waiters();
    }

    pub(super) async fn opened(&self) -> Result<Opened, ChannelError> {
        self.until(|state| state.opened.clone()).await
    }

    pub(super) async fn outcome(&self) -> Result<Outcome, ChannelError> {
        self.until(|state| state.outcome.clone()).await
    }

    pub(super) fn has_outcome(&self) -> bool {
        self.lock().outcome.is_some()
    }

    async fn until<T>(&self, mut wanted: impl FnMut(&State) -> Option<T>) -> Result<T, ChannelError> {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let state = self.lock();
                if let Some(found) = wanted(&state) {
                    return Ok(found);
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
            progress.await;
        }
    }

    fn return_credit(&self, pipe: u8, incoming: &mut Incoming) {
        if incoming.consumed >= CREDIT_BATCH && !incoming.ended {
            let granted = (incoming.consumed as u32).to_le_bytes();
            incoming.consumed = 0;
            self.session.outgoing.push_urgent(encode(FrameKind::Credit, pipe, self.number, &granted));
        }
    }

    fn poll_read(&self, pipe: u8, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let state = &mut *state;
        let incoming = &mut state.incoming[usize::from(pipe)];
        let mut any = false;
        while buffer.remaining() > 0
            && let Some(chunk) = incoming.chunks.front()
        {
            let rest = &chunk[incoming.offset..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            incoming.offset += count;
            any = true;
            if incoming.offset == chunk.len() {
                let cost = HEADER_LENGTH + chunk.len();
                incoming.chunks.pop_front();
                incoming.offset = 0;
                incoming.held -= cost;
                incoming.consumed += cost;
            }
        }
        if any || buffer.remaining() == 0 {
            if state.failure.is_none() {
                self.return_credit(pipe, incoming);
            }
            return Poll::Ready(Ok(()));
        }
        if incoming.ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone().into_io()));
        }
        incoming.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone().into_io()));
        }
        if state.sending_ended || state.outcome.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if state.credit < LEAST_CREDIT {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(MAX_PAYLOAD).min(state.credit - HEADER_LENGTH);
        state.credit -= HEADER_LENGTH + count;
        self.session.outgoing.push(encode(FrameKind::Data, PIPE_MAIN, self.number, &bytes[..count]));
        Poll::Ready(Ok(count))
    }

    /// The terminal has another size now.
    pub(super) fn resize(&self, size: TerminalSize) {
        let state = self.lock();
        if state.failure.is_none() && state.outcome.is_none() {
            self.session.outgoing.push(encode(FrameKind::Resize, PIPE_MAIN, self.number, &size.to_bytes()));
        }
    }

    fn end_sending(&self) {
        let mut state = self.lock();
        if !state.sending_ended && state.failure.is_none() && state.outcome.is_none() {
            self.session.outgoing.push(encode(FrameKind::End, PIPE_MAIN, self.number, &[]));
        }
        state.sending_ended = true;
    }

    fn abandon(&self, pipe: u8) {
        let mut state = self.lock();
        let is_live = state.failure.is_none();
        let incoming = &mut state.incoming[usize::from(pipe)];
        incoming.abandoned = true;
        incoming.chunks.clear();
        incoming.offset = 0;
        incoming.consumed += std::mem::take(&mut incoming.held);
        if is_live {
            self.return_credit(pipe, incoming);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing more will come from the guest.
    fn is_over(&self) -> bool {
        let outputs_ended =
            || self.incoming[usize::from(PIPE_STDOUT)].ended && self.incoming[usize::from(PIPE_STDERR)].ended;
        match &self.outcome {
            _ if self.failure.is_some() => true,
            None => false,
            Some(Outcome::Exited(_)) => outputs_ended(),
            Some(_) => true,
        }
    }

    fn fail(&mut self, error: ChannelError) {
        if self.is_over() {
            return;
        }
        self.failure = Some(error);
        self.wake_writer();
        for incoming in &mut self.incoming {
            incoming.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl Incoming {
    fn wake(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> ChannelError {
    ChannelError::Protocol { detail: format!("{what} cannot be read: {error}") }
}

/// Keeps a stream alive for its handles; the last one to go takes back what is not over.
pub(super) struct Guard {
    pub(super) stream: Arc<Stream>,
    /// The connection lasts as long as any handle.
    _channel: AgentChannel,
}

impl Guard {
    pub(super) fn new(stream: Arc<Stream>, channel: AgentChannel) -> Arc<Self> {
        Arc::new(Self { stream, _channel: channel })
    }

    /// Takes the request back now; what has arrived can still be read.
    pub(super) fn cancel(&self) {
        self.stream.session.cancel_stream(self.stream.number);
        self.stream.fail(ChannelError::Cancelled);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let over = self.stream.lock().is_over();
        self.stream.session.drop_stream(self.stream.number, over);
    }
}

/// What the guest sends on one pipe. Dropping it drops what still comes, without holding up the guest.
pub struct PipeReader {
    guard: Arc<Guard>,
    pipe: u8,
}

impl PipeReader {
    pub(super) fn new(guard: Arc<Guard>, pipe: u8) -> Self {
        Self { guard, pipe }
    }
}

impl AsyncRead for PipeReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.guard.stream.poll_read(self.pipe, context, buffer)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.guard.stream.abandon(self.pipe);
    }
}

/// What goes to a command's standard input. Dropping it, or shutting it down, tells the guest that no more comes.
///
/// A write is done when it is queued; how much can be queued is bounded, and the guest's consumption makes room.
pub struct PipeWriter {
    guard: Arc<Guard>,
    ends_when_dropped: bool,
}

impl PipeWriter {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, ends_when_dropped: true }
    }

    /// For what must not be taken for whole unless it is shut down.
    pub(super) fn unfinished(guard: Arc<Guard>) -> Self {
        Self { guard, ends_when_dropped: false }
    }
}

impl AsyncWrite for PipeWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.guard.stream.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.guard.stream.end_sending();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        if self.ends_when_dropped {
            self.guard.stream.end_sending();
        }
    }
}

/// A TCP connection that begins inside the guest.
///
/// Shutting it down ends one direction, as on a socket. Dropping it before the guest's side has ended resets it: what was
/// written may not arrive, so shut down and read to the end where that matters.
pub struct ChannelStream {
    guard: Arc<Guard>,
    peer: String,
}

impl ChannelStream {
    pub(super) fn new(guard: Arc<Guard>, peer: String) -> Self {
        Self { guard, peer }
    }

    /// The address that the guest is connected to.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

impl AsyncRead for ChannelStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.guard.stream.poll_read(PIPE_MAIN, context, buffer)
    }
}

impl AsyncWrite for ChannelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.guard.stream.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.guard.stream.end_sending();
        Poll::Ready(Ok(()))
    }
}
