//! Recordings of networks, and the host's own place on them.

use std::io::{ErrorKind, Write};
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use bootproof::network::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/network.rs"]
mod support;

use support::*;

#[test]
fn tshark_reads_a_recording_with_ports_directions_and_times() {
    let folder = tempfile::tempdir().unwrap();
    let (switch, reports) = switch();
    let mut machines = machines(&switch, 2);
    let path = folder.path().join("lan.pcapng");
    let options = CaptureOptions { path: path.clone(), limit: 1 << 20, snap_length: 65535 };
    switch.start_capture(&options).unwrap();
    assert!(switch.start_capture(&options).is_err(), "one at a time");
    let links = LinkSelection::one_way([name(1)], [name(2)]);
    let cut = switch.set_fault(Fault::Partition, "cut", &links).unwrap();
    machines[0].send(Some(2), 1);
    machines[1].send(Some(1), 2);
    assert_eq!(machines[0].receive_mark(), 2);
    switch.heal(cut).unwrap();
    machines[0].send(Some(2), 3);
    assert_eq!(machines[1].receive_mark(), 3);
    // Another machine comes while it is being recorded.
    let mut third = Machine::attach(&switch, 3);
    third.send(Some(1), 4);
    assert_eq!(machines[0].receive_mark(), 4);
    let summary = switch.stop_capture().unwrap().unwrap();
    assert!(matches!(summary.end, CaptureEnd::Stopped), "{summary:?}");
    assert_eq!((summary.frames, summary.missed), (7, 0));
    assert_eq!(summary.bytes, path.metadata().unwrap().len());
    assert!(reports.iter().any(|report| matches!(report, SwitchReport::CaptureEnded { reason: None, frames: 7, .. })));

    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(&path).args([
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.packet_flags_direction",
    ]);
    command.args(["-e", "frame.len", "-e", "frame.time_epoch"]);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return println!("skipped in part: `tshark` is not installed, so nobody else has read the recording");
        }
        Err(error) => panic!("{error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let seen: Vec<(&str, u32, usize)> = rows
        .iter()
        .map(|row| (row[0], u32::from_str_radix(row[1].trim_start_matches("0x"), 16).unwrap(), row[2].parse().unwrap()))
        .collect();
    let length = |mark| frame(Some(1), 1, mark).len();
    assert_eq!(
        seen,
        [
            ("node01", 1, length(1)),
            ("node02", 1, length(2)),
            ("node01", 2, length(2)),
            ("node01", 1, length(3)),
            ("node02", 2, length(3)),
            ("node03", 1, length(4)),
            ("node01", 2, length(4)),
        ],
        "the first was sent and never arrived"
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for row in &rows {
        let time: f64 = row[3].parse().unwrap();
        assert!((now - time).abs() < LONG.as_secs_f64(), "{time} is not about {now}");
    }
}

#[test]
fn a_recording_ends_at_its_limit_and_says_so_while_the_network_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (switch, reports) = switch();
    let mut machines = machines(&switch, 2);
    let path = folder.path().join("lan.pcapng");
    switch.start_capture(&CaptureOptions { path: path.clone(), limit: 20_000, snap_length: 128 }).unwrap();
    for mark in 1..500 {
        machines[0].send(Some(2), mark);
        assert_eq!(machines[1].receive().unwrap(), frame(Some(2), 1, mark));
    }
    let told = reports.iter().find_map(|report| match report {
        SwitchReport::CaptureEnded { bytes, frames, reason, .. } => Some((bytes, frames, reason.unwrap())),
        _ => None,
    });
    let (bytes, frames, reason) = told.unwrap();
    assert_eq!(reason, "its limit was reached");
    assert!((19_000..=20_000).contains(&bytes) && bytes == path.metadata().unwrap().len(), "{bytes}");
    assert!((100..200).contains(&frames), "{frames}");
    let summary = switch.stop_capture().unwrap().unwrap();
    assert!(matches!(summary.end, CaptureEnd::LimitReached), "{summary:?}");
    assert!(switch.stop_capture().unwrap().is_none());
    // A second recording needs a file of its own.
    let error = switch.start_capture(&CaptureOptions { path, limit: 20_000, snap_length: 128 }).unwrap_err();
    assert!(error.to_string().starts_with("failed to create the network recording"), "{error}");
}

/// A second stack in a machine's place.
fn guest(switch: &Switch, addresses: &Addresses, number: u8) -> HostPort {
    let address = addresses.machines[&name(number)];
    HostPort::join(switch, &name(number), address, addresses.subnet, number.into()).unwrap()
}

async fn echo(mut listener: HostListener) {
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
    }
}

async fn send_and_compare(stream: HostStream, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(stream);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.unwrap();
    sending.await.unwrap();
    assert!(received == data, "{} of {} bytes", received.len(), data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_reaches_machines_by_tcp_and_faults_lie_between() {
    let (switch, _reports) = switch();
    let addresses = addresses(1);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    let machine = guest(&switch, &addresses, 1);
    tokio::spawn(echo(machine.listen(7000, 4).unwrap()));
    let remote = SocketAddrV4::new(addresses.machines["node01"].ip, 7000);
    let connect = || async { tokio::time::timeout(LONG, host.connect(remote)).await.unwrap() };

    let stream = connect().await.unwrap();
    assert_eq!(stream.remote(), Some(remote));
    tokio::time::timeout(LONG, send_and_compare(stream, 1 << 20)).await.unwrap();

    let refused = tokio::time::timeout(LONG, host.connect(SocketAddrV4::new(*remote.ip(), 7001))).await.unwrap();
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));

    // Whatever the links do short of cutting, TCP gets everything through, once and in order.
    let both = LinkSelection::both_ways(["host"], ["node01"]);
    let small = Probability::new(0.02).unwrap();
    let millisecond = Duration::from_millis(1);
    let jitter = Jitter::Normal(millisecond);
    let faults = [
        Fault::Loss { probability: small },
        Fault::Duplication { probability: small },
        Fault::Corruption { probability: small, bits: 1.try_into().unwrap() },
        Fault::Delay { delay: millisecond, jitter, reorder: true },
    ];
    let faults: Vec<FaultId> = faults
        .iter()
        .enumerate()
        .map(|(index, fault)| switch.set_fault(*fault, &index.to_string(), &both).unwrap())
        .collect();
    tokio::time::timeout(LONG, send_and_compare(connect().await.unwrap(), 100_000)).await.unwrap();
    for fault in faults {
        let counters = switch.heal(fault).unwrap().unwrap();
        assert!(counters.affected() > 0, "{counters:?}");
    }

    // Cut off, a connection waits; healed, it goes on by itself.
    let cut = switch.set_fault(Fault::Partition, "cut", &both).unwrap();
    let connecting = connect();
    tokio::pin!(connecting);
    assert!(tokio::time::timeout(SOON, &mut connecting).await.is_err());
    assert!(switch.heal(cut).unwrap().unwrap().dropped > 0);
    send_and_compare(connecting.await.unwrap(), 1000).await;

    // Nobody waits for a network that is gone.
    let mut idle = connect().await.unwrap();
    drop(switch);
    let mut byte = [0];
    let over = tokio::time::timeout(LONG, idle.read(&mut byte)).await.unwrap();
    assert!(over.is_err());
    assert_eq!(connect().await.err().map(|error| error.kind()), Some(ErrorKind::NetworkDown));
}

/// The peer is written by hand here, so that the stack does not only agree with itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_answers_who_asks_for_its_address_and_pings_it() {
    let (switch, _reports) = switch();
    let addresses = addresses(1);
    let _host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    let mut machine = Machine::attach(&switch, 1);
    let own = addresses.machines["node01"];
    let answers = tokio::task::spawn_blocking(move || {
        let EndAddress { mac: MacAddress(mac), ip } = addresses.host;
        let mut request = [[0xff; 6], own.mac.0].concat();
        // Ethernet and IPv4, a request.
        request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&own.mac.0);
        request.extend_from_slice(&own.ip.octets());
        request.extend_from_slice(&[0; 6]);
        request.extend_from_slice(&ip.octets());
        machine.socket.write_all(&framed(&request)).unwrap();
        let reply = machine.receive().unwrap();
        assert_eq!(reply[..14], [&own.mac.0[..], &mac, &[8, 6]].concat());
        assert_eq!(reply[20..32], [&[0, 2][..], &mac, &ip.octets()].concat());

        let checksum = |bytes: &[u8]| {
            let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
            let sum: u32 = words.sum();
            !((sum & 0xffff) + (sum >> 16)) as u16
        };
        let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
        echo.extend_from_slice(b"are you there?");
        let sum = checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum);
        let mut packet = vec![0x45, 0, 0, 20 + echo.len() as u8, 0, 1, 0, 0, 64, 1, 0, 0];
        packet.extend_from_slice(&own.ip.octets());
        packet.extend_from_slice(&ip.octets());
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        let ping = [&mac[..], &own.mac.0, &[8, 0], &packet, &echo].concat();
        machine.socket.write_all(&framed(&ping)).unwrap();
        let reply = machine.receive().unwrap();
        assert_eq!(reply[34], 0, "an echo reply");
        assert_eq!(&reply[38..], &echo[4..]);
        assert_eq!(checksum(&reply[34..]), 0);
    });
    tokio::time::timeout(LONG, answers).await.unwrap().unwrap();
}
