//! A session: from HELLO to whatever ends it, and the streams in between.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Agent;
use super::outgoing::Outgoing;
use super::stream::Stream;
use super::{connect, exec, facts, files, power};
use crate::agent::{say, waits};
use crate::channel::protocol::{
    Frame, FrameKind, Hello, HelloAck, Outcome, PROTOCOL_VERSION, Refusal, RefusalReason, Request, encode, encode_json,
    preamble,
};

pub struct Session {
    pub agent: Arc<Agent>,
    outgoing: Arc<Outgoing>,
    generation: u64,
    hello: Hello,
    established: AtomicBool,
    streams: Mutex<BTreeMap<u32, Arc<Stream>>>,
}

/// What becomes of a session after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Stay,
    /// Another host is there: it needs a session of its own.
    Renew,
}

impl Session {
    pub fn begin(agent: Arc<Agent>, outgoing: Arc<Outgoing>) -> Arc<Self> {
        let session = Arc::new(Self {
            hello: facts::hello(agent.role),
            agent,
            generation: outgoing.begin_generation(),
            outgoing,
            established: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        // Whoever wrote here before (this guest, before it was reset) may have left half a frame.
        session.push_urgent(preamble());
        session.greet();
        session
    }

    /// Takes back everything that is under way.
    pub fn end(&self) {
        self.established.store(false, Ordering::Relaxed);
        for stream in std::mem::take(&mut *self.lock()).into_values() {
            stream.cancel();
        }
    }

    pub fn handle(self: &Arc<Self>, frame: Frame) -> Next {
        match frame.kind {
            FrameKind::HelloAck => self.acknowledged(&frame.payload),
            FrameKind::Solicit if self.established() => return Next::Renew,
            // The host has not seen our HELLO, or its answer is under way: saying it twice does no harm.
            FrameKind::Solicit => self.greet(),
            // What is still under way from a session that the host had with someone else.
            _ if !self.established() => {}
            FrameKind::Ping => self.push_urgent(encode(FrameKind::Pong, 0, 0, &frame.payload)),
            FrameKind::Open => self.open(frame),
            FrameKind::Data | FrameKind::End | FrameKind::Credit | FrameKind::Resize | FrameKind::Reset => {
                let stream = self.lock().get(&frame.stream).cloned();
                // None: it is over, and the host does not know yet.
                if let Some(stream) = stream {
                    stream.deliver(frame);
                }
            }
            FrameKind::Hello | FrameKind::Opened | FrameKind::Finished | FrameKind::Pong => {}
        }
        Next::Stay
    }

    fn greet(&self) {
        if let Some(frame) = encode_json(FrameKind::Hello, 0, &self.hello) {
            self.push_urgent(frame);
        }
    }

    fn acknowledged(self: &Arc<Self>, payload: &[u8]) {
        let Ok(ack) = serde_json::from_slice::<HelloAck>(payload) else { return };
        if ack.nonce != self.hello.nonce || self.established() {
            return;
        }
        if ack.protocol != PROTOCOL_VERSION {
            say(&format!(
                "the host (version {}) speaks protocol {}, and this agent speaks {PROTOCOL_VERSION}",
                ack.host_version, ack.protocol
            ));
            return;
        }
        self.established.store(true, Ordering::Relaxed);
        let markers = self.agent.markers();
        // The console may be slow, and the channel must not wait for it.
        let emit = move || {
            if let Err(error) = markers.emit_once("agent.ready") {
                say(&format!("failed to emit the marker `agent.ready`: {error}"));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("marker".into()).spawn(emit) {
            say(&format!("failed to start a thread: {error}"));
        }
    }

    fn open(self: &Arc<Self>, frame: Frame) {
        let refuse = |reason, message: String| self.reset(frame.stream, &Refusal { reason, message });
        let request = match serde_json::from_slice(&frame.payload) {
            Ok(request) => request,
            Err(error) => return refuse(RefusalReason::Invalid, format!("failed to understand the request: {error}")),
        };
        let stream = match Stream::new(frame.stream, self.clone()) {
            Ok(stream) => Arc::new(stream),
            Err(error) => {
                return refuse(RefusalReason::from_error(&error), format!("failed to open a stream: {error}"));
            }
        };
        self.lock().insert(frame.stream, stream.clone());
        let run = {
            let stream = stream.clone();
            move || {
                fulfil(&stream, request);
                stream.session.agent.tasks.end();
            }
        };
        self.agent.tasks.begin();
        let builder = std::thread::Builder::new().name(format!("stream {}", frame.stream)).stack_size(256 << 10);
        if let Err(error) = builder.spawn(run) {
            self.agent.tasks.end();
            stream.refuse(RefusalReason::NoSpace, format!("failed to start a thread: {error}"));
        }
    }

    pub fn push(&self, frame: Vec<u8>) {
        self.outgoing.push(self.generation, frame);
    }

    pub fn push_urgent(&self, frame: Vec<u8>) {
        self.outgoing.push_urgent(self.generation, frame);
    }

    pub fn reset(&self, number: u32, refusal: &Refusal) {
        let frame = encode_json(FrameKind::Reset, number, refusal).unwrap_or_else(|| {
            let reason = serde_json::json!({ "reason": refusal.reason, "message": "the message is too long" });
            encode(FrameKind::Reset, 0, number, reason.to_string().as_bytes())
        });
        self.push(frame);
    }

    pub fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    pub fn forget(&self, number: u32) {
        self.lock().remove(&number);
    }

    fn established(&self) -> bool {
        self.established.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream's thread.
fn fulfil(stream: &Stream, request: Request) {
    let agent = &stream.session.agent;
    let markers = agent.markers();
    let result = match request {
        Request::Exec(request) => return exec::run(stream, &request),
        Request::ReadFile { path } => return files::read(stream, &path),
        Request::WriteFile { path, mode } => return files::write(stream, &path, mode),
        Request::Connect { address } => return connect::run(stream, &address),
        Request::Await(request) => return waits::run(stream, &request),
        Request::PowerOff => return power::leave(stream, power::Way::Off),
        Request::Reboot => return power::leave(stream, power::Way::Reboot),
        Request::EmitMarker { name, node, arguments } => markers
            .emit(&name, node.as_deref(), &arguments)
            .map(|sequence| Outcome::MarkerEmitted { sequence })
            .map_err(|error| (error, "failed to emit the marker")),
        Request::TakeIdentity(identity) => Ok(Outcome::IdentityTaken(agent.take_identity(&identity))),
        Request::RepeatMarkers { from } => markers
            .repeat(from)
            .map(|count| Outcome::MarkersRepeated { count })
            .map_err(|error| (error, "failed to repeat markers")),
    };
    match result {
        Ok(outcome) => stream.finish(&outcome),
        Err((error, what)) => stream.refuse(RefusalReason::from_error(&error), format!("{what}: {error}")),
    }
}
