//! Sessions: what the pump does with each frame, and what becomes of streams when a session ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot, watch};

use super::channel::ChannelEvent;
use super::outgoing::Outgoing;
use super::stream::Stream;
use crate::channel::ChannelError;
use crate::channel::protocol::{
    Decoder, Frame, FrameKind, Hello, HelloAck, PROTOCOL_VERSION, Refusal, RefusalReason, Request, Solicit, encode,
    encode_json, preamble,
};

/// Whether the agent can be spoken to.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    Waiting,
    Ready(Arc<Hello>),
    /// The agent answered, in a version that is not ours.
    Mismatch(ChannelError),
    Closed {
        reason: String,
    },
}

pub(super) struct Session {
    pub(super) outgoing: Outgoing,
    standing: watch::Sender<Standing>,
    open: Mutex<Open>,
    next_stream: AtomicU32,
    next_ping: AtomicU64,
}

/// Held while the standing changes, so that nothing is opened in a session that has just ended.
struct Open {
    /// Until the connection is over.
    events: Option<mpsc::UnboundedSender<ChannelEvent>>,
    streams: HashMap<u32, Arc<Stream>>,
    pings: HashMap<u64, oneshot::Sender<()>>,
}

impl Session {
    pub(super) fn new(events: mpsc::UnboundedSender<ChannelEvent>) -> Self {
        let session = Self {
            outgoing: Outgoing::default(),
            standing: watch::Sender::new(Standing::Waiting),
            open: Mutex::new(Open { events: Some(events), streams: HashMap::new(), pings: HashMap::new() }),
            next_stream: AtomicU32::new(1),
            next_ping: AtomicU64::new(1),
        };
        // Whoever was connected before may have left half a frame, and the guest may be up already.
        session.outgoing.push_urgent(preamble());
        session.solicit();
        session
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Reads and handles frames until the connection ends; the answer is why it did.
    pub(super) async fn pump(&self, mut reader: impl AsyncRead + Unpin) -> String {
        let mut decoder = Decoder::default();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match reader.read(&mut chunk).await {
                Ok(0) => return "the machine closed it".into(),
                Ok(count) => decoder.push(&chunk[..count]),
                Err(error) => return format!("reading from it failed: {error}"),
            }
            while let Some(frame) = decoder.next_frame() {
                self.handle(frame);
            }
        }
    }

    fn handle(&self, frame: Frame) {
        match frame.kind {
            FrameKind::Hello => {
                // One that cannot be read has no nonce to answer with; it is as good as damaged.
                if let Ok(hello) = serde_json::from_slice(&frame.payload) {
                    self.greet(hello);
                }
            }
            FrameKind::Pong => {
                if let Ok(bytes) = frame.payload.try_into()
                    && let Some(waiter) = self.lock().pings.remove(&u64::from_le_bytes(bytes))
                {
                    let _ = waiter.send(());
                }
            }
            _ => {
                let stream = self.lock().streams.get(&frame.stream).cloned();
                // None: it was dropped here while the frame was under way.
                if let Some(stream) = stream {
                    stream.handle(frame);
                }
            }
        }
    }

    fn greet(&self, hello: Hello) {
        let mut open = self.lock();
        let known = match &*self.standing.borrow() {
            Standing::Ready(current) if current.nonce == hello.nonce => true,
            Standing::Closed { .. } => return,
            _ => false,
        };
        if !known {
            let reason = match &*self.standing.borrow() {
                Standing::Ready(current) if current.boot_id == hello.boot_id => "the guest's agent was restarted",
                _ => "the guest rebooted",
            };
            self.lose(&mut open, reason);
        }
        let ack = HelloAck {
            protocol: PROTOCOL_VERSION,
            nonce: hello.nonce.clone(),
            host_version: env!("CARGO_PKG_VERSION").into(),
        };
        if let Some(frame) = encode_json(FrameKind::HelloAck, 0, &ack) {
            self.outgoing.push_urgent(frame);
        }
        if known {
            return;
        }
        if hello.protocol == PROTOCOL_VERSION {
            let hello = Arc::new(hello);
            self.standing.send_replace(Standing::Ready(hello.clone()));
            open.tell(ChannelEvent::Ready(Hello::clone(&hello)));
        } else {
            let error = ChannelError::Version {
                host: PROTOCOL_VERSION,
                agent: hello.protocol,
                agent_version: hello.agent_version,
            };
            open.tell(ChannelEvent::Lost { reason: error.to_string() });
            self.standing.send_replace(Standing::Mismatch(error));
        }
    }

    /// Ends the session that is on, if one is, and asks the agent for a new one.
    pub(super) fn forget(&self, reason: &str) {
        let mut open = self.lock();
        let is_on = matches!(*self.standing.borrow(), Standing::Ready(_));
        if is_on {
            self.lose(&mut open, reason);
            self.solicit();
        }
    }

    /// Ends the session with this nonce, whose guest is leaving by itself, without asking for another.
    pub(super) fn end(&self, nonce: &str, reason: &str) {
        let mut open = self.lock();
        let is_on = matches!(&*self.standing.borrow(), Standing::Ready(hello) if hello.nonce == nonce);
        if is_on {
            self.lose(&mut open, reason);
        }
    }

    pub(super) fn nonce(&self) -> Result<String, ChannelError> {
        Ok(self.require_ready()?.nonce.clone())
    }

    fn lose(&self, open: &mut Open, reason: &str) {
        self.outgoing.clear();
        open.pings.clear();
        for (_, stream) in open.streams.drain() {
            stream.fail(ChannelError::Lost { reason: reason.into() });
        }
        let was_ready = matches!(*self.standing.borrow(), Standing::Ready(_));
        if was_ready {
            self.standing.send_replace(Standing::Waiting);
            open.tell(ChannelEvent::Lost { reason: reason.into() });
        }
    }

    /// The connection is over: everything that waits is told so, now and later.
    pub(super) fn close(&self, reason: &str) {
        let mut open = self.lock();
        if matches!(*self.standing.borrow(), Standing::Closed { .. }) {
            return;
        }
        open.pings.clear();
        for (_, stream) in open.streams.drain() {
            stream.fail(ChannelError::Closed { reason: reason.into() });
        }
        self.standing.send_replace(Standing::Closed { reason: reason.into() });
        open.tell(ChannelEvent::Lost { reason: reason.into() });
        open.events = None;
    }

    pub(super) fn open_stream(self: &Arc<Self>, request: &Request) -> Result<Arc<Stream>, ChannelError> {
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let frame = encode_json(FrameKind::Open, number, request).ok_or_else(|| ChannelError::Refused {
            reason: RefusalReason::Invalid,
            message: "the request is too long: arguments and environment have to fit into 32 KiB".into(),
        })?;
        let mut open = self.lock();
        self.require_ready()?;
        let stream = Arc::new(Stream::new(number, self.clone()));
        open.streams.insert(number, stream.clone());
        self.outgoing.push(frame);
        Ok(stream)
    }

    /// Forgets a stream whose last handle is gone; one that is not over is taken back in the guest.
    pub(super) fn drop_stream(&self, number: u32, over: bool) {
        let mut open = self.lock();
        if open.streams.remove(&number).is_some() && !over {
            self.outgoing.push(cancellation(number));
        }
    }

    /// Takes a request back while its handles stay.
    pub(super) fn cancel_stream(&self, number: u32) {
        let open = self.lock();
        if open.streams.contains_key(&number) {
            self.outgoing.push(cancellation(number));
        }
    }

    pub(super) fn ping(&self) -> Result<oneshot::Receiver<()>, ChannelError> {
        let mut open = self.lock();
        self.require_ready()?;
        let number = self.next_ping.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        open.pings.insert(number, sender);
        self.outgoing.push_urgent(encode(FrameKind::Ping, 0, 0, &number.to_le_bytes()));
        Ok(receiver)
    }

    /// Why there is no session, for those whose wait was cut short.
    pub(super) fn absence(&self) -> ChannelError {
        match self.require_ready() {
            Err(error @ (ChannelError::Closed { .. } | ChannelError::Version { .. })) => error,
            _ => ChannelError::Lost { reason: "the guest rebooted, or its agent was restarted".into() },
        }
    }

    fn require_ready(&self) -> Result<Arc<Hello>, ChannelError> {
        match &*self.standing.borrow() {
            Standing::Ready(hello) => Ok(hello.clone()),
            Standing::Waiting => Err(ChannelError::NotReady),
            Standing::Mismatch(error) => Err(error.clone()),
            Standing::Closed { reason } => Err(ChannelError::Closed { reason: reason.clone() }),
        }
    }

    fn solicit(&self) {
        if let Some(frame) = encode_json(FrameKind::Solicit, 0, &Solicit { protocol: PROTOCOL_VERSION }) {
            self.outgoing.push_urgent(frame);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn tell(&self, event: ChannelEvent) {
        if let Some(events) = &self.events {
            // Nobody has to listen.
            let _ = events.send(event);
        }
    }
}

fn cancellation(number: u32) -> Vec<u8> {
    let refusal = Refusal { reason: RefusalReason::Cancelled, message: "the host took the request back".into() };
    let payload = serde_json::to_vec(&refusal).unwrap_or_default();
    encode(FrameKind::Reset, 0, number, &payload)
}
