//! Waiting for what a file will contain.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use super::process::END;

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
