//! One thread per console: from the source to disk, and from there to whoever wants to know.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::interpret::Interpreter;
use crate::error::{Context, Error, Result};
use crate::marker::{CompiledRules, LineFinding};

/// Large enough that a fast console costs few system calls, small enough to stay in the processor's cache. Whatever has
/// arrived is handled at once all the same.
const BUFFER: usize = 64 << 10;

/// How long a console has to say nothing before an unfinished line is taken for a prompt.
const QUIET: Duration = Duration::from_millis(100);

/// Where a console's bytes come from.
pub trait Source: Read + Send {
    /// Waits until there is something to read (the end counts) or the time is over; false when the time is over.
    fn readable_within(&self, time: Duration) -> io::Result<bool>;
}

impl<T: Read + Send + AsFd> Source for T {
    fn readable_within(&self, time: Duration) -> io::Result<bool> {
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&time)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A source without a file descriptor, whose bytes are all there already: it is never quiet before its end.
#[derive(Debug)]
pub struct Recorded<R>(pub R);

impl<R: Read> Read for Recorded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read + Send> Source for Recorded<R> {
    fn readable_within(&self, _: Duration) -> io::Result<bool> {
        Ok(true)
    }
}

/// How one console is captured.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// The file that the bytes go to; it must not exist yet.
    pub recording: PathBuf,
    /// The same file as evidence names it: relative to the proof root (`machines/node01/console.raw`).
    pub file: String,
    /// At most this many bytes are recorded and interpreted; what follows is read and dropped, so that the guest does
    /// not block.
    pub limit: u64,
    pub rules: Arc<CompiledRules>,
}

/// What a console's thread has to say, in the order of the bytes.
#[derive(Debug)]
pub enum ConsoleReport {
    Finding(LineFinding),
    /// The limit was reached: nothing after this is recorded or interpreted. Comes once.
    Capped {
        limit: u64,
    },
    /// The last report. `error` says why nothing more can come where that is not the source's end: reading failed, or
    /// the recording could not be written (its message says which).
    Ended {
        bytes: u64,
        error: Option<Error>,
    },
}

/// What was captured in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Bytes recorded.
    pub bytes: u64,
    pub capped: bool,
}

/// A console that is being captured. It ends with its source; dropping this does not end it.
#[derive(Debug)]
pub struct Capture {
    thread: JoinHandle<CaptureSummary>,
}

impl Capture {
    /// Waits until the source has ended and the last report has been handed over.
    pub fn join(self) -> Result<CaptureSummary> {
        self.thread.join().map_err(|_| Error::infrastructure("failed to capture the console: its thread panicked"))
    }

    /// The source has ended: `join` will not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Captures a console on a thread of its own until its source ends. Reports go to `sink` on that thread; while it does
/// not return, the console is not read.
///
/// Fails where the recording cannot be created or the thread cannot be started.
pub fn capture(
    source: impl Source + 'static,
    options: CaptureOptions,
    sink: impl FnMut(ConsoleReport) + Send + 'static,
) -> Result<Capture> {
    let path = &options.recording;
    let recording = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        Error::storage(error, format!("failed to create the console recording `{}`", path.display()))
    })?;
    let thread = std::thread::Builder::new()
        .name("console".into())
        .spawn(move || pump(source, recording, options, sink))
        .infrastructure(|| "failed to start a console's thread".into())?;
    Ok(Capture { thread })
}

pub(super) fn pump(
    mut source: impl Source,
    mut recording: File,
    options: CaptureOptions,
    mut sink: impl FnMut(ConsoleReport),
) -> CaptureSummary {
    let mut interpreter = Interpreter::new(options.rules.clone(), &*options.file);
    let mut capped = false;
    let ended = record(&mut source, &mut recording, &options, &mut interpreter, &mut capped, &mut sink);
    let bytes = interpreter.offset();
    sink(ConsoleReport::Ended { bytes, error: ended.err() });
    CaptureSummary { bytes, capped }
}

fn record(
    source: &mut impl Source,
    recording: &mut File,
    options: &CaptureOptions,
    interpreter: &mut Interpreter,
    capped: &mut bool,
    sink: &mut impl FnMut(ConsoleReport),
) -> Result<()> {
    let reading = || format!("failed to read the console of `{}`", options.rules.machine());
    let mut buffer = vec![0; BUFFER];
    let mut count = 0;
    let mut findings = Vec::new();
    loop {
        // After a read that filled the buffer there is no need to ask whether more is coming.
        if interpreter.has_untried_text() && count < BUFFER && !source.readable_within(QUIET).infrastructure(reading)? {
            interpreter.quiet(&mut |finding| sink(ConsoleReport::Finding(finding)));
        }
        count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // QEMU's side of a socket or terminal is gone: its way of ending.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset) => break,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => break,
            Err(error) => return Err(error).infrastructure(reading),
        };
        let room = usize::try_from(options.limit - interpreter.offset()).unwrap_or(usize::MAX);
        let bytes = &buffer[..count.min(room)];
        recording.write_all(bytes).map_err(|error| {
            Error::storage(error, format!("failed to write the console recording `{}`", options.recording.display()))
        })?;
        // What one read brought is handed over in one go, so that a log that syncs takes it as one batch.
        interpreter.feed(bytes, &mut |finding| findings.push(finding));
        findings.drain(..).for_each(|finding| sink(ConsoleReport::Finding(finding)));
        if count > room {
            *capped = true;
            sink(ConsoleReport::Capped { limit: options.limit });
            drain(source, &mut buffer).infrastructure(reading)?;
            break;
        }
    }
    if !*capped {
        interpreter.quiet(&mut |finding| sink(ConsoleReport::Finding(finding)));
    }
    Ok(())
}

/// Reads to the end and forgets it.
fn drain(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match source.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
