//! Files, both ways.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::stream::{Cancelled, Stream};
use crate::channel::protocol::{MAX_PAYLOAD, Opened, Outcome, PIPE_MAIN, RefusalReason};

pub fn read(stream: &Stream, path: &str) {
    let refuse = |error: io::Error| {
        stream.refuse(RefusalReason::from_error(&error), format!("failed to read `{path}`: {error}"));
    };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, mut file) = match opened {
        Ok((metadata, _)) if metadata.is_dir() => return refuse(io::ErrorKind::IsADirectory.into()),
        Ok(opened) => opened,
        Err(error) => return refuse(error),
    };
    stream.opened(&Opened::ReadFile { size: metadata.len(), mode: metadata.permissions().mode() & 0o7777 });
    let mut buffer = vec![0; MAX_PAYLOAD];
    let mut bytes = 0;
    loop {
        let Ok(room) = stream.wait_for_room(PIPE_MAIN) else { return stream.close() };
        match file.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => {
                stream.send(PIPE_MAIN, &buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return refuse(error),
        }
    }
    stream.end(PIPE_MAIN);
    stream.finish(&Outcome::FileRead { bytes });
}

/// The file gets its name once it is whole and on its disk; a symbolic link of that name is replaced, not followed.
pub fn write(stream: &Stream, path: &str, mode: u32) {
    let refuse = |error: io::Error| {
        stream.refuse(RefusalReason::from_error(&error), format!("failed to write `{path}`: {error}"));
    };
    let mut target = match Unfinished::create(Path::new(path), stream.number(), mode) {
        Ok(target) => target,
        Err(error) => return refuse(error),
    };
    stream.opened(&Opened::WriteFile);
    let mut bytes = 0;
    loop {
        match stream.wait_for_input() {
            Ok(Some(chunk)) => match target.file.write_all(&chunk) {
                Ok(()) => bytes += chunk.len() as u64,
                Err(error) => return refuse(error),
            },
            Ok(None) => break,
            Err(Cancelled) => return stream.close(),
        }
    }
    match target.complete() {
        Ok(()) => stream.finish(&Outcome::FileWritten { bytes }),
        Err(error) => refuse(error),
    }
}

/// A file beside its target; removed unless it is completed.
struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    completed: bool,
}

impl Unfinished {
    fn create(target: &Path, stream: u32, mode: u32) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let suffix = format!(".bootproof-{}-{stream}", std::process::id());
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(suffix);
        let path = target.with_file_name(hidden);
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            // Left behind by an agent that was killed: process and stream numbers come again after a reboot.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path)?;
                open()?
            }
            result => result?,
        };
        let unfinished = Self { file, path, target: target.into(), completed: false };
        // Not by the umask.
        unfinished.file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        Ok(unfinished)
    }

    fn complete(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        self.completed = true;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.completed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
