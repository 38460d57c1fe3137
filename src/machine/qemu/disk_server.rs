//! Disks that forget and disks that fail: `nbdkit` between QEMU and the disk's file.
//!
//! What always holds: what the guest has not flushed lies in the server's own cache and nowhere else, so that killing the
//! server loses it. The keeper kills it in the order in which nothing is flushed on the way: QEMU is stopped first.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::lane::model::{DiskOperations, WriteCache};

/// The server's program.
pub const PROGRAM: &str = "nbdkit";

/// What plays one disk.
#[derive(Clone, Debug)]
pub struct DiskServer {
    /// QEMU connects here.
    pub socket: PathBuf,
    /// The disk's content.
    pub file: PathBuf,
    pub write_cache: WriteCache,
    /// Requests can be made to fail.
    pub fallible: bool,
}

impl DiskServer {
    /// The arguments after the program's name. It serves the socket that it inherits, by systemd's convention.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--foreground".into()];
        if self.fallible {
            arguments.push("--filter=error".into());
        }
        if self.write_cache != WriteCache::Host {
            arguments.push("--filter=cache".into());
        }
        arguments.push("file".into());
        arguments.push(self.file.clone().into());
        match self.write_cache {
            WriteCache::Host => {}
            WriteCache::Volatile => arguments.push("cache=writeback".into()),
            WriteCache::Lying => arguments.push("cache=unsafe".into()),
        }
        if self.fallible {
            for (requests, operations) in [("reads", &["pread"][..]), ("writes", &["pwrite", "trim", "zero"][..])] {
                for operation in operations {
                    arguments.push(format!("error-{operation}=EIO").into());
                    arguments.push(format!("error-{operation}-rate=100%").into());
                    let mut trigger = OsString::from(format!("error-{operation}-file="));
                    trigger.push(self.trigger(requests));
                    arguments.push(trigger);
                }
            }
        }
        arguments
    }

    /// The file whose existence makes requests fail.
    fn trigger(&self, requests: &str) -> PathBuf {
        let mut path = self.file.clone().into_os_string();
        path.push(format!(".{requests}-fail"));
        path.into()
    }

    /// Makes requests fail from now on, or none of them.
    pub fn fail(&self, requests: Option<DiskOperations>) -> Result<()> {
        let (reads, writes) = match requests {
            None => (false, false),
            Some(DiskOperations::Reads) => (true, false),
            Some(DiskOperations::Writes) => (false, true),
            Some(DiskOperations::All) => (true, true),
        };
        for (requests, fail) in [("reads", reads), ("writes", writes)] {
            let path = self.trigger(requests);
            let done = if fail { File::create(&path).map(drop) } else { remove(&path) };
            done.infrastructure(|| format!("failed to change `{}`", path.display()))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
