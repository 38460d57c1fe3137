//! What the host serves the machines of a network, where it is asked to: their addresses by DHCP, their names by DNS; and who
//! boots from the network learns that there is no IPv6 router to wait for.
//!
//! All answer a frame with a frame and remember nothing, so no machine can fill anything here. They stand before the
//! stack and not on its sockets, because an answer has to go to the MAC address that asked: a client without an address
//! cannot be asked for it by ARP, and an answer to one that has been cut off meanwhile would wait for ARP at the head
//! of its socket's queue, and with it everybody else's.

mod datagram;
mod dhcp;
mod dns;
mod router;

use std::net::{Ipv4Addr, SocketAddrV4};

use self::datagram::{Datagram, End};
pub use self::dhcp::{DhcpOptions, DhcpServer};
pub use self::dns::Zone;
use crate::network::address::{EndAddress, Subnet};
use crate::network::mac::MacAddress;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DNS: u16 = 53;

/// What is served, and from where. Nothing, to begin with.
#[derive(Debug)]
pub struct Services {
    pub host: EndAddress,
    pub subnet: Subnet,
    pub dhcp: Option<DhcpServer>,
    pub dns: Option<Zone>,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is not for a service.
    Not,
    /// It was; a frame answers it, if anything does.
    Answered(Option<Vec<u8>>),
}

impl Services {
    pub fn new(host: EndAddress, subnet: Subnet) -> Self {
        Self { host, subnet, dhcp: None, dns: None }
    }

    /// Looks at a frame from the network.
    pub fn handle(&self, frame: &[u8]) -> Handled {
        if self.dhcp.is_none() && self.dns.is_none() {
            return Handled::Not;
        }
        if self.dhcp.as_ref().is_some_and(DhcpServer::names_boot_file)
            && let Some(answer) = router::answer(frame, self.host.mac)
        {
            return Handled::Answered(Some(answer));
        }
        let Some(Datagram { from, to, payload }) = Datagram::read(frame) else { return Handled::Not };
        let to_host = to.mac == self.host.mac && *to.socket.ip() == self.host.ip;
        match (to.socket.port(), &self.dhcp, &self.dns) {
            (DHCP_SERVER, Some(dhcp), dns) if to_host || self.is_broadcast(to) => {
                let reply = dhcp.answer(payload, dns.is_some());
                Handled::Answered(reply.map(|reply| {
                    let client = End { mac: reply.mac, socket: SocketAddrV4::new(reply.ip, DHCP_CLIENT) };
                    self.framed(DHCP_SERVER, client, &reply.payload)
                }))
            }
            (DNS, _, Some(zone)) if to_host => {
                let answer = if self.is_a_machines(from) { zone.answer(payload) } else { None };
                Handled::Answered(answer.map(|answer| self.framed(DNS, from, &answer)))
            }
            _ => Handled::Not,
        }
    }

    fn is_broadcast(&self, end: End) -> bool {
        let all = [Ipv4Addr::BROADCAST, self.subnet.broadcast()];
        end.mac == MacAddress::BROADCAST && all.contains(end.socket.ip())
    }

    /// Whether something may be sent there: nobody makes the host speak to everybody, or to itself.
    fn is_a_machines(&self, end: End) -> bool {
        let (mac, ip, port) = (end.mac, *end.socket.ip(), end.socket.port());
        !mac.is_group() && mac != self.host.mac && self.subnet.is_usable(ip) && ip != self.host.ip && port != 0
    }

    fn framed(&self, port: u16, to: End, payload: &[u8]) -> Vec<u8> {
        let from = End { mac: self.host.mac, socket: SocketAddrV4::new(self.host.ip, port) };
        Datagram { from, to, payload }.framed()
    }
}

#[cfg(test)]
mod tests;
