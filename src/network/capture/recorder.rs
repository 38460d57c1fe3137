//! The switch's thread appends blocks to a buffer; a thread of the recording's own writes them to disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::pcapng::{self, Direction};
use crate::error::{Context, Error, Result};

/// Buffers that may wait for the disk. Those and the one that is being filled are all the memory that a recording takes.
const WAITING: usize = 16;

/// A buffer is handed over from this size on, or when the switch has nothing else to do.
const WORTH_WRITING: usize = 64 << 10;

/// While the disk does not keep up, the buffer grows to this size; frames beyond it are missed.
const LARGEST_BUFFER: usize = 4 << 20;

/// How a network is recorded.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// The file; it must not exist yet.
    pub path: PathBuf,
    /// Bytes that the file may have at most. The recording ends before a frame that would cross it.
    pub limit: u64,
    /// Bytes of each frame that are kept at most.
    pub snap_length: u32,
}

/// Why a recording ended.
#[derive(Debug)]
pub enum CaptureEnd {
    /// It was asked to, or the switch ended.
    Stopped,
    /// The next frame would have crossed the limit: what came after is not in the file.
    LimitReached,
    /// The file could not be written; it holds what came before.
    Failed(Error),
}

/// What a recording holds.
#[derive(Debug)]
pub struct CaptureSummary {
    /// The file's size.
    pub bytes: u64,
    /// Frames in it; one that was sent and delivered counts twice.
    pub frames: u64,
    /// Frames that are not in it because the disk was too slow.
    pub missed: u64,
    pub end: CaptureEnd,
}

#[derive(Debug, Default)]
struct Interface {
    seen: u64,
    missed: u64,
}

/// The switch's half.
#[derive(Debug)]
pub struct Recorder {
    buffer: Vec<u8>,
    chunks: SyncSender<Vec<u8>>,
    last: Arc<Mutex<Last>>,
    interfaces: Vec<Interface>,
    snap_length: u32,
    limit: u64,
    /// Of the file, once everything is written.
    bytes: u64,
    frames: u64,
    limit_reached: bool,
    /// Nanoseconds since 1970 when the switch's clock began.
    epoch: u64,
    now: u64,
}

/// What the writing thread needs to finish the file.
#[derive(Debug, Default)]
struct Last {
    buffer: Vec<u8>,
    frames: u64,
    missed: u64,
    limit_reached: bool,
}

/// A recording whose file is being written; joining gives what it holds. The recording ends when its recorder is gone.
#[derive(Debug)]
pub struct RunningCapture(JoinHandle<CaptureSummary>);

impl RunningCapture {
    pub fn join(self) -> Result<CaptureSummary> {
        self.0.join().map_err(|_| Error::infrastructure("failed to record the network: its thread panicked"))
    }
}

impl Recorder {
    /// Begins a file. `epoch` is the wall time, in nanoseconds since 1970, at which the switch's clock began.
    /// `ended` is called on the recording's thread when the file is finished.
    pub fn start(
        options: &CaptureOptions,
        epoch: u64,
        ended: impl FnOnce(&CaptureSummary) + Send + 'static,
    ) -> Result<(Self, RunningCapture)> {
        let path = options.path.clone();
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| {
            Error::storage(error, format!("failed to create the network recording `{}`", path.display()))
        })?;
        let (chunks, waiting) = sync_channel(WAITING);
        let last = Arc::new(Mutex::new(Last::default()));
        let writer = Writer { file, path, waiting, last: last.clone(), bytes: 0 };
        let thread = std::thread::Builder::new()
            .name("network-record".into())
            .spawn(move || {
                let summary = writer.run();
                ended(&summary);
                summary
            })
            .infrastructure(|| "failed to start a network recording's thread".into())?;
        let mut buffer = Vec::new();
        pcapng::section_header(&mut buffer);
        let recorder = Self {
            bytes: buffer.len() as u64,
            buffer,
            chunks,
            last,
            interfaces: Vec::new(),
            snap_length: options.snap_length.max(1),
            limit: options.limit,
            frames: 0,
            limit_reached: false,
            epoch,
            now: epoch,
        };
        Ok((recorder, RunningCapture(thread)))
    }

    /// Every port of the switch, in the order of their numbers.
    pub fn add_interface(&mut self, name: &str) {
        let before = self.buffer.len();
        pcapng::interface_description(&mut self.buffer, name, self.snap_length);
        self.bytes += (self.buffer.len() - before) as u64;
        self.interfaces.push(Interface::default());
    }

    /// The switch's clock, for what is recorded next.
    pub fn set_time(&mut self, now: u64) {
        self.now = self.epoch + now;
    }

    /// Records a frame (without its length). False once the limit is reached: then there is nothing more to do.
    pub fn record(&mut self, port: usize, direction: Direction, frame: &[u8]) -> bool {
        let Some(interface) = self.interfaces.get_mut(port) else { return true };
        interface.seen += 1;
        let size = pcapng::packet_size(frame.len().min(self.snap_length as usize));
        if self.buffer.len() + size > LARGEST_BUFFER {
            interface.missed += 1;
            return true;
        }
        // The statistics that end the file have their place too.
        let end = (self.interfaces.len() * pcapng::STATISTICS_SIZE) as u64;
        if self.bytes + size as u64 + end > self.limit {
            self.limit_reached = true;
            return false;
        }
        pcapng::packet(&mut self.buffer, port as u32, direction, self.now, frame, self.snap_length);
        self.bytes += size as u64;
        self.frames += 1;
        true
    }

    /// There is something to hand over.
    pub fn has_waiting(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Hands over what there is to write: all of it when the switch is `idle`, else when it is worth it. False when the
    /// file cannot be written any more.
    pub fn hand_over(&mut self, idle: bool) -> bool {
        if self.buffer.is_empty() || (!idle && self.buffer.len() < WORTH_WRITING) {
            return true;
        }
        match self.chunks.try_send(std::mem::take(&mut self.buffer)) {
            Ok(()) => true,
            Err(TrySendError::Full(buffer)) => {
                self.buffer = buffer;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Drop for Recorder {
    /// The file's end. The writer finds it when its channel is closed, so nobody waits for the disk here.
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for (number, interface) in self.interfaces.iter().enumerate() {
            pcapng::statistics(&mut buffer, number as u32, self.now, interface.seen, interface.missed);
        }
        if let Ok(mut last) = self.last.lock() {
            let missed = self.interfaces.iter().map(|interface| interface.missed).sum();
            *last = Last { buffer, frames: self.frames, missed, limit_reached: self.limit_reached };
        }
    }
}

struct Writer {
    file: File,
    path: PathBuf,
    waiting: Receiver<Vec<u8>>,
    last: Arc<Mutex<Last>>,
    bytes: u64,
}

impl Writer {
    fn run(mut self) -> CaptureSummary {
        let written = self.write_all();
        // With the channel closed here, the recorder ends too and leaves its last word.
        drop(self.waiting);
        let last = self.last.lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default();
        let written = written.and_then(|()| self.file.write_all(&last.buffer));
        let end = match written {
            Err(error) => CaptureEnd::Failed(Error::storage(
                error,
                format!("failed to write the network recording `{}`", self.path.display()),
            )),
            Ok(()) if last.limit_reached => CaptureEnd::LimitReached,
            Ok(()) => CaptureEnd::Stopped,
        };
        let bytes = self.file.metadata().map_or(self.bytes, |metadata| metadata.len());
        CaptureSummary { bytes, frames: last.frames, missed: last.missed, end }
    }

    fn write_all(&mut self) -> io::Result<()> {
        while let Ok(chunk) = self.waiting.recv() {
            self.file.write_all(&chunk)?;
            self.bytes += chunk.len() as u64;
        }
        Ok(())
    }
}
