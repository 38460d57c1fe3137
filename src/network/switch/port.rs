//! One port: its socket, what waits for it, and what there was on it.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::outbox::Entry;
use super::statistics::PortStatistics;
use crate::network::fault::Nanoseconds;
use crate::network::queue::OutputQueue;

/// What one machine may have waiting for another. Who has more is not read from any further until the other has taken
/// some, so that a fast sender is slowed down and not robbed, as by a good network card.
pub const SOURCE_LIMIT: usize = 512 << 10;

/// Frames that links release come without being asked for: they are dropped from here on.
const HARD_LIMIT: usize = 2 * SOURCE_LIMIT;

/// A port that has taken nothing for so long while something waited for it holds up nobody any more: what exceeds the
/// limit is dropped until it takes some again. A paused machine must not stop the others.
pub const STALL: Duration = Duration::from_millis(500);

const STALL_NANOSECONDS: Nanoseconds = STALL.as_nanos() as Nanoseconds;

/// Slices that are written at once.
const SLICES: usize = 64;

#[derive(Debug)]
pub struct Port {
    pub listener: Option<(UnixListener, PathBuf)>,
    pub connection: Option<Connection>,
    pub statistics: PortStatistics,
}

/// The machine's end is connected.
#[derive(Debug)]
pub struct Connection {
    pub socket: OwnedFd,
    /// The beginning of a frame whose rest has not come; shorter than the longest frame.
    pub partial: Vec<u8>,
    pub output: OutputQueue,
    last_progress: Nanoseconds,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, partial: Vec::new(), output: OutputQueue::default(), last_progress: 0 }
    }

    /// When this port holds up `from` until, if it does.
    #[inline]
    pub fn holds_up(&self, from: usize, now: Nanoseconds) -> Option<Nanoseconds> {
        let until = self.last_progress + STALL_NANOSECONDS;
        (self.output.held_of(from) >= SOURCE_LIMIT && until > now).then_some(until)
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn write_waiting(&mut self, now: Nanoseconds) -> Result<(), Errno> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.output.slices(&mut slices);
            let wanted: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            let written = write(&self.socket, &slices[..count])?;
            if written > 0 {
                self.output.consume(written);
                self.last_progress = now;
            }
            if written < wanted {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Hands frames over: to the socket where nothing waits before them, the rest to the queue.
    fn deliver(
        &mut self,
        entries: &[Entry],
        buffer: &[u8],
        now: Nanoseconds,
        statistics: &mut PortStatistics,
    ) -> Result<(), Errno> {
        let mut sent = 0;
        // Bytes of the first entry that is not wholly sent.
        let mut part = 0;
        if self.output.is_empty() {
            self.last_progress = now;
            while sent < entries.len() {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let group = &entries[sent..entries.len().min(sent + SLICES)];
                for (slot, entry) in slices.iter_mut().zip(group) {
                    *slot = IoSlice::new(entry.bytes(buffer));
                }
                let slices = &slices[..group.len()];
                let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
                let mut written = write(&self.socket, slices)?;
                let full = written < wanted;
                for slice in slices {
                    if written < slice.len() {
                        part = written;
                        break;
                    }
                    written -= slice.len();
                    statistics.delivered_frames += entries[sent].frames;
                    statistics.delivered_bytes += slice.len() as u64;
                    sent += 1;
                }
                if full {
                    break;
                }
            }
        }
        for entry in &entries[sent..] {
            let bytes = entry.bytes(buffer);
            let held = self.output.held_of(entry.from);
            let stalled = held >= SOURCE_LIMIT && self.last_progress + STALL_NANOSECONDS <= now;
            // What was begun is ended: half a frame would be garbage.
            if part == 0 && (stalled || held >= HARD_LIMIT) {
                statistics.dropped_full += entry.frames;
                continue;
            }
            statistics.delivered_frames += entry.frames;
            statistics.delivered_bytes += bytes.len() as u64;
            self.output.push(entry.from, &bytes[part..]);
            part = 0;
        }
        Ok(())
    }
}

impl Port {
    /// Hands frames to the machine, or counts what it cannot get.
    pub fn deliver(&mut self, entries: &[Entry], buffer: &[u8], now: Nanoseconds) -> Result<(), Errno> {
        match &mut self.connection {
            Some(connection) => connection.deliver(entries, buffer, now, &mut self.statistics),
            None => {
                self.statistics.dropped_down += entries.iter().map(|entry| entry.frames).sum::<u64>();
                Ok(())
            }
        }
    }
}

/// Bytes that the socket took; none where it is full.
fn write(socket: &OwnedFd, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        let written = match slices {
            // Nearly always one run of frames; the simpler call is the faster one.
            [slice] => send(socket, slice, flags),
            slices => sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags),
        };
        match written {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            result => return result,
        }
    }
}
