//! Files, by inotify: every directory on the way to the file is watched for the one name that matters in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Sight, Watch};
use crate::channel::protocol::{FileState, ToldBy};

/// As many as the kernel follows itself.
const MAX_LINKS: u32 = 40;
/// File systems whose files change without anybody being told.
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;

pub struct FileWatch {
    path: PathBuf,
    state: FileState,
    inotify: OwnedFd,
    /// Tells of mounts, which inotify does not: one may cover a directory on the way. Absent where there is no `/proc`.
    mounts: Option<File>,
    /// For each watched directory the names in it that matter.
    directories: BTreeMap<i32, BTreeSet<OsString>>,
    /// The file itself, where what is in it matters.
    contents: Option<i32>,
}

/// Where the path leads.
enum Way {
    Whole(PathBuf, Metadata),
    /// This is missing, and where it would be.
    Missing {
        missing: PathBuf,
        directory: PathBuf,
    },
}

impl FileWatch {
    pub fn new(path: &str, state: &FileState) -> io::Result<Self> {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not a whole one"));
        }
        Ok(Self {
            path,
            state: state.clone(),
            inotify: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
            mounts: File::open("/proc/self/mountinfo").ok(),
            directories: BTreeMap::new(),
            contents: None,
        })
    }

    /// Goes along the path as the kernel would, and watches each directory before it looks into it: whatever changes
    /// afterwards is told, and all before it is seen.
    fn walk(&mut self) -> io::Result<Way> {
        self.directories.clear();
        let mut rest: VecDeque<OsString> = names(&self.path).collect();
        let mut at = PathBuf::from("/");
        let mut metadata = std::fs::metadata(&at)?;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let missing = |next: PathBuf, at: PathBuf| Ok(Way::Missing { missing: next, directory: at });
            let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
            match inotify::add_watch(&self.inotify, &at, flags | WatchFlags::ONLYDIR) {
                Ok(watch) => _ = self.directories.entry(watch).or_default().insert(name),
                // It went, or became something else, since it was seen: the watch above it has told of that by now.
                Err(Errno::NOENT | Errno::NOTDIR) => return missing(next, at),
                Err(error) => return Err(error.into()),
            }
            metadata = match std::fs::symlink_metadata(&next) {
                Ok(metadata) => metadata,
                Err(error) if is_absence(&error) => return missing(next, at),
                Err(error) => return Err(error),
            };
            if !metadata.is_symlink() {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = match std::fs::read_link(&next) {
                Ok(target) => target,
                // Replaced in between, which was told.
                Err(error) if is_absence(&error) || error.kind() == io::ErrorKind::InvalidInput => {
                    return missing(next, at);
                }
                Err(error) => return Err(error),
            };
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(Way::Whole(at, metadata))
    }

    fn look_into(&mut self, file: &Path, metadata: &Metadata, text: &str) -> io::Result<Sight> {
        let shown = self.path.display();
        if !metadata.is_file() {
            return Ok(Sight::NotYet(format!("`{shown}` is there, and is no regular file")));
        }
        match inotify::add_watch(&self.inotify, file, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE) {
            Ok(watch) => self.contents = Some(watch),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Sight::NotYet(format!("`{shown}` has just gone"))),
            Err(error) => return Err(error.into()),
        }
        // It may have become a pipe since, whose other end nobody opens.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut opened = match OpenOptions::new().read(true).custom_flags(nonblock).open(file) {
            Ok(opened) => opened,
            Err(error) if is_absence(&error) => return Ok(Sight::NotYet(format!("`{shown}` has just gone"))),
            Err(error) => return Err(error),
        };
        let (found, bytes) = contains(&mut opened, text.as_bytes())?;
        Ok(if found {
            Sight::Holds(format!("`{shown}` contains it"))
        } else {
            self.unless_silent(file, format!("`{shown}` is there, and its {bytes} bytes do not contain the text"))?
        })
    }

    /// What is not yet so, unless nobody would tell when it becomes so.
    fn unless_silent(&self, directory: &Path, seen: String) -> io::Result<Sight> {
        let kind = rustix::fs::statfs(directory).map_or(0, |statistics| statistics.f_type);
        if kind == PROC || kind == SYSFS {
            let reason = format!("{seen}, and nothing tells when that changes below `/proc` and `/sys`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Sight::NotYet(seen))
    }

    /// Reads all that inotify has to say; whether some of it matters.
    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut matters = false;
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => matters = true,
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let names = self.directories.get(&event.wd());
                    let of_directory = name.zip(names).is_some_and(|(name, names)| names.contains(name));
                    matters |= of_directory || Some(event.wd()) == self.contents;
                }
                Err(Errno::AGAIN) => return Ok(matters),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn mounts_changed(&self) -> bool {
        let Some(mounts) = &self.mounts else { return false };
        let mut descriptors = [PollFd::new(mounts, PollFlags::PRI)];
        // Asking takes it in.
        matches!(poll(&mut descriptors, Some(&Timespec::default())), Ok(1..))
    }
}

impl Watch for FileWatch {
    fn look(&mut self) -> io::Result<Sight> {
        self.contents = None;
        let way = self.walk()?;
        let shown = self.path.display();
        match (self.state.clone(), way) {
            (FileState::Present, Way::Whole(..)) => Ok(Sight::Holds(format!("`{shown}` is there"))),
            (FileState::Gone, Way::Missing { .. }) => Ok(Sight::Holds(format!("`{shown}` is not there"))),
            (FileState::Contains(text), Way::Whole(file, metadata)) => self.look_into(&file, &metadata, &text),
            (FileState::Gone, Way::Whole(at, _)) => self.unless_silent(&at, format!("`{shown}` is still there")),
            (FileState::Present | FileState::Contains(_), Way::Missing { missing, directory }) => {
                let seen = format!("`{}` is not there, and `{}` is", missing.display(), directory.display());
                self.unless_silent(&directory, seen)
            }
        }
    }

    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mounts = self.mounts.iter().map(|mounts| (mounts.as_fd(), PollFlags::PRI));
        std::iter::once((self.inotify.as_fd(), PollFlags::IN)).chain(mounts).collect()
    }

    fn take(&mut self) -> io::Result<bool> {
        let mounted = self.mounts_changed();
        Ok(self.drain()? || mounted)
    }

    fn told_by(&self) -> ToldBy {
        ToldBy::Inotify
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the text is in there, and how many bytes were read to know.
fn contains(source: &mut impl Read, text: &[u8]) -> io::Result<(bool, u64)> {
    const CHUNK: usize = 64 << 10;
    let Some((first, after)) = text.split_first() else { return Ok((true, 0)) };
    let mut held = Vec::with_capacity(CHUNK + text.len());
    let mut bytes = 0;
    loop {
        let kept = held.len();
        let count = source.take(CHUNK as u64).read_to_end(&mut held)?;
        bytes += count as u64;
        let mut rest = &held[..];
        while let Some(at) = rest.iter().position(|byte| byte == first) {
            rest = &rest[at + 1..];
            if rest.starts_with(after) {
                return Ok((true, bytes));
            }
        }
        if held.len() == kept {
            return Ok((false, bytes));
        }
        // What may be the beginning of it.
        held.drain(..held.len().saturating_sub(after.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_chunks_end() {
        for offset in [0, 1, (64 << 10) - 3, (64 << 10) - 1, 64 << 10, 200_000] {
            let mut bytes = vec![b'r'; offset];
            bytes.extend_from_slice(b"ready");
            bytes.extend_from_slice(&[b'y'; 70_000]);
            assert!(contains(&mut &bytes[..], b"ready").unwrap().0, "{offset}");
            assert_eq!(contains(&mut &bytes[..], b"readx").unwrap(), (false, bytes.len() as u64));
        }
        assert!(contains(&mut &b""[..], b"").unwrap().0);
        assert!(!contains(&mut &b""[..], b"x").unwrap().0);
    }
}
