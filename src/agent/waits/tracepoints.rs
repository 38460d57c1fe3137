//! The kernel's tracepoints, in an instance of our own: the only ones that tell when a socket begins to listen.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// The state of a TCP socket that listens, as the kernel numbers it.
const TCP_LISTEN: &str = "newstate==10";

/// Removed again when dropped, which takes the kernel some milliseconds.
pub struct Tracepoints {
    instances: OwnedFd,
    name: String,
    pipe: OwnedFd,
}

impl Tracepoints {
    /// Told of every socket of the guest that begins to listen.
    pub fn of_listening() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = file_system()?;
        let instances = open(&root, "instances", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let name = format!("bootproof-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        rustix::fs::mkdirat(&instances, &*name, Mode::from_raw_mode(0o700))?;
        let begin = || {
            let instance = open(&instances, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            // Who waits is woken by the first event, and not when half of the buffer is full.
            write(&instance, "buffer_percent", "0")?;
            write(&instance, "buffer_size_kb", "16")?;
            // The state changes before the socket can be found; when `listen` comes back, it can. Either may be missing.
            let state = "events/sock/inet_sock_set_state";
            let state = write(&instance, &format!("{state}/filter"), TCP_LISTEN)
                .and_then(|()| write(&instance, &format!("{state}/enable"), "1"));
            let call = write(&instance, "events/syscalls/sys_exit_listen/enable", "1");
            state.or(call)?;
            open(&instance, "trace_pipe", OFlags::RDONLY | OFlags::NONBLOCK)
        };
        match begin() {
            Ok(pipe) => Ok(Self { instances, name, pipe }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&instances, &*name, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Takes in what was told; whether there was anything.
    pub fn take(&self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut told = false;
        loop {
            match rustix::io::read(&self.pipe, &mut buffer[..]) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(told),
                Ok(_) => told = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Tracepoints {
    fn drop(&mut self) {
        // An instance whose pipe is open is busy.
        if let Ok(nothing) = File::open("/dev/null") {
            self.pipe = nothing.into();
        }
        let _ = rustix::fs::unlinkat(&self.instances, &*self.name, AtFlags::REMOVEDIR);
    }
}

/// Mounted nowhere in the guest: the kernel's file system is one and the same for everybody.
fn file_system() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn open(directory: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn write(directory: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let file = open(directory, path, OFlags::WRONLY)?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}
