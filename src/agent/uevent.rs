//! The kernel's announcements of devices: how the agent waits for a port or a disk without looking again and again.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group of the kernel's own announcements.
const KERNEL_GROUP: u32 = 1;

pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// From now on nothing is missed: subscribe first, then look, then wait.
    pub fn subscribe() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Waits until something was announced for this subsystem (`block`, `virtio-ports`), or the deadline passed, which is
    /// answered with `false`. When announcements were lost, that counts as one.
    pub fn wait(&self, subsystem: &str, deadline: Option<Instant>) -> io::Result<bool> {
        self.wait_for(Some(&format!("SUBSYSTEM={subsystem}")), deadline)
    }

    /// The same for announcements of any kind.
    pub fn wait_any(&self, deadline: Option<Instant>) -> io::Result<bool> {
        self.wait_for(None, deadline)
    }

    fn wait_for(&self, wanted: Option<&str>, deadline: Option<Instant>) -> io::Result<bool> {
        let wanted = wanted.map(str::as_bytes);
        let mut message = vec![0; 16 << 10];
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match recv(&self.socket, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((count, _))
                    if wanted.is_none_or(|wanted| {
                        message[..count].split(|byte| *byte == 0).any(|field| field == wanted)
                    }) =>
                {
                    return Ok(true);
                }
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NOBUFS) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
