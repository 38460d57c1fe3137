//! What a checkpoint consists of, and whether it is still that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::SeekFrom as Sparse;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CheckpointKey;
use crate::proof::digest::hexadecimal;

pub const MANIFEST_VERSION: u32 = 1;

/// The guest's memory.
pub const MEMORY: &str = "memory";
/// What the boot that led there printed.
pub const CONSOLES: [&str; 2] = ["console.raw", "console-hvc0.raw"];

/// A checkpoint's own description, beside its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    pub key: CheckpointKey,
    /// The image, as the lane calls it that made this.
    pub image: String,
    /// RFC 3339.
    pub made: String,
    /// What the kernel was told.
    pub command_line: String,
    pub files: BTreeMap<String, FileDigest>,
}

/// A file's content: its length, and the digest of everything in it that is no hole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    pub bytes: u64,
    pub sha256: String,
}

/// How a file stood when its digest was last found right. Whoever writes to a file changes this, so that gibibytes need not
/// be read before each use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Standing {
    pub fn of(path: &Path) -> io::Result<Self> {
        let facts = path.symlink_metadata()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Self {
            inode: facts.ino(),
            bytes: facts.len(),
            modified_ns: nanoseconds(facts.mtime(), facts.mtime_nsec()),
            changed_ns: nanoseconds(facts.ctime(), facts.ctime_nsec()),
        })
    }
}

/// How a file outside stands, in words that change with it: for keys.
pub fn standing(path: &Path) -> String {
    // Links lead from a store to what was built.
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    Standing::of(&path)
        .map_or_else(|_| "absent".into(), |standing| format!("{} {}", standing.bytes, standing.modified_ns))
}

impl FileDigest {
    /// Reads what is in the file and skips its holes. A hole and the zeros that it stands for have different digests: both
    /// are as they were made, or the file is not.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < bytes {
            let data = match rustix::fs::seek(&file, Sparse::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole is left.
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let hole = rustix::fs::seek(&file, Sparse::Hole(data))?;
            hasher.update(data.to_le_bytes());
            file.seek(SeekFrom::Start(data))?;
            let mut part = (&mut file).take(hole - data);
            loop {
                match part.read(&mut buffer)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                }
            }
            at = hole;
        }
        Ok(Self { bytes, sha256: hexadecimal(&hasher.finalize()) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_byte_and_the_length_count_and_holes_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let write = |at: u64, bytes: &[u8], length: u64| {
            let mut file = File::create(&path).unwrap();
            file.set_len(length).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(bytes).unwrap();
            FileDigest::of(&path).unwrap()
        };
        let first = write(8 << 20, b"content", 1 << 40);
        assert_eq!(first.bytes, 1 << 40);
        assert_eq!(first, write(8 << 20, b"content", 1 << 40));
        assert_ne!(first.sha256, write(8 << 20, b"Content", 1 << 40).sha256);
        assert_ne!(first.sha256, write(9 << 20, b"content", 1 << 40).sha256);
        assert_ne!(first, write(8 << 20, b"content", 1 << 41));
    }

    #[test]
    fn whoever_writes_changes_how_the_file_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "a").unwrap();
        // The kernel's clock for files ticks: two writes may come within one tick.
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        File::options().write(true).open(&path).unwrap().set_modified(earlier).unwrap();
        let before = Standing::of(&path).unwrap();
        assert_eq!(before, Standing::of(&path).unwrap());
        std::fs::write(&path, "b").unwrap();
        assert_ne!(before, Standing::of(&path).unwrap());
    }
}
