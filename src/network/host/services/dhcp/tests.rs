//! Messages are written and read by hand here, so that smoltcp does not only agree with itself.

use proptest::prelude::*;

use super::*;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACKNOWLEDGE: u8 = 5;
const REFUSE: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const KNOWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

fn end(number: u8) -> EndAddress {
    EndAddress { mac: MacAddress([2, 0, 0, 0, 0, number]), ip: [10, 77, 0, number].into() }
}

fn started(leases: &[EndAddress], lease: Duration) -> Result<DhcpServer> {
    DhcpServer::new(
        HOST,
        "10.77.0.0/24".parse().unwrap(),
        leases.iter().copied(),
        &DhcpOptions { lease, boot_file: None },
    )
}

fn server() -> DhcpServer {
    started(&[end(1), end(2)], Duration::from_secs(3600)).unwrap()
}

#[derive(Clone, Copy)]
struct Message<'a> {
    mac: MacAddress,
    current: Ipv4Addr,
    broadcast: bool,
    options: &'a [(u8, &'a [u8])],
}

impl Message<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe, 0, 9, if self.broadcast { 0x80 } else { 0 }, 0];
        bytes.extend_from_slice(&self.current.octets());
        bytes.resize(28, 0);
        bytes.extend_from_slice(&self.mac.0);
        bytes.resize(236, 0);
        bytes.extend_from_slice(&[99, 130, 83, 99]);
        for (kind, data) in self.options {
            bytes.extend_from_slice(&[*kind, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        bytes.push(255);
        bytes
    }
}

fn message<'a>(options: &'a [(u8, &'a [u8])]) -> Message<'a> {
    Message { mac: KNOWN, current: NONE, broadcast: false, options }
}

struct Said {
    kind: u8,
    to: (MacAddress, Ipv4Addr),
    current: Ipv4Addr,
    given: Ipv4Addr,
    options: BTreeMap<u8, Vec<u8>>,
}

fn read(reply: Reply) -> Said {
    let Reply { mac, ip, payload } = reply;
    assert!(payload.len() >= 300);
    assert_eq!(payload[..8], [2, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe]);
    assert_eq!(payload[236..240], [99, 130, 83, 99]);
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&payload[at..at + 4]).unwrap());
    let mut options = BTreeMap::new();
    let mut at = 240;
    while payload[at] != 255 {
        let end = at + 2 + usize::from(payload[at + 1]);
        assert!(options.insert(payload[at], payload[at + 2..end].to_vec()).is_none(), "each is there once");
        at = end;
    }
    assert!(payload[at + 1..].iter().all(|byte| *byte == 0));
    Said { kind: options[&53][0], to: (mac, ip), current: address(12), given: address(16), options }
}

fn said(message: &Message<'_>) -> Said {
    read(server().answer(&message.bytes(), true).unwrap())
}

#[test]
fn whoever_looks_for_an_address_is_offered_its_own() {
    let offer = said(&message(&[(53, &[DISCOVER])]));
    assert_eq!((offer.kind, offer.given, offer.to), (OFFER, OWN, (KNOWN, OWN)));
    let expected = [
        (1, vec![255, 255, 255, 0]),
        (6, HOST.octets().to_vec()),
        (51, 3600u32.to_be_bytes().to_vec()),
        (53, vec![OFFER]),
        (54, HOST.octets().to_vec()),
    ];
    assert_eq!(offer.options, BTreeMap::from(expected), "and no router");
    // Another address is not to be had, and whoever cannot be spoken to alone is spoken to with all others.
    let wish = [(53, &[DISCOVER][..]), (50, &[10, 77, 0, 2])];
    let offer = said(&Message { broadcast: true, ..message(&wish) });
    assert_eq!((offer.given, offer.to), (OWN, (MacAddress::BROADCAST, Ipv4Addr::BROADCAST)));
}

#[test]
fn names_are_pointed_to_only_where_they_are_served() {
    let offer = read(server().answer(&message(&[(53, &[DISCOVER])]).bytes(), false).unwrap());
    assert!(!offer.options.contains_key(&6));
}

#[test]
fn a_boot_file_is_told_to_ipxe_and_to_nobody_else() {
    let url = "http://10.77.0.254:8080/netboot/ipxe?mac=${netX/mac}";
    let with = |name: &str| {
        let options = DhcpOptions { boot_file: Some(name.into()), ..DhcpOptions::default() };
        DhcpServer::new(HOST, "10.77.0.0/24".parse().unwrap(), [end(1)], &options)
    };
    let server = with(url).unwrap();
    let asked = message(&[(53, &[DISCOVER]), (77, b"iPXE")]).bytes();
    let reply = server.answer(&asked, false).unwrap();
    assert_eq!(reply.payload[20..24], HOST.octets(), "next-server");
    assert_eq!(reply.payload[108..236][..url.len()], *url.as_bytes());
    assert_eq!(reply.payload[108 + url.len()], 0);
    let said = read(reply);
    assert_eq!((&said.options[&66][..], &said.options[&67][..]), (&b"10.77.0.254"[..], url.as_bytes()));
    assert_eq!(said.options[&175], [176, 1, 1]);
    // A name of any length that an option holds, but never one that is cut off.
    let long = "x".repeat(255);
    let reply = with(&long).unwrap().answer(&asked, false).unwrap();
    assert!(reply.payload[108..236].iter().all(|byte| *byte == 0));
    assert_eq!(read(reply).options[&67], long.as_bytes());
    for name in ["", &"x".repeat(256)] {
        assert!(with(name).is_err(), "{name}");
    }
    for other in [
        &[(53, &[DISCOVER][..])][..],
        &[(53, &[DISCOVER]), (77, b"PXE")],
        &[(53, &[DISCOVER]), (60, b"PXEClient:Arch:00007")],
    ] {
        let reply = server.answer(&message(other).bytes(), false).unwrap();
        assert_eq!(reply.payload[20..24], [0; 4]);
        assert!(reply.payload[108..236].iter().all(|byte| *byte == 0));
        let said = read(reply);
        assert!([66, 67, 175].iter().all(|kind| !said.options.contains_key(kind)), "{other:?}");
    }
}

#[test]
fn an_offer_that_is_taken_is_acknowledged() {
    let options = [(53, &[REQUEST][..]), (50, &OWN.octets()), (54, &HOST.octets())];
    let reply = said(&message(&options));
    assert_eq!((reply.kind, reply.given, reply.current, reply.to), (ACKNOWLEDGE, OWN, NONE, (KNOWN, OWN)));
    assert_eq!(reply.options[&51], 3600u32.to_be_bytes());
    let other = [(53, &[REQUEST][..]), (50, &OWN.octets()), (54, &[10, 77, 0, 9])];
    assert_eq!(server().answer(&message(&other).bytes(), true), None, "it takes somebody else's offer");
}

#[test]
fn who_restarts_or_renews_keeps_its_address_and_nobody_gets_another() {
    let restarting = said(&message(&[(53, &[REQUEST]), (50, &OWN.octets())]));
    assert_eq!((restarting.kind, restarting.given), (ACKNOWLEDGE, OWN));
    let renewing = said(&Message { current: OWN, broadcast: true, ..message(&[(53, &[REQUEST])]) });
    assert_eq!((renewing.kind, renewing.given, renewing.current), (ACKNOWLEDGE, OWN, OWN));
    assert_eq!(renewing.to, (KNOWN, OWN), "it has an address to be spoken to at");

    let foreign = Ipv4Addr::new(192, 168, 1, 7);
    let both = [(53, &[REQUEST][..]), (50, &OWN.octets())];
    let wrong = [
        message(&[(53, &[REQUEST]), (50, &[10, 77, 0, 2])]),
        Message { current: foreign, ..message(&[(53, &[REQUEST])]) },
        Message { current: foreign, ..message(&both) },
    ];
    for message in &wrong {
        let reply = said(message);
        assert_eq!((reply.kind, reply.given), (REFUSE, NONE));
        assert_eq!(reply.to, (MacAddress::BROADCAST, Ipv4Addr::BROADCAST));
        assert_eq!(reply.options.keys().copied().collect::<Vec<_>>(), [53, 54]);
    }
}

#[test]
fn who_has_an_address_already_is_told_the_rest() {
    let current = Ipv4Addr::new(10, 77, 0, 100);
    let reply = said(&Message { current, ..message(&[(53, &[INFORM])]) });
    assert_eq!((reply.kind, reply.given, reply.to), (ACKNOWLEDGE, NONE, (KNOWN, current)));
    assert_eq!(reply.options.keys().copied().collect::<Vec<_>>(), [1, 6, 53, 54], "and no lease");
    for current in [NONE, HOST, Ipv4Addr::BROADCAST, [10, 77, 0, 255].into(), [192, 168, 1, 7].into()] {
        let message = Message { current, ..message(&[(53, &[INFORM])]) };
        assert_eq!(server().answer(&message.bytes(), true), None, "{current}");
    }
}

#[test]
fn a_clients_identifier_comes_back_as_it_was() {
    let long = [7; 255];
    for identifier in [&[0xff, 1, 2, 3, 4, 0, 2, 0, 0, 0xab, 0x11][..], &[0, 1, 2, 3, 4, 5, 6], &long] {
        let options = [(61, identifier), (53, &[DISCOVER][..])];
        assert_eq!(said(&message(&options)).options[&61], identifier);
    }
}

#[test]
fn what_is_not_to_be_answered_is_not() {
    let own = OWN.octets();
    let silent: &[&[(u8, &[u8])]] = &[
        &[(53, &[RELEASE]), (54, &HOST.octets())],
        &[(53, &[DECLINE]), (50, &own), (54, &HOST.octets())],
        &[(53, &[OFFER])],
        &[(53, &[ACKNOWLEDGE])],
        &[(53, &[REFUSE])],
        &[(53, &[77])],
        &[(53, &[])],
        &[(53, &[DISCOVER, DISCOVER])],
        &[],
        &[(53, &[REQUEST])],
        &[(53, &[REQUEST]), (50, &own[..3])],
        &[(53, &[REQUEST]), (50, &own), (54, &[1])],
    ];
    for options in silent {
        assert_eq!(server().answer(&message(options).bytes(), true), None, "{options:?}");
    }
    let good = message(&[(53, &[DISCOVER])]);
    let unknown = Message { mac: MacAddress([2, 0, 0, 0, 0, 9]), ..good };
    assert_eq!(server().answer(&unknown.bytes(), true), None);
    // A reply; not Ethernet; other sizes of address; no DHCP.
    for (at, value) in [(0, 2), (0, 0), (1, 6), (2, 16), (2, 0), (236, 0)] {
        let mut bytes = good.bytes();
        bytes[at] = value;
        assert_eq!(server().answer(&bytes, true), None, "{at}");
    }
    let bytes = good.bytes();
    for length in 0..bytes.len() - 1 {
        assert_eq!(server().answer(&bytes[..length], true), None, "{length}");
    }
}

#[test]
fn leases_make_sense_or_are_told_to_make_none() {
    let told = |leases: &[EndAddress]| started(leases, Duration::ZERO).unwrap_err().to_string();
    let outside = EndAddress { ip: [10, 77, 0, 255].into(), ..end(1) };
    assert_eq!(told(&[outside]), "`10.77.0.255` is no machine's address in the subnet `10.77.0.0/24`");
    let taken = "the address `10.77.0.254` cannot be leased: somebody else has it";
    assert_eq!(told(&[EndAddress { ip: HOST, ..end(1) }]), taken);
    let taken = "the address `10.77.0.1` cannot be leased: somebody else has it";
    assert_eq!(told(&[end(1), EndAddress { ip: end(1).ip, ..end(2) }]), taken);
    let shared = "the MAC address `02:00:00:00:00:01` is not one machine's own";
    assert_eq!(told(&[end(1), EndAddress { mac: end(1).mac, ..end(2) }]), shared);
    for (lease, seconds) in [(Duration::ZERO, 1), (Duration::from_millis(2900), 2), (Duration::MAX, u32::MAX)] {
        let server = started(&[end(1)], lease).unwrap();
        let offer = read(server.answer(&message(&[(53, &[DISCOVER])]).bytes(), true).unwrap());
        assert_eq!(offer.options[&51], u32::to_be_bytes(seconds));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Any bytes; any options behind a good header; a good message that was damaged.
    #[test]
    fn no_bytes_make_it_panic_or_give_anybody_anothers_address(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        options in proptest::collection::vec((prop_oneof![Just(53), Just(50), Just(54), Just(61), any::<u8>()], proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
        (current, kind, broadcast) in (any::<[u8; 4]>(), 0u8..10, any::<bool>()),
        (at, value) in (any::<proptest::sample::Index>(), any::<u8>()),
    ) {
        let server = server();
        let _ = server.answer(&bytes, true);
        let kind = [kind];
        let list: Vec<(u8, &[u8])> =
            [(53, &kind[..])].into_iter().chain(options.iter().map(|(kind, data)| (*kind, &data[..]))).collect();
        let mut whole = Message { current: current.into(), broadcast, ..message(&list) }.bytes();
        let header = whole[..240].to_vec();
        let at = at.index(whole.len());
        whole[at] = value;
        for message in [whole, [&header[..], &bytes].concat()] {
            if let Some(reply) = server.answer(&message, true) {
                let mac = MacAddress(message[28..34].try_into().unwrap());
                prop_assert!(mac == end(1).mac || mac == end(2).mac);
                prop_assert!(reply.mac == mac || reply.mac == MacAddress::BROADCAST);
                prop_assert!(reply.payload.len() < 576, "what every client takes");
                let given = Ipv4Addr::from(<[u8; 4]>::try_from(&reply.payload[16..20]).unwrap());
                prop_assert!(given == NONE || given == server.leases[&mac]);
            }
        }
    }
}
