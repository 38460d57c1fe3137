//! The TCP/IP stack and its connections, behind one lock.

use std::io;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, tcp};
use smoltcp::wire::{EthernetAddress, IpCidr, IpListenEndpoint};
use tokio::sync::Notify;

use super::device::FrameDevice;
use super::services::Services;
use crate::network::address::{EndAddress, Subnet};

/// Connections that there may be at a time, those that are being closed included.
const CONNECTIONS: usize = 1024;

/// Bytes that wait in a connection each way.
const BUFFER: usize = 64 << 10;

/// How long a connection that nobody holds any more may take to close.
const CLOSING: Duration = Duration::from_secs(30);

/// The ports that connections come from.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

/// What the task and the streams share.
pub struct Shared {
    stack: Mutex<Stack>,
    /// A stream did something that the stack has to act upon.
    pub changed: Notify,
}

pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    pub device: FrameDevice,
    pub services: Services,
    start: Instant,
    next_port: u16,
    count: usize,
    /// Nobody holds these any more.
    closing: Vec<SocketHandle>,
    /// The port is gone: nothing moves any more.
    ended: bool,
}

impl Shared {
    pub fn new(address: EndAddress, subnet: Subnet, seed: u64) -> Self {
        let mut device = FrameDevice::default();
        let mut config = Config::new(EthernetAddress(address.mac.0).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address.ip.into(), subnet.prefix())).expect("there is room for one address");
        });
        let stack = Stack {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            services: Services::new(address, subnet),
            start: Instant::now(),
            next_port: *EPHEMERAL.start(),
            count: 0,
            closing: Vec::new(),
            ended: false,
        };
        Self { stack: Mutex::new(stack), changed: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().expect("nobody panics while moving frames")
    }
}

impl Stack {
    /// Handles what has come, fills what is to go, and gives how long nothing has to be done from here on.
    pub fn advance(&mut self) -> Option<Duration> {
        let now = smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64);
        let Self { interface, sockets, device, closing, count, .. } = self;
        interface.poll(now, device, sockets);
        closing.retain(|handle| {
            let state = sockets.get::<tcp::Socket<'_>>(*handle).state();
            let over = matches!(state, tcp::State::Closed | tcp::State::TimeWait);
            if over {
                sockets.remove(*handle);
                *count -= 1;
            }
            !over
        });
        interface.poll_delay(now, sockets).map(Into::into)
    }

    /// The switch is gone: everybody who waits is told.
    pub fn end(&mut self) {
        self.ended = true;
        self.sockets
            .iter_mut()
            .filter_map(|(_, socket)| tcp::Socket::downcast_mut(socket))
            .for_each(tcp::Socket::abort);
    }

    fn add(&mut self) -> io::Result<SocketHandle> {
        if self.ended {
            return Err(io::Error::new(io::ErrorKind::NetworkDown, "the network is gone"));
        }
        if self.count == CONNECTIONS {
            return Err(io::Error::other(format!("there are {CONNECTIONS} connections already")));
        }
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // What is written goes out, and what comes is acknowledged, at once.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.count += 1;
        Ok(self.sockets.add(socket))
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn connect(&mut self, remote: SocketAddrV4) -> io::Result<SocketHandle> {
        let port = self.free_port()?;
        let handle = self.add()?;
        let Self { interface, sockets, .. } = self;
        let socket: &mut tcp::Socket<'_> = sockets.get_mut(handle);
        let connecting = socket.connect(interface.context(), (*remote.ip(), remote.port()), port);
        if let Err(error) = connecting {
            self.release(handle);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{remote}` is no address: {error}")));
        }
        Ok(handle)
    }

    pub fn listen(&mut self, port: u16) -> io::Result<SocketHandle> {
        let handle = self.add()?;
        if let Err(error) = self.socket(handle).listen(IpListenEndpoint::from(port)) {
            self.release(handle);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()));
        }
        Ok(handle)
    }

    /// A local port that no connection has.
    fn free_port(&mut self) -> io::Result<u16> {
        let used = |sockets: &SocketSet<'static>, port: u16| {
            let mut ends = sockets.iter().filter_map(|(_, socket)| tcp::Socket::downcast(socket)?.local_endpoint());
            ends.any(|end| end.port == port)
        };
        // There are more ports than connections.
        for _ in EPHEMERAL {
            let port = self.next_port;
            self.next_port = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
            if !used(&self.sockets, port) {
                return Ok(port);
            }
        }
        Err(io::Error::from(io::ErrorKind::AddrInUse))
    }

    /// Waits for a connection that is being made.
    pub fn poll_connected(&mut self, handle: SocketHandle, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.ended;
        let socket = self.socket(handle);
        match socket.state() {
            tcp::State::Closed if ended => Poll::Ready(Err(io::ErrorKind::NetworkDown.into())),
            tcp::State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => {
                socket.register_recv_waker(context.waker());
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait
            | tcp::State::Closing
            | tcp::State::LastAck
            | tcp::State::TimeWait => Poll::Ready(Ok(())),
        }
    }

    /// Whoever held this does not any more.
    pub fn release(&mut self, handle: SocketHandle) {
        let socket = self.socket(handle);
        match socket.state() {
            tcp::State::Closed | tcp::State::Listen | tcp::State::SynSent => {
                self.sockets.remove(handle);
                self.count -= 1;
            }
            _ => {
                socket.close();
                // A machine that is gone does not answer.
                socket.set_timeout(Some(CLOSING.into()));
                self.closing.push(handle);
            }
        }
    }
}
