//! Telling who asks for an IPv6 router (RFC 4861) that there is none. Pure.
//!
//! The networks are IPv4. But iPXE waits for IPv6 too before it goes on: seconds that double with each solicitation, at
//! every boot, unless something answers.

use std::net::Ipv6Addr;

use crate::network::mac::MacAddress;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ICMP: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Nobody outside the link can have sent it.
const ON_LINK: u8 = 255;
/// All nodes of the link.
const EVERYBODY: (MacAddress, Ipv6Addr) =
    (MacAddress([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// The answer to a router solicitation: an advertisement of no router (its lifetime is zero), no prefix and no DHCP. `None`
/// where the frame is none.
pub fn answer(frame: &[u8], host: MacAddress) -> Option<Vec<u8>> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let (header, message) = packet.split_at_checked(IPV6)?;
    let asked = ethernet[12..] == [0x86, 0xdd]
        && header[0] >> 4 == 6
        && (header[6], header[7]) == (ICMP, ON_LINK)
        && message.get(..2) == Some(&[SOLICITATION, 0]);
    if !asked {
        return None;
    }
    let sender = MacAddress(ethernet[6..12].try_into().ok()?);
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    // Whoever has no address yet cannot be answered alone.
    let (mac, to) = if source.is_unspecified() { EVERYBODY } else { (sender, source) };
    if mac != EVERYBODY.0 && (mac.is_group() || mac == host || source.is_multicast()) {
        return None;
    }
    // Lifetime, and what else there would be to say: nothing.
    let mut advertisement = [0; 16];
    advertisement[0] = ADVERTISEMENT;
    let from = link_local(host);
    let sum = checksum(from, to, &advertisement);
    advertisement[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut answer = Vec::with_capacity(ETHERNET + IPV6 + advertisement.len());
    answer.extend_from_slice(&mac.0);
    answer.extend_from_slice(&host.0);
    answer.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, advertisement.len() as u8, ICMP, ON_LINK]);
    answer.extend_from_slice(&from.octets());
    answer.extend_from_slice(&to.octets());
    answer.extend_from_slice(&advertisement);
    Some(answer)
}

/// The address that follows from a card's own (EUI-64).
fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = [0, 0, 0, message.len() as u8, 0, 0, 0, ICMP];
    let all = [&from.octets()[..], &to.octets(), &length, message].concat();
    let mut sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: MacAddress = MacAddress([0x0a, 0, 10, 0, 2, 1]);

    /// As iPXE's ROM sent it, by a recording.
    const ASKED: &[u8] = &[
        0x33, 0x33, 0x00, 0x00, 0x00, 0x02, 0x52, 0x54, 0x00, 0x5b, 0xb6, 0x4d, 0x86, 0xdd, 0x60, 0x00, 0x00, 0x00,
        0x00, 0x10, 0x3a, 0xff, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x50, 0x54, 0x00, 0xff, 0xfe, 0x5b,
        0xb6, 0x4d, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02,
        0x85, 0x00, 0x6d, 0x34, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x52, 0x54, 0x00, 0x5b, 0xb6, 0x4d,
    ];

    #[test]
    fn who_asks_for_a_router_learns_that_there_is_none() {
        let answer = answer(ASKED, HOST).unwrap();
        assert_eq!(answer[..6], ASKED[6..12], "to whoever asked");
        assert_eq!((&answer[6..12], &answer[38..54]), (&HOST.0[..], &ASKED[22..38]));
        assert_eq!((answer[20], answer[21], answer[54]), (58, 255, 134));
        assert!(answer[58..].iter().all(|byte| *byte == 0), "no flags, no lifetime, no prefix");
        // A message with its own checksum sums up to zero.
        let (from, to) = (link_local(HOST), Ipv6Addr::from(<[u8; 16]>::try_from(&answer[38..54]).unwrap()));
        assert_eq!(from.to_string(), "fe80::800:aff:fe00:201");
        assert_eq!(checksum(from, to, &answer[54..]), 0);
    }

    #[test]
    fn who_has_no_address_is_answered_with_all_others() {
        let mut asked = ASKED.to_vec();
        asked[22..38].fill(0);
        let answer = answer(&asked, HOST).unwrap();
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(answer[38..54], EVERYBODY.1.octets());
    }

    #[test]
    fn nothing_else_is_answered() {
        for (at, byte) in [(54, 135), (55, 1), (21, 64), (20, 17), (13, 0), (14, 0x40), (6, 0xff), (22, 0xff)] {
            let mut other = ASKED.to_vec();
            other[at] = byte;
            assert_eq!(answer(&other, HOST), None, "{at}");
        }
        for length in 0..ETHERNET + IPV6 + 2 {
            assert_eq!(answer(&ASKED[..length], HOST), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(frame in proptest::collection::vec(any::<u8>(), 0..200), at in 0..70usize, byte: u8) {
            let _ = answer(&frame, HOST);
            let mut nearly = ASKED.to_vec();
            nearly[at] = byte;
            let _ = answer(&nearly, HOST);
        }
    }
}
