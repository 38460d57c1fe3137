//! The walk: folders are read by whoever has nothing else to do, what is in them is asked for by its name in the open folder.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, fstat, fstatfs, openat, openat2, statat};
use rustix::io::Errno;

use super::extents;
use super::queue::Queue;
use super::tally::Tally;
use super::{Problem, Scan};

/// Bytes of a folder's entries that are read at a time.
const BUFFER: usize = 64 << 10;
/// How many problems are told; a tree that may not be read has no end of them.
const PROBLEMS: usize = 100;

/// A folder that is yet to be read.
struct Folder {
    /// From the root.
    path: PathBuf,
    /// How many folders it is below the root.
    depth: usize,
    /// Whose figure it belongs to.
    group: u32,
}

struct Walk {
    root: OwnedFd,
    depth: usize,
    may_share: bool,
    groups: Mutex<Vec<PathBuf>>,
    problems: Mutex<Vec<Problem>>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOATIME);

pub fn walk(root: &Path, depth: usize, threads: usize) -> io::Result<Scan> {
    let opened = match openat(CWD, root, FOLDER, Mode::empty()) {
        // Only the owner may leave no trace.
        Err(Errno::PERM) => openat(CWD, root, FOLDER - OFlags::NOATIME, Mode::empty())?,
        opened => opened?,
    };
    let may_share = fstatfs(&opened).is_ok_and(|facts| extents::may_share(facts.f_type));
    let walk =
        Walk { root: opened, depth, may_share, groups: Mutex::new(vec![PathBuf::new()]), problems: Mutex::default() };
    let queue = Queue::new(Folder { path: PathBuf::new(), depth: 0, group: 0 }, threads);
    let total = std::thread::scope(|scope| {
        let count = || {
            let (mut tally, mut buffer) = (Tally::default(), vec![MaybeUninit::uninit(); BUFFER]);
            queue.work(|folder, found| walk.read(&folder, &mut buffer, &mut tally, found));
            tally
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(count)).collect();
        let mut total = count();
        for other in others {
            total.merge(other.join().unwrap_or_default());
        }
        total
    });
    let groups = walk.groups.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|one, other| groups[*one].cmp(&groups[*other]));
    let mut rank = vec![0; groups.len()];
    for (place, group) in order.into_iter().enumerate() {
        rank[group] = place;
    }
    let folders = groups.into_iter().zip(total.finish(&rank)).collect();
    let mut problems = walk.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    problems.sort();
    Ok(Scan { folders, problems })
}

impl Walk {
    fn read(&self, folder: &Folder, buffer: &mut [MaybeUninit<u8>], tally: &mut Tally, found: &mut Vec<Folder>) {
        let opened = match self.open(&folder.path) {
            Ok(opened) => opened,
            Err(errno) => return self.trouble(&folder.path, errno),
        };
        let usage = tally.group(folder.group);
        usage.folders += 1;
        usage.bytes += fstat(&opened).map_or(0, |facts| allocated(facts.st_blocks));
        let mut entries = RawDir::new(opened.as_fd(), buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return self.trouble(&folder.path, errno),
            };
            let name = entry.file_name();
            match entry.file_type() {
                FileType::Directory if matches!(name.to_bytes(), b"." | b"..") => {}
                FileType::Directory => found.push(self.folder(folder, name)),
                _ => match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(facts) if FileType::from_raw_mode(facts.st_mode) == FileType::Directory => {
                        // Of a file system whose folders do not tell what is in them, or it has just changed.
                        if !matches!(name.to_bytes(), b"." | b"..") {
                            found.push(self.folder(folder, name));
                        }
                    }
                    Ok(facts) => self.count(&opened, name, &facts, folder.group, tally),
                    Err(errno) => self.trouble(&folder.path.join(path_of(name)), errno),
                },
            }
        }
    }

    fn count(&self, folder: &OwnedFd, name: &CStr, facts: &rustix::fs::Stat, group: u32, tally: &mut Tally) {
        let bytes = allocated(facts.st_blocks);
        let mut first = true;
        if facts.st_nlink > 1 {
            first = tally.linked(group, facts.st_ino, u32::try_from(facts.st_nlink).unwrap_or(u32::MAX), bytes);
        } else {
            let usage = tally.group(group);
            usage.files += 1;
            usage.bytes += bytes;
        }
        let regular = FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile;
        if self.may_share && first && regular && bytes > 0 {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            // What may not be opened is counted as nobody else's.
            if let Ok(file) = openat(folder, name, flags, Mode::empty()) {
                tally.shared(extents::shared_of(file, group, facts.st_ino));
            }
        }
    }

    /// What is below a folder that has a figure of its own, or belongs to its figure.
    fn folder(&self, above: &Folder, name: &CStr) -> Folder {
        let path = above.path.join(path_of(name));
        let depth = above.depth + 1;
        if depth > self.depth {
            return Folder { path, depth, group: above.group };
        }
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = u32::try_from(groups.len()).unwrap_or(above.group);
        if group != above.group {
            groups.push(path.clone());
        }
        Folder { path, depth, group }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // Nothing leads out of the tree, whoever changes it meanwhile; a builder may have the host's own file systems mounted in it.
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let open = |flags| openat2(self.root.as_fd(), path, flags, Mode::empty(), inside);
        match open(FOLDER) {
            Err(Errno::PERM) => open(FOLDER - OFlags::NOATIME),
            opened => opened,
        }
    }

    fn trouble(&self, path: &Path, errno: Errno) {
        let reason = match errno {
            // It was there a moment ago, or was something else.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => return,
            Errno::XDEV => "another file system is mounted there".into(),
            errno => io::Error::from(errno).to_string(),
        };
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS {
            problems.push(Problem { path: path.to_owned(), reason });
        }
    }
}

/// Blocks are told in units of 512 bytes, whatever the file system's are.
fn allocated(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0) * 512
}

fn path_of(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}
