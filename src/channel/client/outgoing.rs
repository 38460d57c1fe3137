//! Frames that wait to be written: short ones that must not wait first, then everything else in order.
//!
//! Needs no bound of its own: what streams may queue is bounded by their credit.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// What is handed to the kernel at once.
const BATCH: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Outgoing {
    queues: Mutex<Queues>,
    filled: Notify,
}

#[derive(Default)]
struct Queues {
    urgent: VecDeque<Vec<u8>>,
    ordered: VecDeque<Vec<u8>>,
}

impl Outgoing {
    /// Overtakes whatever is queued in order: handshakes, credit, pings.
    pub(super) fn push_urgent(&self, frame: Vec<u8>) {
        self.lock().urgent.push_back(frame);
        self.filled.notify_one();
    }

    pub(super) fn push(&self, frame: Vec<u8>) {
        self.lock().ordered.push_back(frame);
        self.filled.notify_one();
    }

    /// Forgets what belongs to a session that is over. A frame that is being written is still written whole.
    pub(super) fn clear(&self) {
        *self.lock() = Queues::default();
    }

    /// Writes what is queued for as long as that works; the answer is why it did not.
    pub(super) async fn write_to(&self, mut writer: impl AsyncWrite + Unpin) -> std::io::Error {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            batch.clear();
            {
                let mut queues = self.lock();
                while batch.len() < BATCH
                    && let Some(frame) = queues.urgent.pop_front().or_else(|| queues.ordered.pop_front())
                {
                    batch.extend_from_slice(&frame);
                }
            }
            if batch.is_empty() {
                self.filled.notified().await;
            } else if let Err(error) = writer.write_all(&batch).await {
                return error;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
