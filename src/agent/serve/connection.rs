//! The port: a virtio-serial device in a guest, a unix socket where the agent is tested without one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::epoll;

use crate::agent::uevent::Uevents;
use crate::channel::protocol::PORT_NAME;

pub struct Connection {
    input: File,
    output: File,
    watch: Watch,
}

/// How the host's coming is noticed.
pub enum Watch {
    /// An edge-triggered epoll on the port. The port reports hang-up for as long as no host is connected: level-triggered
    /// polling would spin, edges come only when something has changed.
    Port(OwnedFd),
    /// A socket's peer does not come back.
    Socket,
}

impl Watch {
    /// Waits for a host before the first session. What is written for nobody would still reach the next host, and a HELLO
    /// of a session that is over by then would be taken for one that is on.
    pub fn until_first_connected(&self) -> io::Result<()> {
        match self {
            Watch::Port(_) => self.until_connected().map(drop),
            Watch::Socket => Ok(()),
        }
    }

    /// Waits for the next host, after the last one has gone; `false` when none will come.
    pub fn until_connected(&self) -> io::Result<bool> {
        let Watch::Port(epoll) = self else { return Ok(false) };
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        loop {
            match epoll::wait(epoll, &mut events[..], None) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if { events[0].flags }.contains(epoll::EventFlags::HUP) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Connection {
    /// Opens the agent's virtio-serial port, waiting for the device if it is not there yet.
    pub fn find_port() -> io::Result<Self> {
        let uevents = Uevents::subscribe()?;
        loop {
            if let Some(device) = port_device() {
                return Self::open_port(&device);
            }
            uevents.wait("virtio-ports", None)?;
        }
    }

    pub fn open_port(device: &Path) -> io::Result<Self> {
        let input = OpenOptions::new().read(true).write(true).open(device)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // A port can be written as soon as a host is connected, whether or not that says anything.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::HUP | epoll::EventFlags::ET;
        epoll::add(&epoll, &input, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { output: input.try_clone()?, input, watch: Watch::Port(epoll) })
    }

    pub fn from_socket(socket: UnixStream) -> io::Result<Self> {
        let output = OwnedFd::from(socket.try_clone()?);
        Ok(Self { input: OwnedFd::from(socket).into(), output: output.into(), watch: Watch::Socket })
    }

    pub fn into_parts(self) -> (File, File, Watch) {
        (self.input, self.output, self.watch)
    }
}

/// The device whose port has our name; the links that udev makes are not there in an initramfs.
fn port_device() -> Option<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = Path::new("/dev").join(entry.file_name());
        if name.trim() == PORT_NAME && device.exists() {
            return Some(device);
        }
    }
    None
}
