//! Markers: numbered, written to the console as whole lines, and remembered for the boot so that they can be repeated.
//!
//! What always holds: numbers are given under a lock that all processes of the guest share, so each is given once per boot
//! and they stand on the console in their order; a marker is remembered before it is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::kernel_parameters::KernelParameters;
use crate::channel::marker_line::format_marker;

/// The longest marker line, in bytes without its line ending: well within what the kernel's terminal layer takes in one
/// piece.
pub const MAX_LINE: usize = 1024;

/// Where a boot's markers are remembered.
const RUN_DIRECTORY: &str = "/run/bootproof";
const DEFAULT_PREFIX: &str = "BOOTPROOF_MARKER";

/// The markers of this boot.
#[derive(Clone, Debug)]
pub struct MarkerJournal {
    directory: PathBuf,
    console: PathBuf,
    prefix: String,
    node: Option<String>,
}

impl MarkerJournal {
    /// On `/dev/console`, with the prefix and the node of the kernel's `bootproof.marker_prefix=` and `bootproof.node=`.
    pub fn of_this_boot() -> Self {
        let parameters = KernelParameters::read();
        Self {
            directory: RUN_DIRECTORY.into(),
            console: "/dev/console".into(),
            prefix: parameters.value("bootproof.marker_prefix").unwrap_or(DEFAULT_PREFIX).into(),
            node: parameters.value("bootproof.node").map(Into::into),
        }
    }

    /// Remembers markers in another directory.
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Writes markers elsewhere than to the console.
    pub fn to_console(mut self, console: impl Into<PathBuf>) -> Self {
        self.console = console.into();
        self
    }

    /// The node where the kernel parameter names none: what the lane calls the machine wins.
    pub fn or_node(mut self, node: &str) -> Self {
        self.node.get_or_insert_with(|| node.to_owned());
        self
    }

    /// The kernel parameter's.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    pub fn has_node(&self) -> bool {
        self.node.is_some()
    }

    /// Emits a marker; answers its sequence number. Without a node the kernel parameter's is used.
    pub fn emit(&self, name: &str, node: Option<&str>, arguments: &[(String, String)]) -> io::Result<u64> {
        check(name, arguments)?;
        let mut record = self.open()?;
        self.append(&mut record, name, node, arguments)
    }

    /// Emits a marker unless this boot has one of that name.
    pub fn emit_once(&self, name: &str) -> io::Result<()> {
        check(name, &[])?;
        let mut record = self.open()?;
        let node = self.node.as_deref().map(|node| format!(".{node}")).unwrap_or_default();
        let start = format!("{} {name}{node} ", self.prefix);
        if !lines(&mut record)?.iter().any(|line| line.starts_with(&start)) {
            self.append(&mut record, name, None, &[])?;
        }
        Ok(())
    }

    /// Writes this boot's markers from that number on to the console again, unchanged; answers how many.
    pub fn repeat(&self, from: u64) -> io::Result<u64> {
        let mut record = self.open()?;
        let mut count = 0;
        for line in lines(&mut record)? {
            if sequence_of(&line).is_some_and(|sequence| sequence >= from) {
                self.print(&line)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Waits until all that was printed has left the machine. To be done before it is switched off or reset: what is still
    /// in the console's buffer is lost then, and the kernel's own last word is put in its midst.
    pub fn drain(&self) {
        // A console that is no terminal keeps nothing back.
        if let Ok(console) = OpenOptions::new().write(true).open(&self.console) {
            let _ = rustix::termios::tcdrain(&console);
        }
    }

    /// Goes on with this boot's markers and numbers once the boot is known by another number, of the same length.
    pub fn carry_over(&self, boot_id: &str) -> io::Result<()> {
        let mut record = self.open()?;
        if boot_id.len() != super::serve::boot_id().len() {
            return Err(invalid(format!("`{boot_id}` is not the number of a boot")));
        }
        record.rewind()?;
        record.write_all(format!("boot {boot_id}\n").as_bytes())
    }

    fn append(
        &self,
        record: &mut File,
        name: &str,
        node: Option<&str>,
        arguments: &[(String, String)],
    ) -> io::Result<u64> {
        let sequence = last_sequence(record)? + 1;
        let arguments = arguments.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let line = format_marker(&self.prefix, name, node.or(self.node.as_deref()), arguments, sequence);
        if line.len() > MAX_LINE {
            return Err(invalid(format!(
                "the marker's line would have {} bytes, and {MAX_LINE} is the most",
                line.len()
            )));
        }
        record.seek(SeekFrom::End(0))?;
        record.write_all(format!("{line}\n").as_bytes())?;
        self.print(&line)?;
        Ok(sequence)
    }

    /// One write, so that no other writer's text gets in between. It begins with a line ending because nobody can tell
    /// whether someone (a login prompt) has left the cursor within a line; only the kernel's own messages can still
    /// damage the line, which its checksum shows.
    fn print(&self, line: &str) -> io::Result<()> {
        let mut console = OpenOptions::new().append(true).open(&self.console)?;
        let text = format!("\n{line}\n");
        let count = console.write(text.as_bytes())?;
        if count < text.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the console took only part of the marker"));
        }
        Ok(())
    }

    /// The record of this boot, locked until it is closed. One of another boot (a run directory that is on a disk) is
    /// begun anew; a line that was not finished is dropped.
    fn open(&self) -> io::Result<File> {
        std::fs::create_dir_all(&self.directory)?;
        let path = self.directory.join("markers");
        let mut record = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        record.lock()?;
        let boot = format!("boot {}\n", super::serve::boot_id());
        let mut first = vec![0; boot.len()];
        let same_boot = record.read_exact(&mut first).is_ok() && first == boot.as_bytes();
        if !same_boot {
            record.set_len(0)?;
            record.rewind()?;
            record.write_all(boot.as_bytes())?;
        }
        let tail = tail(&mut record)?;
        let unfinished = tail.len() - tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        if unfinished > 0 {
            record.set_len(record.metadata()?.len() - unfinished as u64)?;
        }
        Ok(record)
    }
}

/// Names and keys are what lanes match against, so they are refused rather than encoded.
fn check(name: &str, arguments: &[(String, String)]) -> io::Result<()> {
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !is_word(name) {
        return Err(invalid(format!("`{name}` is no marker name: letters, digits, `.`, `_` and `-` are")));
    }
    for (key, _) in arguments {
        if !is_word(key) || key == "seq" || key == "crc" {
            return Err(invalid(format!("`{key}` is no key of a marker")));
        }
    }
    Ok(())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn lines(record: &mut File) -> io::Result<Vec<String>> {
    record.rewind()?;
    let mut text = String::new();
    record.read_to_string(&mut text)?;
    Ok(text.lines().skip(1).map(Into::into).collect())
}

fn last_sequence(record: &mut File) -> io::Result<u64> {
    let tail = tail(record)?;
    let text = String::from_utf8_lossy(&tail);
    Ok(text.lines().last().and_then(sequence_of).unwrap_or(0))
}

/// Enough of the record's end to hold its last line.
fn tail(record: &mut File) -> io::Result<Vec<u8>> {
    let length = record.metadata()?.len();
    record.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LINE as u64)))?;
    let mut tail = Vec::new();
    record.read_to_end(&mut tail)?;
    Ok(tail)
}

fn sequence_of(line: &str) -> Option<u64> {
    line.rsplit(' ').find_map(|word| word.strip_prefix("seq="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn journal(directory: &Path) -> MarkerJournal {
        let console = directory.join("console");
        File::create(&console).unwrap();
        MarkerJournal { directory: directory.join("run"), console, prefix: "P".into(), node: None }
    }

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn markers_are_numbered_written_whole_and_repeated_unchanged() {
        let scratch = scratch();
        let journal = journal(scratch.path());
        assert_eq!(journal.emit("boot", None, &[]).unwrap(), 1);
        assert_eq!(journal.emit("ready", Some("n1"), &[("unit".into(), "a b".into())]).unwrap(), 2);
        journal.emit_once("boot").unwrap();
        let first = std::fs::read_to_string(&journal.console).unwrap();
        assert!(first.starts_with("\nP boot seq=1 crc="), "{first}");
        assert!(first.contains("\nP ready.n1 unit=a%20b seq=2 crc="), "{first}");
        assert_eq!(journal.repeat(2).unwrap(), 1);
        let again = std::fs::read_to_string(&journal.console).unwrap();
        assert_eq!(again, format!("{first}{}", &first[first.find("\nP ready").unwrap()..]));
        assert_eq!(journal.repeat(3).unwrap(), 0);
    }

    #[test]
    fn numbers_are_given_once_however_many_emit() {
        let scratch = scratch();
        let journal = journal(scratch.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| assert!(journal.emit("m", None, &[]).unwrap() > 0)));
            }
        });
        let console = std::fs::read_to_string(&journal.console).unwrap();
        let numbers: Vec<u64> = console.lines().filter_map(sequence_of).collect();
        assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
    }

    #[test]
    fn an_unfinished_record_and_one_of_another_boot_are_survived() {
        let scratch = scratch();
        let journal = journal(scratch.path());
        journal.emit("a", None, &[]).unwrap();
        let record = scratch.path().join("run/markers");
        let whole = std::fs::read_to_string(&record).unwrap();
        std::fs::write(&record, format!("{whole}P b seq=77")).unwrap();
        assert_eq!(journal.emit("b", None, &[]).unwrap(), 2);
        std::fs::write(&record, "boot of another time\nP z seq=9 crc=00000000\n").unwrap();
        assert_eq!(journal.emit("c", None, &[]).unwrap(), 1);
    }

    #[test]
    fn what_could_not_be_matched_is_refused() {
        let scratch = scratch();
        let journal = journal(scratch.path());
        for name in ["", "two words", "a=b", "ä"] {
            assert!(journal.emit(name, None, &[]).is_err(), "{name}");
        }
        for key in ["", "seq", "crc", "a b"] {
            assert!(journal.emit("n", None, &[(key.into(), "v".into())]).is_err(), "{key}");
        }
        assert!(journal.emit("n", None, &[("k".into(), "v".repeat(MAX_LINE))]).is_err());
        assert_eq!(journal.emit("n", None, &[]).unwrap(), 1);
    }
}
