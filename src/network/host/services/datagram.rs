//! UDP datagrams in Ethernet frames. Pure.

use std::net::SocketAddrV4;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IPV4_HEADER_LEN, IpProtocol,
    Ipv4Packet, Ipv4Repr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};

use crate::network::mac::MacAddress;

/// One end of a datagram on its way over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub mac: MacAddress,
    pub socket: SocketAddrV4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub from: End,
    pub to: End,
    pub payload: &'a [u8],
}

/// Where an IPv4 packet says what it carries: a quick look, so that nothing else pays for ours.
const PROTOCOL: usize = ETHERNET_HEADER_LEN + 9;

const HOPS: u8 = 64;

impl<'a> Datagram<'a> {
    /// `None` for everything that is no whole and undamaged UDP datagram over IPv4.
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        if frame.get(PROTOCOL) != Some(&IpProtocol::Udp.into()) {
            return None;
        }
        let checksums = ChecksumCapabilities::default();
        let frame = EthernetFrame::new_checked(frame).ok()?;
        if frame.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        let header = Ipv4Repr::parse(&packet, &checksums).ok()?;
        let whole = !packet.more_frags() && packet.frag_offset() == 0;
        // smoltcp 0.12 takes shorter headers for headers.
        if header.next_header != IpProtocol::Udp || !whole || usize::from(packet.header_len()) < IPV4_HEADER_LEN {
            return None;
        }
        let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
        let (source, destination) = (header.src_addr.into(), header.dst_addr.into());
        let ports = UdpRepr::parse(&datagram, &source, &destination, &checksums).ok()?;
        let end = |mac: EthernetAddress, ip, port| End { mac: MacAddress(mac.0), socket: SocketAddrV4::new(ip, port) };
        Some(Self {
            from: end(frame.src_addr(), header.src_addr, ports.src_port),
            to: end(frame.dst_addr(), header.dst_addr, ports.dst_port),
            payload: datagram.payload(),
        })
    }

    /// The frame that carries it. The payload has to fit into one.
    pub fn framed(&self) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + UDP_HEADER_LEN + self.payload.len()];
        let (source, destination) = (*self.from.socket.ip(), *self.to.socket.ip());
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        let header = EthernetRepr {
            src_addr: EthernetAddress(self.from.mac.0),
            dst_addr: EthernetAddress(self.to.mac.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        header.emit(&mut frame);
        let header = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Udp,
            payload_len: UDP_HEADER_LEN + self.payload.len(),
            hop_limit: HOPS,
        };
        header.emit(&mut Ipv4Packet::new_unchecked(frame.payload_mut()), &checksums);
        let ports = UdpRepr { src_port: self.from.socket.port(), dst_port: self.to.socket.port() };
        ports.emit(
            &mut UdpPacket::new_unchecked(&mut frame.payload_mut()[IPV4_HEADER_LEN..]),
            &source.into(),
            &destination.into(),
            self.payload.len(),
            |place| place.copy_from_slice(self.payload),
            &checksums,
        );
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(number: u8, port: u16) -> End {
        End { mac: MacAddress([2, 0, 0, 0, 0, number]), socket: SocketAddrV4::new([10, 77, 0, number].into(), port) }
    }

    proptest! {
        #[test]
        fn what_was_framed_is_read_again_and_damage_is_seen(payload in proptest::collection::vec(any::<u8>(), 0..600), bit in any::<proptest::sample::Index>()) {
            let datagram = Datagram { from: end(1, 68), to: end(2, 67), payload: &payload };
            let mut frame = datagram.framed();
            prop_assert_eq!(Datagram::read(&frame), Some(datagram));
            // Ethernet's own check sequence does not travel with a frame: its header is not protected.
            let bit = ETHERNET_HEADER_LEN * 8 + bit.index((frame.len() - ETHERNET_HEADER_LEN) * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            // All zero is no damaged check sum but none.
            let checksum = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + 6;
            prop_assume!(frame[checksum..checksum + 2] != [0, 0]);
            prop_assert_eq!(Datagram::read(&frame), None);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), like in any::<bool>(), cut in any::<proptest::sample::Index>()) {
            let mut frame = bytes;
            if like && frame.len() > PROTOCOL {
                // Nearly a datagram: headers that agree with each other, then anything.
                let whole = Datagram { from: end(1, 68), to: end(2, 67), payload: &frame }.framed();
                let at = cut.index(whole.len());
                frame = [&whole[..at], &frame].concat();
            }
            if let Some(datagram) = Datagram::read(&frame) {
                prop_assert!(datagram.payload.len() <= frame.len());
            }
        }
    }
}
