//! Reads a log: a stream of events, each checked against the one before.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Event, LOG_VERSION};
use crate::error::{Context, Error, Result};

/// The oldest log format that this version still folds.
pub const OLDEST_LOG_VERSION: u32 = 1;

/// No event comes near this; a longer line is damage, and is not read into memory.
const LONGEST_LINE: u64 = 16 << 20;

/// Events in order, until the end, a torn last line, or the first line that is wrong.
///
/// A last line without its newline is what a crash leaves: it was never reported as written, so it is dropped, and
/// [`LogReader::torn_bytes`] tells how long it was. Anything wrong before that is an error that names the line; after
/// an error the iterator ends.
#[derive(Debug)]
pub struct LogReader<R> {
    input: R,
    name: PathBuf,
    line: Vec<u8>,
    line_number: u64,
    torn_bytes: u64,
    ended: bool,
}

/// The part of the first line that every version of the format has.
#[derive(Deserialize)]
struct Header {
    event: HeaderEvent,
}

#[derive(Deserialize)]
struct HeaderEvent {
    kind: String,
    log_version: Option<u32>,
}

impl LogReader<BufReader<File>> {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).infrastructure(|| format!("failed to open the log `{}`", path.display()))?;
        Ok(Self::new(BufReader::with_capacity(256 << 10, file), path))
    }
}

impl<R: BufRead> LogReader<R> {
    /// `name` is what errors call the input.
    pub fn new(input: R, name: impl Into<PathBuf>) -> Self {
        Self { input, name: name.into(), line: Vec::new(), line_number: 0, torn_bytes: 0, ended: false }
    }

    /// Bytes of a torn last line; known once the iterator has ended.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::infrastructure(format!("failed to read line {} of `{}`: {what}", self.line_number, self.name.display()))
    }

    fn read(&mut self) -> Result<Option<Event>> {
        self.line.clear();
        self.line_number += 1;
        let read = self
            .input
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.line)
            .infrastructure(|| format!("failed to read the log `{}`", self.name.display()))?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            if read as u64 == LONGEST_LINE {
                return Err(self.error(format_args!("it is longer than {LONGEST_LINE} bytes")));
            }
            self.torn_bytes = read as u64;
            return Ok(None);
        }
        if self.line_number == 1 {
            self.check_version()?;
        }
        let event: Event = serde_json::from_slice(&self.line).map_err(|error| {
            self.error("it is not an event")
                .with_source(error)
                .hint("the log was damaged or changed after the run: `bootproof proof verify` says which files were")
        })?;
        if event.sequence != self.line_number {
            return Err(self
                .error(format_args!("it has sequence {} where {} comes next", event.sequence, self.line_number))
                .hint("events are missing, repeated or out of order: the log was changed after the run"));
        }
        Ok(Some(event))
    }

    /// Looks at the version before anything else, so that a log of another version is not reported as damage.
    fn check_version(&self) -> Result<()> {
        let header: Header =
            serde_json::from_slice(&self.line).map_err(|error| self.error("it is not an event").with_source(error))?;
        let version = match (header.event.kind.as_str(), header.event.log_version) {
            ("run-started", Some(version)) => version,
            ("run-started", None) => return Err(self.error("the log does not say its version")),
            (kind, _) => {
                return Err(self.error(format_args!("a log begins with `run-started`, and this one with `{kind}`")));
            }
        };
        if version > LOG_VERSION {
            return Err(self
                .error(format_args!("the log has version {version}, and this bootproof reads up to {LOG_VERSION}"))
                .hint("use the bootproof that wrote it, or a newer one"));
        }
        if version < OLDEST_LOG_VERSION {
            return Err(self
                .error(format_args!(
                    "the log has version {version}, and this bootproof reads from {OLDEST_LOG_VERSION} on"
                ))
                .hint("use the bootproof that wrote it"));
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::sample;

    fn lines() -> Vec<u8> {
        let mut bytes = Vec::new();
        for event in sample::passed() {
            serde_json::to_writer(&mut bytes, &event).unwrap();
            bytes.push(b'\n');
        }
        bytes
    }

    fn first_error(bytes: &[u8]) -> Error {
        LogReader::new(bytes, "events.jsonl").find_map(Result::err).expect("an error")
    }

    #[test]
    fn what_was_written_is_read() {
        let read: Vec<Event> = LogReader::new(&lines()[..], "events.jsonl").collect::<Result<_>>().unwrap();
        assert_eq!(read, sample::passed());
    }

    #[test]
    fn cut_anywhere_it_is_a_prefix_with_a_torn_line() {
        let bytes = lines();
        for cut in 0..bytes.len() {
            let mut reader = LogReader::new(&bytes[..cut], "events.jsonl");
            let read: Vec<Event> = reader.by_ref().collect::<Result<_>>().unwrap();
            let whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(read, sample::passed()[..whole]);
            let torn = cut - bytes[..cut].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            assert_eq!(reader.torn_bytes(), torn as u64);
        }
    }

    #[test]
    fn damage_in_the_middle_names_the_line() {
        let text = String::from_utf8(lines()).unwrap();
        let damaged = text.replacen("\"sequence\":3,", "\"sequence\":\u{0}3,", 1);
        insta::assert_snapshot!(first_error(damaged.as_bytes()).to_string(), @"failed to read line 3 of `events.jsonl`: it is not an event");
        let changed = text.replacen("\"sequence\":3,", "\"sequence\":3,\"colour\":1,", 1);
        insta::assert_snapshot!(first_error(changed.as_bytes()).to_string(), @"failed to read line 3 of `events.jsonl`: it is not an event");
    }

    #[test]
    fn a_missing_line_is_a_gap() {
        let text = String::from_utf8(lines()).unwrap();
        let without: String =
            text.lines().enumerate().filter(|(at, _)| *at != 3).map(|(_, l)| format!("{l}\n")).collect();
        insta::assert_snapshot!(first_error(without.as_bytes()).to_string(), @"failed to read line 4 of `events.jsonl`: it has sequence 5 where 4 comes next");
    }

    #[test]
    fn another_version_is_told_as_such_even_where_its_events_are_unknown() {
        let newer = br#"{"sequence":1,"shape":"new","event":{"kind":"run-started","log_version":2,"more":[]}}
{"utterly":"different"}
"#;
        let error = first_error(newer);
        insta::assert_snapshot!(error.to_string(), @"failed to read line 1 of `events.jsonl`: the log has version 2, and this bootproof reads up to 1");
        assert_eq!(error.hints(), ["use the bootproof that wrote it, or a newer one"]);
        let older = br#"{"sequence":1,"event":{"kind":"run-started","log_version":0}}
"#;
        insta::assert_snapshot!(first_error(older).to_string(), @"failed to read line 1 of `events.jsonl`: the log has version 0, and this bootproof reads from 1 on");
        let other = br#"{"sequence":1,"event":{"kind":"note","text":"hello"}}
"#;
        insta::assert_snapshot!(first_error(other).to_string(), @"failed to read line 1 of `events.jsonl`: a log begins with `run-started`, and this one with `note`");
    }
}
