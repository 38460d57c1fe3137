use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn end(number: u8) -> EndAddress {
    EndAddress { mac: MacAddress([2, 0, 0, 0, 0, number]), ip: [10, 77, 0, number].into() }
}

fn at(address: EndAddress, port: u16) -> End {
    End { mac: address.mac, socket: SocketAddrV4::new(address.ip, port) }
}

fn subnet() -> Subnet {
    "10.77.0.0/24".parse().unwrap()
}

fn services() -> Services {
    let host = end(254);
    let dhcp = DhcpServer::new(host.ip, subnet(), [end(1)], &DhcpOptions::default()).unwrap();
    let dns = Zone::new(&BTreeMap::from([("node01".to_owned(), end(1).ip)])).unwrap();
    Services { dhcp: Some(dhcp), dns: Some(dns), ..Services::new(host, subnet()) }
}

/// A question for `node01`.
const QUERY: &[u8] = b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0\x06node01\0\0\x01\0\x01";

fn discover() -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    bytes.resize(28, 0);
    bytes.extend_from_slice(&end(1).mac.0);
    bytes.resize(236, 0);
    bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    bytes
}

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn everybody(ip: Ipv4Addr) -> EndAddress {
    EndAddress { mac: MacAddress::BROADCAST, ip }
}

fn handled(from: End, to: End, payload: &[u8]) -> Handled {
    services().handle(&Datagram { from, to, payload }.framed())
}

#[test]
fn a_query_is_answered_to_whoever_asked() {
    let Handled::Answered(Some(frame)) = handled(at(end(1), 4711), at(end(254), 53), QUERY) else { panic!() };
    let answer = Datagram::read(&frame).unwrap();
    assert_eq!((answer.from, answer.to), (at(end(254), 53), at(end(1), 4711)));
    assert!(answer.payload.ends_with(&[10, 77, 0, 1]));
}

#[test]
fn a_client_without_an_address_is_answered_to_all_where_it_wants_that() {
    let client = at(EndAddress { ip: NOBODY, ..end(1) }, 68);
    for to in [everybody(Ipv4Addr::BROADCAST), everybody([10, 77, 0, 255].into()), end(254)] {
        let Handled::Answered(Some(frame)) = handled(client, at(to, 67), &discover()) else { panic!() };
        let answer = Datagram::read(&frame).unwrap();
        assert_eq!((answer.from, answer.to), (at(end(254), 67), at(everybody(Ipv4Addr::BROADCAST), 68)));
    }
}

#[test]
fn what_is_for_somebody_else_is_left_to_the_stack() {
    let client = at(end(1), 4711);
    for to in [at(end(254), 54), at(end(2), 53), at(everybody(Ipv4Addr::BROADCAST), 53), at(end(2), 67)] {
        assert_eq!(handled(client, to, QUERY), Handled::Not, "{to:?}");
    }
    // Flooded by the switch, but for another; and with this MAC address for another's address.
    let other = EndAddress { mac: end(254).mac, ip: end(2).ip };
    assert_eq!(handled(client, at(other, 53), QUERY), Handled::Not);
    let mut arp = vec![0xff; 6];
    arp.resize(60, 0);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(services().handle(&arp), Handled::Not);
}

#[test]
fn nothing_is_sent_to_what_is_no_machine() {
    let senders = [
        at(EndAddress { mac: MacAddress::BROADCAST, ..end(1) }, 4711),
        at(EndAddress { mac: end(254).mac, ..end(1) }, 4711),
        at(EndAddress { ip: end(254).ip, ..end(1) }, 53),
        at(EndAddress { ip: NOBODY, ..end(1) }, 4711),
        at(EndAddress { ip: Ipv4Addr::BROADCAST, ..end(1) }, 4711),
        at(EndAddress { ip: [10, 77, 0, 255].into(), ..end(1) }, 4711),
        at(EndAddress { ip: [192, 168, 0, 1].into(), ..end(1) }, 4711),
        at(end(1), 0),
    ];
    for from in senders {
        assert_eq!(handled(from, at(end(254), 53), QUERY), Handled::Answered(None), "{from:?}");
    }
}

#[test]
fn only_where_machines_boot_from_the_network_a_router_is_spoken_of() {
    let mut solicitation = vec![0x33, 0x33, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255];
    solicitation.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    solicitation.extend_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    solicitation.extend_from_slice(&[133, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(services().handle(&solicitation), Handled::Not);
    let options = DhcpOptions { boot_file: Some("http://a/b".into()), ..DhcpOptions::default() };
    let dhcp = DhcpServer::new(end(254).ip, subnet(), [end(1)], &options).unwrap();
    let services = Services { dhcp: Some(dhcp), ..services() };
    let Handled::Answered(Some(frame)) = services.handle(&solicitation) else { panic!() };
    assert_eq!((&frame[..6], frame[54]), (&end(1).mac.0[..], 134));
}

#[test]
fn what_is_off_is_left_to_the_stack() {
    let host = end(254);
    let query = Datagram { from: at(end(1), 4711), to: at(host, 53), payload: QUERY }.framed();
    let discover = discover();
    let discover = Datagram { from: at(end(1), 68), to: at(host, 67), payload: &discover }.framed();
    let nothing = Services::new(host, subnet());
    assert_eq!((nothing.handle(&query), nothing.handle(&discover)), (Handled::Not, Handled::Not));
    let names = Services { dhcp: None, ..services() };
    assert_eq!(names.handle(&discover), Handled::Not);
    assert!(matches!(names.handle(&query), Handled::Answered(Some(_))));
    let addresses = Services { dns: None, ..services() };
    assert_eq!(addresses.handle(&query), Handled::Not);
    assert!(matches!(addresses.handle(&discover), Handled::Answered(Some(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_frame_makes_them_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in any::<proptest::sample::Index>()) {
        let services = services();
        let _ = services.handle(&bytes);
        for (port, payload) in [(53, QUERY.to_vec()), (67, discover())] {
            for payload in [&bytes[..], &[&payload[..cut.index(payload.len())], &bytes].concat()] {
                let frame = Datagram { from: at(end(1), 68), to: at(end(254), port), payload }.framed();
                if let Handled::Answered(Some(answer)) = services.handle(&frame) {
                    prop_assert!(Datagram::read(&answer).is_some());
                }
                let _ = services.handle(&frame[..cut.index(frame.len())]);
            }
        }
    }
}
