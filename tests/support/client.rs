//! A machine whose own stack asks the network for its address and for names.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use bootproof::network::*;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::wire::EthernetAddress;

use crate::support::{LONG, Machine};

pub struct Client {
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub device: Card,
    start: Instant,
}

/// The machine's network card.
pub struct Card {
    machine: Machine,
    kept: Vec<u8>,
    incoming: VecDeque<Vec<u8>>,
    /// All that has come so far.
    pub seen: Vec<Vec<u8>>,
}

pub struct Received(Vec<u8>);

pub struct Sending<'a>(&'a mut Machine);

impl Client {
    /// Without an address.
    pub fn new(machine: Machine, mac: MacAddress) -> Self {
        let mut device = Card { machine, kept: Vec::new(), incoming: VecDeque::new(), seen: Vec::new() };
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = 7;
        let interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        Self { interface, sockets: SocketSet::new(Vec::new()), device, start: Instant::now() }
    }

    /// Lets the stack work until there is what is looked for.
    pub fn run_until<T>(&mut self, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            let now = smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            if let Some(found) = found(self) {
                return found;
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("it takes far too long");
            let delay = self.interface.poll_delay(now, &self.sockets).map_or(left, Duration::from);
            self.device.wait(delay.min(left));
        }
    }
}

impl Card {
    /// Waits until something comes, but no longer than is said.
    fn wait(&mut self, longest: Duration) {
        let socket = &mut self.machine.socket;
        // Zero would be for ever.
        socket.set_read_timeout(Some(longest.max(Duration::from_micros(1)))).unwrap();
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer) {
            Ok(count) => {
                assert!(count > 0, "the network is gone");
                self.kept.extend_from_slice(&buffer[..count]);
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
        }
        while let Item::Frame(range) = item_at(&self.kept, 0) {
            let frame = self.kept[HEADER..range.end].to_vec();
            self.kept.drain(..range.end);
            self.seen.push(frame.clone());
            self.incoming.push_back(frame);
        }
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.socket.write_all(&framed(&frame)).unwrap();
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.incoming.pop_front()?), Sending(&mut self.machine)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.machine))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
