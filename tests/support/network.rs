//! Machines at a switch's ports, as QEMU would be.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bootproof::network::*;

/// Far longer than anything here takes; only so that a test that hangs says so.
pub const LONG: Duration = Duration::from_secs(60);

/// Long enough for a frame that must not come to have come, if it did.
pub const SOON: Duration = Duration::from_millis(100);

pub fn switch() -> (Switch, Receiver<SwitchReport>) {
    let (sender, reports) = channel();
    let switch = Switch::start(&SwitchOptions::new("lan", 7), move |report| {
        let _ = sender.send(report);
    });
    (switch.unwrap(), reports)
}

/// A machine as QEMU would be one.
pub struct Machine {
    pub number: u8,
    pub socket: UnixStream,
    kept: Vec<u8>,
}

impl Machine {
    pub fn attach(switch: &Switch, number: u8) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        switch.attach(&name(number), theirs).unwrap();
        Self::over(ours, number)
    }

    pub fn over(socket: UnixStream, number: u8) -> Self {
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { number, socket, kept: Vec::new() }
    }

    pub fn send(&mut self, to: Option<u8>, mark: u32) {
        let frame = frame(to, self.number, mark);
        self.socket.write_all(&framed(&frame)).unwrap();
    }

    /// The next frame; `None` at the end.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Item::Frame(range) = item_at(&self.kept, 0) {
                let frame = self.kept[HEADER..range.end].to_vec();
                self.kept.drain(..range.end);
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer).unwrap() {
                0 => return None,
                count => self.kept.extend_from_slice(&buffer[..count]),
            }
        }
    }

    pub fn receive_mark(&mut self) -> u32 {
        mark(&self.receive().unwrap())
    }

    pub fn expect_nothing(&mut self) {
        self.socket.set_read_timeout(Some(SOON)).unwrap();
        let mut byte = [0];
        assert!(self.kept.is_empty());
        let error = self.socket.read(&mut byte).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.socket.set_read_timeout(Some(LONG)).unwrap();
    }
}

pub fn name(number: u8) -> String {
    format!("node{number:02}")
}

pub fn frame(to: Option<u8>, from: u8, mark: u32) -> Vec<u8> {
    let mut frame = to.map_or([0xff; 6], |to| [2, 0, 0, 0, 0, to]).to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, from, 0x88, 0xb5]);
    frame.extend_from_slice(&mark.to_be_bytes());
    frame.resize(60 + mark as usize % 1400, 0x5a);
    frame
}

pub fn mark(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// So many machines that know each other already.
pub fn machines(switch: &Switch, count: u8) -> Vec<Machine> {
    let mut machines: Vec<Machine> = (1..=count).map(|number| Machine::attach(switch, number)).collect();
    for index in 0..machines.len() {
        machines[index].send(None, 0);
        for (other, machine) in machines.iter_mut().enumerate() {
            if other != index {
                assert_eq!(machine.receive().unwrap(), frame(None, index as u8 + 1, 0));
            }
        }
    }
    machines
}

pub fn port(switch: &Switch, number: u8) -> PortStatistics {
    switch.statistics().unwrap().into_iter().find(|port| port.name == name(number)).unwrap()
}

/// Everybody's addresses on a network.
pub struct Addresses {
    pub subnet: Subnet,
    pub host: EndAddress,
    pub machines: BTreeMap<String, EndAddress>,
}

/// Machines have the first addresses, the host the last one.
pub fn addresses(count: u8) -> Addresses {
    let end = |number: u8| EndAddress {
        mac: MacAddress([0x52, 0x54, 0, 0, 0, number]),
        ip: Ipv4Addr::new(10, 77, 0, number),
    };
    let machines = (1..=count).map(|number| (name(number), end(number))).collect();
    Addresses { subnet: "10.77.0.0/24".parse().unwrap(), host: end(254), machines }
}
