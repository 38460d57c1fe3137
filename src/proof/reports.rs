//! The reports of a proof root: written once, and told again from the log alone.

use std::fmt;
use std::io::Read;
use std::path::Path;

use super::root::EVENTS_FILE;
use super::seal::Seal;
use super::{tree, write_atomic};
use crate::error::{Error, Result};
use crate::event::Verdict;
use crate::event::reader::LogReader;
use crate::report::{Story, View, render, verdict};

/// Writes every report below `root`, and gives the story they tell with what could not be written: a warning, not a
/// failure. The log is closed by now, and what the machines print into the proof root is final.
pub fn write_reports(root: &Path, view: &View) -> (Story, Vec<Error>) {
    let story = Story::of(view, root);
    let written = render(&story).into_iter().map(|report| write_atomic(&root.join(report.name), &report.bytes?));
    let errors = written.filter_map(Result::err).collect();
    (story, errors)
}

/// A log folded again.
#[derive(Debug)]
pub struct Replay {
    pub view: View,
    pub story: Story,
    /// Bytes of a last line that a crash tore.
    pub torn_bytes: u64,
    pub differences: Vec<Difference>,
    /// Reports that came out byte by byte as they are stored.
    pub identical: Vec<&'static str>,
}

impl Replay {
    /// The log gave the same verdict and the same reports again.
    pub fn is_faithful(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What a replay gave differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The log folds to another verdict than the one that `written_by` has.
    Verdict { written_by: &'static str, stored: Verdict, replayed: Verdict },
    /// The stored report differs, first in this line.
    Report { name: &'static str, line: usize },
    /// There is no seal: the run was ended before its proof was whole.
    NotSealed,
    /// The report is not there, or cannot be read.
    NoReport { name: &'static str, why: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Verdict { written_by, stored, replayed } => {
                write!(formatter, "verdict: {written_by} says {}, the log gives {}", stored.as_str(), replayed.as_str())
            }
            Difference::NotSealed => {
                formatter.write_str("missing: the seal: the run was ended before its proof was whole")
            }
            Difference::Report { name, line } => write!(formatter, "differs: {name}, from line {line} on"),
            Difference::NoReport { name, why } => write!(formatter, "missing: {name}: {why}"),
        }
    }
}

/// Folds the log below `root` again and compares what follows with what is stored.
///
/// # Errors
/// `infrastructure` when the log cannot be read, is damaged before its last line, or is of another version. A log that
/// stops early is no error: its verdict is `incomplete`. So is that of a proof without a seal, whatever its log says.
pub fn replay(root: &Path) -> Result<Replay> {
    let mut reader = LogReader::open(&root.join(EVENTS_FILE))?;
    let mut view = View::default();
    for event in reader.by_ref() {
        view.apply(&event?);
    }
    let mut story = Story::of(&view, root);
    let replayed = verdict::verdict(&view).verdict;
    let mut differences = Vec::new();
    let mut check = |written_by, stored| {
        if stored != replayed {
            differences.push(Difference::Verdict { written_by, stored, replayed });
        }
    };
    if let Some(closing) = &view.closed {
        check("the closing event", closing.verdict);
    }
    // A seal that cannot be read is for `verify` to tell.
    let seal = Seal::read(root);
    if let Ok(Some(seal)) = &seal {
        check("the seal", seal.verdict);
    }
    let sealed = !matches!(seal, Ok(None));
    if !sealed {
        differences.push(Difference::NotSealed);
    }
    let mut identical = Vec::new();
    for report in render(&story) {
        let (name, expected) = (report.name, report.bytes?);
        let mut stored = Vec::new();
        let read = tree::open_plain(&root.join(name)).and_then(|mut file| file.read_to_end(&mut stored));
        match read {
            Err(error) => differences.push(Difference::NoReport { name, why: error.to_string() }),
            Ok(_) if stored == expected => identical.push(name),
            Ok(_) => differences.push(Difference::Report { name, line: first_difference(&stored, &expected) }),
        }
    }
    if !sealed && view.closed.is_some() {
        story.result.leave_unfinished("the run was ended before its proof was sealed");
    }
    Ok(Replay { story, torn_bytes: reader.torn_bytes(), differences, identical, view })
}

/// The first line, from 1, in which two texts differ.
fn first_difference(one: &[u8], other: &[u8]) -> usize {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    1 + one[..same].iter().filter(|&&byte| byte == b'\n').count()
}
