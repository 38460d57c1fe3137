//! How much a folder takes on its disk, by what it has in it, counted in one pass.
//!
//! What counts are the blocks that are allocated: holes are none, a file with several names is counted once, and so is an extent
//! that several files share, where the file system says so. Links are not followed, nothing that is mounted below is entered, and
//! what vanishes while it is looked at is no error.

mod extents;
mod queue;
mod tally;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use tally::Usage;

/// What a folder takes, by the folders in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Of each folder down to the depth that was asked for, by its path from the root (which is empty): what is in it, without the
    /// folders that stand here themselves.
    folders: BTreeMap<PathBuf, Usage>,
    /// What could not be read, and what was left out: nothing of it is in the figures.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From the root.
    pub path: PathBuf,
    pub reason: String,
}

impl Scan {
    /// A folder with all that is below it; nothing where there is none. What two of its folders hold together is told as held
    /// elsewhere.
    pub fn below(&self, folder: &Path) -> Usage {
        // Paths are ordered by their parts, so that all that begin alike stand together.
        let from = self.folders.range::<Path, _>((std::ops::Bound::Included(folder), std::ops::Bound::Unbounded));
        let mut total = Usage::default();
        for (_, usage) in from.take_while(|(path, _)| path.starts_with(folder)) {
            total.add(usage);
        }
        total
    }

    /// Every folder that has a figure, by its path; what is in several is in the deepest.
    pub fn folders(&self) -> impl Iterator<Item = (&Path, &Usage)> {
        self.folders.iter().map(|(path, usage)| (path.as_path(), usage))
    }

    /// Everything.
    pub fn total(&self) -> Usage {
        self.below(Path::new(""))
    }

    /// The folders in a folder, by name.
    pub fn children(&self, folder: &Path) -> Vec<PathBuf> {
        self.folders.keys().filter(|path| path.parent() == Some(folder)).cloned().collect()
    }
}

/// Counts what is in `root`, with a figure for each folder down to `depth` folders below it. A link as `root` is followed.
///
/// # Errors
/// The root cannot be opened. Everything else is among the problems.
pub fn scan(root: &Path, depth: usize) -> io::Result<Scan> {
    // More than a few wait for each other inside the kernel.
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    walk::walk(root, depth, threads)
}

#[cfg(test)]
mod tests;
