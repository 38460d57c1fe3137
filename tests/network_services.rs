//! DHCP and DNS, as a network's host serves them to machines.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bootproof::network::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{dhcpv4, dns};
use smoltcp::wire::{DnsQueryType, IpCidr};

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/network.rs"]
mod support;

#[path = "support/client.rs"]
mod client;

use client::Client;
use support::*;

fn names(addresses: &Addresses) -> BTreeMap<String, Ipv4Addr> {
    addresses.machines.iter().map(|(name, end)| (name.clone(), end.ip)).collect()
}

fn client(switch: &Switch, addresses: &Addresses, number: u8) -> Client {
    Client::new(Machine::attach(switch, number), addresses.machines[&name(number)].mac)
}

/// What a client was told.
#[derive(Debug, PartialEq)]
struct Told {
    address: Ipv4Addr,
    prefix: u8,
    router: Option<Ipv4Addr>,
    servers: Vec<Ipv4Addr>,
    from: Ipv4Addr,
}

/// Asks for an address and takes it.
fn configure(client: &mut Client, socket: SocketHandle) -> Told {
    let told = client.run_until(|client| match client.sockets.get_mut::<dhcpv4::Socket<'_>>(socket).poll()? {
        dhcpv4::Event::Configured(config) => Some(Told {
            address: config.address.address(),
            prefix: config.address.prefix_len(),
            router: config.router,
            servers: config.dns_servers.to_vec(),
            from: config.server.identifier,
        }),
        dhcpv4::Event::Deconfigured => None,
    });
    let address = IpCidr::new(told.address.into(), told.prefix);
    client.interface.update_ip_addrs(|addresses| addresses.push(address).unwrap());
    told
}

fn look_up(client: &mut Client, server: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
    let socket = client.sockets.add(dns::Socket::new(&[server.into()], Vec::new()));
    let context = client.interface.context();
    let query = client.sockets.get_mut::<dns::Socket<'_>>(socket).start_query(context, name, DnsQueryType::A).unwrap();
    let result =
        client.run_until(|client| match client.sockets.get_mut::<dns::Socket<'_>>(socket).get_query_result(query) {
            Err(dns::GetQueryResultError::Pending) => None,
            Err(dns::GetQueryResultError::Failed) => Some(None),
            Ok(found) => Some(Some(found)),
        });
    client.sockets.remove(socket);
    let found = result?.into_iter().map(|address| match address {
        smoltcp::wire::IpAddress::Ipv4(address) => address,
    });
    Some(found.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_asks_for_its_address_and_then_for_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lan.pcapng");
    let (switch, _reports) = switch();
    switch.start_capture(&CaptureOptions { path: path.clone(), limit: 1 << 20, snap_length: 65535 }).unwrap();
    let addresses = addresses(2);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    host.serve_dhcp(addresses.machines.values().copied(), &DhcpOptions::default()).unwrap();
    host.serve_dns(&names(&addresses)).unwrap();
    let (mut first, mut second) = (client(&switch, &addresses, 1), client(&switch, &addresses, 2));
    let server = addresses.host.ip;
    let work = tokio::task::spawn_blocking(move || {
        for (client, number) in [(&mut second, 2), (&mut first, 1)] {
            let socket = client.sockets.add(dhcpv4::Socket::new());
            let expected = Told {
                address: [10, 77, 0, number].into(),
                prefix: 24,
                router: None,
                servers: vec![server],
                from: server,
            };
            assert_eq!(configure(client, socket), expected);
        }
        assert_eq!(look_up(&mut first, server, "node02"), Some(vec![[10, 77, 0, 2].into()]));
        assert_eq!(look_up(&mut first, server, "NODE01."), Some(vec![[10, 77, 0, 1].into()]));
        assert_eq!(look_up(&mut first, server, "node03"), None);
        assert_eq!(look_up(&mut second, server, "node01"), Some(vec![[10, 77, 0, 1].into()]));
    });
    tokio::time::timeout(LONG, work).await.unwrap().unwrap();
    switch.stop_capture().unwrap();
    tshark_agrees(&path);
}

/// Somebody else's idea of what there was on the network.
fn tshark_agrees(path: &Path) {
    let read = |filter: &str, fields: &[&str]| {
        let mut command = Command::new("tshark");
        command.args(["-n", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-r"]).arg(path);
        // Each frame is recorded where it comes from and where it goes to.
        let filter = format!("({filter}) && frame.packet_flags_direction == 2");
        command.args(["-Y", &filter, "-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field]));
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    };
    let wrong =
        "_ws.malformed || _ws.expert.severity >= 8388608 || ip.checksum.status == 0 || udp.checksum.status == 0";
    let Some(wrong) = read(wrong, &["frame.number", "_ws.col.Protocol", "_ws.expert.message"]) else {
        return println!("skipped in part: `tshark` is not installed, so nobody else has read the answers");
    };
    assert_eq!(wrong, "");
    let fields = ["dhcp.option.dhcp", "dhcp.ip.your", "dhcp.option.subnet_mask", "dhcp.option.ip_address_lease_time"];
    let told = read("dhcp && udp.srcport == 67 && dhcp.ip.your == 10.77.0.1", &fields).unwrap();
    assert_eq!(told, "2\t10.77.0.1\t255.255.255.0\t86400\n5\t10.77.0.1\t255.255.255.0\t86400\n");
    let answers = read("dns.flags.response == 1", &["ip.dst", "dns.flags.rcode", "dns.qry.name", "dns.a"]).unwrap();
    let expected = [
        "10.77.0.1\t0\tnode02\t10.77.0.2",
        "10.77.0.1\t0\tNODE01\t10.77.0.1",
        "10.77.0.1\t3\tnode03\t",
        "10.77.0.2\t0\tnode01\t10.77.0.1",
    ];
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_for_as_long_as_it_is_wanted() {
    let (switch, _reports) = switch();
    let addresses = addresses(1);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    host.serve_dhcp(
        addresses.machines.values().copied(),
        &DhcpOptions { lease: Duration::from_secs(2), ..DhcpOptions::default() },
    )
    .unwrap();
    let mut client = client(&switch, &addresses, 1);
    let work = tokio::task::spawn_blocking(move || {
        let mut socket = dhcpv4::Socket::new();
        let mut retries = dhcpv4::RetryConfig::default();
        retries.min_renew_timeout = smoltcp::time::Duration::from_millis(100);
        socket.set_retry_config(retries);
        let socket = client.sockets.add(socket);
        assert_eq!(configure(&mut client, socket).servers, [Ipv4Addr::UNSPECIFIED; 0], "no names are served");
        // What has been granted, of all that has come: UDP from port 67, with a first option that says so.
        let grants = |frames: &[Vec<u8>]| {
            let granted = |frame: &&Vec<u8>| frame[34..36] == [0, 67] && frame[282..285] == [53, 1, 5];
            frames.iter().filter(granted).count()
        };
        let before = grants(&client.device.seen);
        assert_eq!(before, 1);
        client.run_until(|client| {
            let lost = client.sockets.get_mut::<dhcpv4::Socket<'_>>(socket).poll();
            assert!(lost.is_none(), "{lost:?}");
            (grants(&client.device.seen) == 3).then_some(())
        });
    });
    tokio::time::timeout(LONG, work).await.unwrap().unwrap();
}

fn checksum(words: &[u8]) -> [u8; 2] {
    let sum: u32 = words.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// A UDP datagram without a check sum of its own, as IPv4 allows.
fn datagram(from: (EndAddress, u16), to: (EndAddress, u16), payload: &[u8]) -> Vec<u8> {
    let (length, whole) = (8 + payload.len() as u16, 28 + payload.len() as u16);
    let mut header = [&[0x45, 0][..], &whole.to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0]].concat();
    header.extend_from_slice(&from.0.ip.octets());
    header.extend_from_slice(&to.0.ip.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    [&to.0.mac.0[..], &from.0.mac.0, &[8, 0], &header, &ports, payload].concat()
}

fn arp_request(from: EndAddress, ip: Ipv4Addr) -> Vec<u8> {
    let mut request = [[0xff; 6], from.mac.0].concat();
    request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend_from_slice(&from.mac.0);
    request.extend_from_slice(&from.ip.octets());
    request.extend_from_slice(&[0; 6]);
    request.extend_from_slice(&ip.octets());
    request
}

const QUERY: &[u8] = b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0\x06node01\0\0\x01\0\x01";

fn discover(mac: MacAddress) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    bytes.resize(28, 0);
    bytes.extend_from_slice(&mac.0);
    bytes.resize(236, 0);
    bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    bytes
}

const ARP: [u8; 2] = [8, 6];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_is_not_answered_and_without_being_asked_nobody_is() {
    let (switch, _reports) = switch();
    let addresses = addresses(2);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    let own = addresses.machines["node01"];
    let everybody = EndAddress { mac: MacAddress([0xff; 6]), ip: Ipv4Addr::BROADCAST };
    let looking = datagram((EndAddress { ip: Ipv4Addr::UNSPECIFIED, ..own }, 68), (everybody, 67), &discover(own.mac));
    // What comes first is told by what was asked behind it.
    let mut machine = Machine::attach(&switch, 1);
    let mut first_answer = move |frame: Vec<u8>| {
        machine.socket.write_all(&framed(&frame)).unwrap();
        machine.socket.write_all(&framed(&arp_request(own, addresses.host.ip))).unwrap();
        let mut answers = vec![machine.receive().unwrap()];
        while answers.last().unwrap()[12..14] != ARP {
            answers.push(machine.receive().unwrap());
        }
        answers
    };
    tokio::task::block_in_place(|| {
        assert_eq!(first_answer(looking.clone()).len(), 1);
        host.serve_dhcp([addresses.machines["node02"]], &DhcpOptions::default()).unwrap();
        assert_eq!(first_answer(looking.clone()).len(), 1);
        host.serve_dhcp([own], &DhcpOptions::default()).unwrap();
        let answers = first_answer(looking.clone());
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0][..12], [own.mac.0, addresses.host.mac.0].concat(), "to the MAC address that asked");
        assert_eq!(answers[0][30..34], own.ip.octets());
        let error = host.serve_dhcp([addresses.host], &DhcpOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "the address `10.77.0.254` cannot be leased: somebody else has it");
        assert_eq!(first_answer(looking).len(), 2, "what was served before still is");
    });
}

/// On a socket, an answer to whoever never answers ARP would stay in front of all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_is_not_to_be_reached_holds_up_nobody() {
    let (switch, _reports) = switch();
    let addresses = addresses(2);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    host.serve_dns(&names(&addresses)).unwrap();
    let own = addresses.machines["node01"];
    let mut machine = Machine::attach(&switch, 1);
    let other = addresses.machines["node02"];
    let mut second = client(&switch, &addresses, 2);
    let work = tokio::task::spawn_blocking(move || {
        for last in 3..250 {
            let nobody = EndAddress { ip: [10, 77, 0, last].into(), ..own };
            let query = datagram((nobody, 4711), (addresses.host, 53), QUERY);
            machine.socket.write_all(&framed(&query)).unwrap();
            let answer = machine.receive().unwrap();
            assert_eq!(answer[12..14], [8, 0], "nobody was looked for first");
            assert_eq!(answer[30..38], [&nobody.ip.octets()[..], &[0, 53], &4711u16.to_be_bytes()].concat());
            assert!(answer.ends_with(&own.ip.octets()));
        }
        second.interface.update_ip_addrs(|list| list.push(IpCidr::new(other.ip.into(), 24)).unwrap());
        assert_eq!(look_up(&mut second, addresses.host.ip, "node01"), Some(vec![own.ip]));
    });
    tokio::time::timeout(LONG, work).await.unwrap().unwrap();
}
