//! Everything that lies in a proof root, as it is: nothing is followed.

use std::ffi::OsString;
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use walkdir::WalkDir;

use crate::error::{Context, Error, Result};

/// One entry that is no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, with `/` between its parts.
    pub name: Vec<u8>,
    /// `None` for a plain file, otherwise what it is instead.
    pub special: Option<&'static str>,
}

/// Every entry below `root` but directories, sorted by the bytes of its name.
pub fn entries(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in WalkDir::new(root).follow_links(false).follow_root_links(false).min_depth(1) {
        let entry = entry.infrastructure(|| format!("failed to read the proof root `{}`", root.display()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let relative = entry
            .path()
            .strip_prefix(root)
            .infrastructure(|| format!("failed to place `{}` in the proof root", entry.path().display()))?;
        entries.push(Entry { name: relative.as_os_str().as_bytes().to_vec(), special: special(entry.file_type()) });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Opens a plain file for reading; a link put in its place since it was listed is refused, a pipe does not block.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a plain file")) }
}

/// A name for people and for paths.
pub fn display(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

pub fn path_of(root: &Path, name: &[u8]) -> std::path::PathBuf {
    root.join(OsString::from(std::ffi::OsStr::from_bytes(name)))
}

/// What a seal cannot cover.
pub fn refuse_special(entry: &Entry) -> Result<()> {
    match entry.special {
        None => Ok(()),
        Some(what) => Err(Error::infrastructure(format!("failed to seal `{}`: it is {what}", display(&entry.name)))
            .hint("only plain files belong into a proof root")),
    }
}
