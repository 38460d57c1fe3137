//! Waiting for what a file will contain.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use super::process::END;

/// Returns once something of that name is anywhere below the folder, which exists; the kernel tells of every new entry.
#[allow(dead_code, reason = "not every test has a use for it")]
#[track_caller]
pub fn until_there_is(folder: &Path, name: &str) -> PathBuf {
    let until = Instant::now() + END;
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    loop {
        // Watched before it is looked at, so that nothing is missed; folders come and go.
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let _ = add_watch(&watch, &folder, WatchFlags::CREATE | WatchFlags::MOVED_TO);
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_name() == name {
                    return entry.path();
                }
                // Links lead elsewhere.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        let told = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left)).unwrap();
        assert!(told > 0, "`{name}` never came below `{}`", folder.display());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {}
    }
}

/// Returns once the file, which exists, contains the text; the kernel tells when it has changed.
#[track_caller]
pub fn until_it_contains(path: &Path, text: &str) {
    let until = Instant::now() + END;
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    add_watch(&watch, path, WatchFlags::MODIFY).unwrap();
    loop {
        let content = fs::read(path).unwrap();
        let content = String::from_utf8_lossy(&content);
        if content.contains(text) {
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let told = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left)).unwrap();
        assert!(told > 0, "`{text}` never came into `{}`:\n{content}", path.display());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {}
    }
}
