//! The kernel's file systems, which every program expects.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::agent::say;

/// What is mounted before anything else, and moved to the real root later.
const EARLY: &[(&str, &str, MountFlags, &CStr)] = &[
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    ("sysfs", "/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
    ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=0620,ptmxmode=0666"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755"),
    ("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
];

pub fn mount_early() {
    mount_all(EARLY);
    if !Path::new("/dev/console").exists() {
        say("there is no `/dev/console`: markers cannot be emitted");
    }
    take_console();
}

/// For a live system, to which stage 1 has brought all but the folder for temporary files.
pub fn mount_late() {
    mount_all(&EARLY[EARLY.len() - 1..]);
    take_console();
}

fn mount_all(wanted: &[(&str, &str, MountFlags, &CStr)]) {
    for (kind, target, flags, data) in wanted {
        let _ = std::fs::create_dir_all(target);
        match mount(*kind, *target, *kind, *flags, *data) {
            // The kernel may have mounted its devices by itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => say(&format!("failed to mount `{kind}` on `{target}`: {error}")),
        }
    }
}

/// Makes the console this process's standard input, output and error: the kernel may have found none to give.
pub fn take_console() {
    match OpenOptions::new().read(true).write(true).open("/dev/console") {
        Ok(console) => {
            let _ = rustix::stdio::dup2_stdin(&console);
            let _ = rustix::stdio::dup2_stdout(&console);
            let _ = rustix::stdio::dup2_stderr(&console);
        }
        Err(error) => say(&format!("failed to open `/dev/console`: {error}")),
    }
}
