//! A stream: what the reader hands to its thread, and what its thread may send.
//!
//! The thread waits in one `poll` for its own descriptors and for `wake`, which counts whatever the reader has changed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::session::Session;
use crate::channel::protocol::{
    CREDIT_BATCH, Frame, FrameKind, HEADER_LENGTH, LEAST_CREDIT, MAX_PAYLOAD, Opened, Outcome, PIPE_MAIN, PIPES,
    Refusal, RefusalReason, TerminalSize, WINDOW, encode, encode_json,
};

pub struct Stream {
    number: u32,
    pub session: Arc<Session>,
    state: Mutex<State>,
    wake: OwnedFd,
}

struct State {
    input: VecDeque<Vec<u8>>,
    /// Bytes of frames in `input`.
    held: usize,
    /// Bytes of frames taken from `input` and not yet given back as credit.
    consumed: usize,
    input_ended: bool,
    /// The terminal's new size, until it is taken.
    resized: Option<TerminalSize>,
    credit: [usize; PIPES],
    cancelled: bool,
}

/// What has come for the stream's thread.
pub enum Input {
    Bytes(Vec<u8>),
    /// The host has sent everything.
    End,
    /// Nothing yet.
    None,
}

/// The host has taken the request back, or is gone.
#[derive(Debug)]
pub struct Cancelled;

impl Stream {
    pub fn new(number: u32, session: Arc<Session>) -> io::Result<Self> {
        let state = State {
            input: VecDeque::new(),
            held: 0,
            consumed: 0,
            input_ended: false,
            resized: None,
            credit: [WINDOW; PIPES],
            cancelled: false,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { number, session, state: Mutex::new(state), wake })
    }

    /// Called by the reader; never waits.
    pub fn deliver(&self, frame: Frame) {
        let mut state = self.lock();
        match frame.kind {
            FrameKind::Data if frame.pipe == PIPE_MAIN => {
                let cost = HEADER_LENGTH + frame.payload.len();
                if state.held + state.consumed + cost > WINDOW {
                    state.cancelled = true;
                    let message = "the host sent more than it had credit for".into();
                    self.session.reset(self.number, &Refusal { reason: RefusalReason::Invalid, message });
                } else {
                    state.held += cost;
                    state.input.push_back(frame.payload);
                }
            }
            FrameKind::End => state.input_ended = true,
            FrameKind::Credit => {
                if let (Ok(bytes), Some(credit)) =
                    (frame.payload.try_into(), state.credit.get_mut(usize::from(frame.pipe)))
                {
                    *credit = (*credit + u32::from_le_bytes(bytes) as usize).min(WINDOW);
                }
            }
            FrameKind::Resize => state.resized = TerminalSize::from_bytes(&frame.payload),
            FrameKind::Reset => state.cancelled = true,
            _ => return,
        }
        drop(state);
        self.notify();
    }

    /// Nobody waits for the outcome any more.
    pub fn cancel(&self) {
        self.lock().cancelled = true;
        self.notify();
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Takes what has come; the host may send as much again.
    pub fn take_input(&self) -> Input {
        let mut state = self.lock();
        match state.input.pop_front() {
            Some(bytes) => {
                let cost = HEADER_LENGTH + bytes.len();
                state.held -= cost;
                state.consumed += cost;
                if state.consumed >= CREDIT_BATCH && !state.input_ended {
                    let granted = (std::mem::take(&mut state.consumed) as u32).to_le_bytes();
                    self.session.push_urgent(encode(FrameKind::Credit, PIPE_MAIN, self.number, &granted));
                }
                Input::Bytes(bytes)
            }
            None if state.input_ended => Input::End,
            None => Input::None,
        }
    }

    /// The terminal's size, where that has changed since it was taken last.
    pub fn take_size(&self) -> Option<TerminalSize> {
        self.lock().resized.take()
    }

    /// How many bytes may be sent on the pipe now; 0 when it has to wait for credit.
    pub fn room(&self, pipe: u8) -> usize {
        let credit = self.lock().credit[usize::from(pipe)];
        if credit < LEAST_CREDIT { 0 } else { (credit - HEADER_LENGTH).min(MAX_PAYLOAD) }
    }

    /// Sends at most what there is [`room`](Self::room) for.
    pub fn send(&self, pipe: u8, bytes: &[u8]) {
        let credit = &mut self.lock().credit[usize::from(pipe)];
        *credit = credit.saturating_sub(HEADER_LENGTH + bytes.len());
        self.session.push(encode(FrameKind::Data, pipe, self.number, bytes));
    }

    pub fn end(&self, pipe: u8) {
        self.session.push(encode(FrameKind::End, pipe, self.number, &[]));
    }

    pub fn opened(&self, opened: &Opened) {
        self.session.push(encode_json(FrameKind::Opened, self.number, opened).unwrap_or_default());
    }

    /// How the request came out. The stream stays for what is still to be sent.
    pub fn outcome(&self, outcome: &Outcome) {
        self.session.push(encode_json(FrameKind::Finished, self.number, outcome).unwrap_or_default());
    }

    /// The outcome, and nothing after it.
    pub fn finish(&self, outcome: &Outcome) {
        self.outcome(outcome);
        self.close();
    }

    pub fn refuse(&self, reason: RefusalReason, message: String) {
        self.session.reset(self.number, &Refusal { reason, message });
        self.close();
    }

    /// Forgets the stream: nothing is delivered to it any more.
    pub fn close(&self) {
        self.session.forget(self.number);
    }

    /// Waits for one of the descriptors, or until the reader has changed something.
    pub fn wait<'a>(&'a self, descriptors: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        self.wait_until(descriptors, None)
    }

    /// The same, at most until then.
    pub fn wait_until<'a>(&'a self, descriptors: &mut Vec<PollFd<'a>>, until: Option<Instant>) -> io::Result<()> {
        let mut all = Vec::with_capacity(descriptors.len() + 1);
        all.push(PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN));
        all.append(descriptors);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut all, left.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count[..]);
        descriptors.extend(all.drain(1..));
        Ok(())
    }

    /// Waits until something may be sent on the pipe; the answer is how much.
    pub fn wait_for_room(&self, pipe: u8) -> Result<usize, Cancelled> {
        loop {
            if self.is_cancelled() {
                return Err(Cancelled);
            }
            match self.room(pipe) {
                0 => self.wait(&mut Vec::new()).map_err(|_| Cancelled)?,
                room => return Ok(room),
            }
        }
    }

    /// Waits for input; `None` once everything has come.
    pub fn wait_for_input(&self) -> Result<Option<Vec<u8>>, Cancelled> {
        loop {
            if self.is_cancelled() {
                return Err(Cancelled);
            }
            match self.take_input() {
                Input::Bytes(bytes) => return Ok(Some(bytes)),
                Input::End => return Ok(None),
                Input::None => self.wait(&mut Vec::new()).map_err(|_| Cancelled)?,
            }
        }
    }

    fn notify(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
