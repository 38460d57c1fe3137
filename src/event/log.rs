//! Writes the log: whole batches, each on the disk before the writer says so.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Event;
use crate::error::{Context, Error, Result};

/// The writer of one run's log. There is one, and the dispatcher has it.
///
/// After an append that failed, every later one is refused: once the kernel has reported a lost write, a later sync can
/// succeed without the bytes being there.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
    /// Kept between appends, so that a busy log allocates nothing.
    buffer: Vec<u8>,
    failed: bool,
}

/// A batch that grew the buffer beyond this gives the memory back afterwards.
const BUFFER_KEPT: usize = 1 << 20;

impl LogWriter {
    /// Creates the log, which must not exist yet, and makes its name durable in its directory.
    ///
    /// # Errors
    /// `infrastructure`, or `budget` when the file system is full.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::storage(error, format!("failed to create the log `{}`", path.display()));
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(failed)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(Self { file, path: path.to_path_buf(), buffer: Vec::with_capacity(16 << 10), failed: false })
    }

    /// Appends the events in one write and one sync; they are on the disk when this returns `Ok`.
    ///
    /// # Errors
    /// `infrastructure`, or `budget` when the file system is full. The run cannot pass any more: what is on the disk is
    /// a prefix, perhaps with a torn last line, which the reader tells apart.
    pub fn append(&mut self, events: &[Event]) -> Result<()> {
        if self.failed {
            return Err(Error::infrastructure(format!(
                "failed to append to the log `{}`: an earlier append was lost, so nothing more can be recorded",
                self.path.display()
            )));
        }
        if events.is_empty() {
            return Ok(());
        }
        self.buffer.clear();
        for event in events {
            // Nothing has been written yet, so an event that cannot be expressed leaves the log as it was.
            serde_json::to_writer(&mut self.buffer, event)
                .infrastructure(|| format!("failed to express event {} as JSON", event.sequence))?;
            self.buffer.push(b'\n');
        }
        let written = self.file.write_all(&self.buffer).and_then(|()| self.file.sync_data());
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::with_capacity(16 << 10);
        }
        written.map_err(|error| {
            self.failed = true;
            Error::storage(error, format!("failed to append to the log `{}`", self.path.display()))
        })
    }

    /// Whether an append was lost: a run with such a log must not pass.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;

    use super::super::{Kind, Severity};
    use super::*;

    fn note(sequence: u64) -> Event {
        Event {
            sequence,
            wall: "2026-01-01T00:00:00.000+00:00".into(),
            monotonic_ns: sequence * 1000,
            machine: None,
            epoch: None,
            severity: Severity::Info,
            correlation: None,
            event: Kind::Note { text: format!("note {sequence}\nwith a second line") },
        }
    }

    #[test]
    fn a_batch_is_one_line_per_event_and_is_there_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut log = LogWriter::create(&path).unwrap();
        log.append(&[note(1), note(2)]).unwrap();
        log.append(&[]).unwrap();
        log.append(&[note(3)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with('\n'));
        assert_eq!(serde_json::from_str::<Event>(text.lines().nth(2).unwrap()).unwrap(), note(3));
    }

    #[test]
    fn a_log_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        LogWriter::create(&path).unwrap();
        let error = LogWriter::create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Infrastructure);
    }

    #[test]
    fn a_full_disk_is_told_as_budget_and_ends_the_log_for_good() {
        let mut log = LogWriter {
            file: OpenOptions::new().append(true).open("/dev/full").unwrap(),
            path: "/dev/full".into(),
            buffer: Vec::new(),
            failed: false,
        };
        let error = log.append(&[note(1)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Budget);
        assert!(log.has_failed());
        // The disk may have room again: the writer still refuses, because a line is missing.
        log.file = tempfile::tempfile().unwrap();
        let error = log.append(&[note(2)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Infrastructure);
        assert!(error.to_string().contains("an earlier append was lost"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_synced_is_not_a_success() {
        // A pipe takes bytes and cannot be synced: what the writer reports must follow the sync, not the write.
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut log = LogWriter { file, path: "pipe".into(), buffer: Vec::new(), failed: false };
        assert!(log.append(&[note(1)]).is_err());
        assert!(log.has_failed());
    }
}
