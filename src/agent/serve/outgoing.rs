//! Frames that wait for the port: short ones that must not wait first, then everything else in order.
//!
//! Needs no bound of its own: what streams may queue is bounded by their credit.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::channel::protocol::MAX_FRAME;

#[derive(Default)]
pub struct Outgoing {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    /// Which session's frames are taken; those of an earlier one are dropped.
    generation: u64,
    urgent: VecDeque<Vec<u8>>,
    ordered: VecDeque<Vec<u8>>,
    writing: bool,
    closed: bool,
}

impl Outgoing {
    /// Drops what the last session has queued; the answer is the new session's generation.
    pub fn begin_generation(&self) -> u64 {
        let mut queues = self.lock();
        queues.generation += 1;
        queues.urgent.clear();
        queues.ordered.clear();
        queues.generation
    }

    /// Overtakes whatever is queued in order: handshakes, credit, pongs.
    pub fn push_urgent(&self, generation: u64, frame: Vec<u8>) {
        let mut queues = self.lock();
        if queues.generation == generation {
            queues.urgent.push_back(frame);
            self.changed.notify_all();
        }
    }

    pub fn push(&self, generation: u64, frame: Vec<u8>) {
        let mut queues = self.lock();
        if queues.generation == generation {
            queues.ordered.push_back(frame);
            self.changed.notify_all();
        }
    }

    /// Waits until everything has been written, at most that long: the host may be gone.
    pub fn flush(&self, at_most: Duration) {
        let queues = self.lock();
        let _ = self.changed.wait_timeout_while(queues, at_most, |queues| {
            !queues.closed && (queues.writing || !queues.urgent.is_empty() || !queues.ordered.is_empty())
        });
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The writer's thread: ends when it is closed or the port cannot be written, which its reader finds out as well.
    pub fn write_to(&self, mut port: impl Write) {
        // One write of the longest frame, or of several short ones.
        let mut batch = Vec::with_capacity(MAX_FRAME);
        while self.next_batch(&mut batch) {
            if port.write_all(&batch).is_err() {
                self.close();
                return;
            }
        }
    }

    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        let mut queues = self.lock();
        queues.writing = false;
        self.changed.notify_all();
        loop {
            if queues.closed {
                return false;
            }
            while let Some(next) = queues.urgent.front().or_else(|| queues.ordered.front())
                && (batch.is_empty() || batch.len() + next.len() <= MAX_FRAME)
            {
                let frame = match queues.urgent.pop_front() {
                    Some(frame) => Some(frame),
                    None => queues.ordered.pop_front(),
                };
                batch.extend_from_slice(&frame.unwrap_or_default());
            }
            if !batch.is_empty() {
                queues.writing = true;
                return true;
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
