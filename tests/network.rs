//! Networks over real sockets: what is carried, what is bounded, and what faults do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use bootproof::network::*;
use proptest::prelude::*;

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/network.rs"]
mod support;

use support::*;

#[test]
fn a_fast_sender_is_slowed_down_to_its_receiver_and_nothing_is_lost() {
    const FRAMES: u32 = 20_000;
    let (switch, _reports) = switch();
    let mut machines = machines(&switch, 3);
    let mut third = machines.pop().unwrap();
    let mut second = machines.pop().unwrap();
    let mut first = machines.pop().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || (1..=FRAMES).for_each(|mark| first.send(if mark % 4 == 0 { None } else { Some(2) }, mark)));
        scope.spawn(|| {
            for expected in (1..=FRAMES).filter(|mark| mark % 4 == 0) {
                assert_eq!(third.receive().unwrap(), frame(None, 1, expected));
            }
        });
        for expected in 1..=FRAMES {
            let to = if expected % 4 == 0 { None } else { Some(2) };
            assert_eq!(second.receive().unwrap(), frame(to, 1, expected));
        }
    });
    let sender = port(&switch, 1);
    assert_eq!(sender.received_frames, u64::from(FRAMES) + 1);
    assert_eq!(port(&switch, 2).delivered_frames, u64::from(FRAMES) + 2);
    assert_eq!((port(&switch, 2).dropped_full, port(&switch, 3).dropped_full), (0, 0));
}

#[test]
fn a_machine_that_takes_nothing_stops_nobody_and_what_it_loses_is_counted() {
    const FRAMES: u32 = 20_000;
    let (switch, _reports) = switch();
    let mut machines = machines(&switch, 3);
    let mut third = machines.pop().unwrap();
    // The second is paused: it reads nothing any more.
    let mut second = machines.pop().unwrap();
    let mut first = machines.pop().unwrap();
    let flood = std::thread::spawn(move || {
        (1..=FRAMES).for_each(|mark| first.send(Some(2), mark));
        first.send(Some(3), 1);
        first
    });
    assert_eq!(third.receive_mark(), 1, "it comes behind all those that could not be taken");
    let _first = flood.join().unwrap();
    let stuck = port(&switch, 2);
    assert!(stuck.dropped_full > 0, "{stuck:?}");
    assert_eq!(stuck.delivered_frames + stuck.dropped_full, u64::from(FRAMES) + 2);
    // What was kept for it is what came first, whole and in order.
    let kept = stuck.delivered_frames as u32 - 2;
    for expected in 1..=kept {
        assert_eq!(second.receive().unwrap(), frame(Some(2), 1, expected));
    }
    third.send(Some(2), 5);
    assert_eq!(second.receive_mark(), 5, "it takes part again");
}

#[test]
fn who_floods_one_machine_does_not_slow_down_another_sender() {
    let (switch, _reports) = switch();
    let mut machines = machines(&switch, 3);
    let mut third = machines.pop().unwrap();
    let mut second = machines.pop().unwrap();
    let mut first = machines.pop().unwrap();
    let flood = std::thread::spawn(move || {
        // Until the test has seen enough.
        let large = framed(&frame(Some(3), 1, 1399));
        while first.socket.write_all(&large).is_ok() {}
    });
    // The third takes nothing; the first is held up. The second goes on at once: its frames wait, but it is read.
    let start = Instant::now();
    for mark in 1..100 {
        second.send(Some(3), mark);
        second.send(Some(2), mark);
    }
    while port(&switch, 2).received_frames < 2 * 99 + 1 {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    assert_eq!(port(&switch, 2).home, 99);
    let mut marks = Vec::new();
    while marks.len() < 99 {
        let frame = third.receive().unwrap();
        if frame[11] == 2 {
            marks.push(mark(&frame));
        }
    }
    assert!(marks.is_sorted());
    drop((switch, third));
    flood.join().unwrap();
}

#[test]
fn garbage_ends_its_own_connection_and_nobody_elses() {
    let (switch, reports) = switch();
    let mut machines = machines(&switch, 3);
    // Too short for a frame, twice; then a good one, then nonsense.
    machines[0].socket.write_all(&[0, 0, 0, 0, 0, 0, 0, 2, 7, 7]).unwrap();
    machines[0].send(Some(2), 1);
    machines[0].socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(machines[1].receive_mark(), 1);
    assert_eq!(machines[0].receive(), None);
    let down = reports.iter().find_map(|report| match report {
        SwitchReport::PortDown { port, why } => Some((port, why)),
        _ => None,
    });
    assert_eq!(down, Some((name(1), Disconnection::Garbage { length: u32::from_be_bytes(*b"GET ") })));
    assert_eq!(port(&switch, 1).too_short, 2);
    // A frame that is never ended is held for as long as its sender is there, and then forgotten.
    machines[1].socket.write_all(&[0, 0, 5, 0xdc, 1, 2, 3]).unwrap();
    machines[1].socket.shutdown(std::net::Shutdown::Both).unwrap();
    let down = reports.iter().find_map(|report| match report {
        SwitchReport::PortDown { port, why } => Some((port, why)),
        _ => None,
    });
    assert_eq!(down, Some((name(2), Disconnection::Ended)));
    let mut second = Machine::attach(&switch, 2);
    second.send(Some(3), 9);
    assert_eq!(machines[2].receive_mark(), 9);
}

#[test]
fn a_port_survives_its_machines_going_and_coming_back() {
    let folder = tempfile::tempdir().unwrap();
    let (switch, reports) = switch();
    let paths: Vec<_> = (1..=2).map(|number| folder.path().join(name(number))).collect();
    for (number, path) in (1..).zip(&paths) {
        switch.listen(&name(number), path).unwrap();
    }
    let connect = |number: u8| Machine::over(UnixStream::connect(&paths[number as usize - 1]).unwrap(), number);
    let expect = |wanted: &str| {
        let told = match reports.recv_timeout(LONG).unwrap() {
            SwitchReport::PortUp { port } => format!("{port} up"),
            SwitchReport::PortDown { port, why } => format!("{port} down {why:?}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(told, wanted);
    };
    let mut first = connect(1);
    expect("node01 up");
    for _ in 0..3 {
        let mut second = connect(2);
        expect("node02 up");
        first.send(None, 1);
        assert_eq!(second.receive_mark(), 1);
        second.send(Some(1), 2);
        assert_eq!(first.receive_mark(), 2);
        // Another one that comes too early waits for its turn.
        let waiting = connect(2);
        first.send(Some(2), 3);
        assert_eq!(second.receive_mark(), 3);
        drop(second);
        expect("node02 down Ended");
        expect("node02 up");
        drop(waiting);
        expect("node02 down Ended");
    }
    assert_eq!(port(&switch, 2).connections, 6);
    drop(switch);
    assert!(!paths[0].exists(), "its sockets go with it");
    assert_eq!(first.receive(), None);
}

#[test]
fn faults_are_set_counted_and_healed_while_frames_pass() {
    let (switch, _reports) = switch();
    let mut machines = machines(&switch, 3);
    let mut third = machines.pop().unwrap();
    let mut second = machines.pop().unwrap();
    let mut first = machines.pop().unwrap();
    let cut = switch.set_fault(Fault::Partition, "cut", &LinkSelection::one_way([name(1)], [name(2)])).unwrap();
    first.send(None, 1);
    first.send(Some(2), 2);
    second.send(Some(1), 3);
    assert_eq!(third.receive_mark(), 1);
    assert_eq!(first.receive_mark(), 3, "the other way is open");
    second.expect_nothing();
    let counters = switch.heal(cut).unwrap().unwrap();
    assert_eq!((counters.seen, counters.dropped, counters.affected()), (2, 2, 2));
    assert_eq!(switch.heal(cut).unwrap(), None);
    first.send(Some(2), 4);
    assert_eq!(second.receive_mark(), 4);

    let delay = Duration::from_millis(50);
    let fault = Fault::Delay { delay, jitter: Jitter::Uniform(delay / 5), reorder: false };
    let late = switch.set_fault(fault, "late", &LinkSelection::both_ways([name(1)], [name(2)])).unwrap();
    let start = Instant::now();
    (5..25).for_each(|mark| first.send(Some(2), mark));
    (5..25).for_each(|mark| assert_eq!(second.receive_mark(), mark));
    assert!(start.elapsed() >= delay * 4 / 5, "{:?}", start.elapsed());
    assert_eq!(switch.fault_counters(late).unwrap().unwrap().delayed, 20);
    switch.heal(late).unwrap().unwrap();

    // What waits when a fault is healed comes at once.
    let hour = Fault::Delay { delay: LONGEST_DELAY, jitter: Jitter::None, reorder: false };
    let hour = switch.set_fault(hour, "hour", &LinkSelection::all()).unwrap();
    (25..30).for_each(|mark| first.send(Some(2), mark));
    first.send(Some(1), 0);
    while port(&switch, 1).home < 1 {
        std::thread::yield_now();
    }
    assert_eq!(switch.waiting().unwrap(), 5);
    switch.heal(hour).unwrap().unwrap();
    (25..30).for_each(|mark| assert_eq!(second.receive_mark(), mark));

    let error = switch.set_fault(Fault::Partition, "x", &LinkSelection::one_way(["node01"], ["node09"])).unwrap_err();
    assert_eq!(error.to_string(), "the network `lan` has no `node09`");
}

#[test]
fn the_same_seed_loses_the_same_frames() {
    let lost = || {
        let (switch, _reports) = switch();
        let mut machines = machines(&switch, 2);
        let probability = Probability::new(0.3).unwrap();
        let links = LinkSelection::one_way([name(1)], [name(2)]);
        let loss = switch.set_fault(Fault::Loss { probability }, "loss", &links).unwrap();
        (1..1000).for_each(|mark| machines[0].send(Some(2), mark));
        machines[0].send(Some(1), 0);
        while port(&switch, 1).home < 1 {
            std::thread::yield_now();
        }
        let counters = switch.heal(loss).unwrap().unwrap();
        let arrived: Vec<u32> = (0..999 - counters.dropped).map(|_| machines[1].receive_mark()).collect();
        machines[1].expect_nothing();
        arrived
    };
    let first = lost();
    assert!((600..800).contains(&first.len()), "{}", first.len());
    assert_eq!(first, lost());
}

/// Waits until `node01` comes or goes.
fn expect_up(reports: &Receiver<SwitchReport>, qemu: &mut Child, wanted: bool) {
    let deadline = Instant::now() + LONG;
    loop {
        let Ok(report) = reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            let _ = qemu.kill();
            let mut said = String::new();
            qemu.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("QEMU did not come or go: {said}");
        };
        let is_up = match report {
            SwitchReport::PortUp { port } if port == "node01" => true,
            SwitchReport::PortDown { port, .. } if port == "node01" => false,
            _ => continue,
        };
        assert_eq!(is_up, wanted);
        return;
    }
}

/// QEMU itself at a port, with its network card's boot program as the guest that sends: what it asks for is seen, and a
/// new QEMU at the same port takes the old one's place.
#[test]
fn qemu_connects_sends_is_killed_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (switch, reports) = switch();
    let path = folder.path().join("node01");
    switch.listen("node01", &path).unwrap();
    let mut observer = Machine::attach(&switch, 2);
    let mac = "02:00:00:00:00:01";
    for _ in 0..2 {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "64", "-netdev"]);
        command.arg(format!("stream,id=lan,server=off,addr.type=unix,addr.path={}", path.display()));
        command.args(["-device", &format!("virtio-net-pci,netdev=lan,mac={mac},bootindex=1")]);
        let mut qemu = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(qemu) => qemu,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return println!("skipped: `qemu-system-x86_64` is not installed");
            }
            Err(error) => panic!("{error}"),
        };
        expect_up(&reports, &mut qemu, true);
        // The boot program asks for an address, by broadcast.
        observer.socket.set_read_timeout(Some(LONG)).unwrap();
        let frame = observer.receive().unwrap();
        assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 1]);
        let types: BTreeMap<[u8; 2], &str> = [([8, 0], "IPv4"), ([0x86, 0xdd], "IPv6")].into();
        assert!(types.contains_key(&frame[12..14]), "{:02x?}", &frame[..14]);
        qemu.kill().unwrap();
        expect_up(&reports, &mut qemu, false);
        qemu.wait().unwrap();
        // What it had sent before it was killed is no business of the next round.
        observer = Machine::attach(&switch, 2);
    }
    assert_eq!(port(&switch, 1).connections, 2);
    assert!(path.exists());
}

/// Bytes that are frames, too short for one, and garbage, in any mixture. Few addresses, so that they come again.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |longest| proptest::collection::vec(any::<u8>(), 0..longest);
    let address = (0u8..4).prop_map(|last| [last & 1, 0, 0, 0, 0, last]);
    let addressed =
        (address.clone(), address, bytes(300)).prop_map(|(to, from, rest)| [&to[..], &from, &rest].concat());
    let item = prop_oneof![
        20 => addressed.prop_map(|frame| framed(&frame)),
        10 => bytes(200).prop_map(|frame| framed(&frame)),
        1 => (2000usize..LONGEST + 1).prop_map(|length| framed(&vec![7; length])),
        2 => bytes(8),
        1 => (0u32..100_000).prop_map(|length| length.to_be_bytes().to_vec()),
    ];
    proptest::collection::vec(item, 0..15).prop_map(|items| items.concat())
}

/// What a switch has to make of what its only talking machine sends.
#[derive(Debug, Default, PartialEq)]
struct Understood {
    frames: u64,
    too_short: u64,
    home: u64,
    garbage: Option<u32>,
    for_others: Vec<Vec<u8>>,
}

fn understand(stream: &[u8]) -> Understood {
    let mut understood = Understood::default();
    let mut senders = BTreeSet::new();
    let mut at = 0;
    loop {
        match item_at(stream, at) {
            Item::Frame(range) => {
                let frame = &stream[at + HEADER..range.end];
                at = range.end;
                understood.frames += 1;
                if frame[6] & 1 == 0 {
                    senders.insert(&frame[6..12]);
                }
                if senders.contains(&frame[..6]) {
                    understood.home += 1;
                } else {
                    understood.for_others.push(frame.to_vec());
                }
            }
            Item::TooShort(range) => {
                understood.too_short += 1;
                at = range.end;
            }
            Item::Incomplete => return understood,
            Item::Garbage { length } => {
                understood.garbage = Some(length);
                return understood;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The fuzz of the frame reader, over real sockets: whatever a machine sends, however it is cut, the others get the
    /// frames in it and nothing else, and every item is counted.
    #[test]
    fn whatever_a_machine_sends_the_frames_in_it_are_carried(stream in stream(), cuts in proptest::collection::vec(1usize..3000, 1..30)) {
        let expected = understand(&stream);
        let (switch, reports) = switch();
        let mut first = Machine::attach(&switch, 1);
        let mut second = Machine::attach(&switch, 2);
        let mut understood = Understood::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
                while !rest.is_empty() {
                    let (piece, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    rest = behind;
                    match first.socket.write_all(piece) {
                        Ok(()) => {}
                        // Whoever sends garbage is not listened to.
                        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                            assert!(expected.garbage.is_some(), "{error}");
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                first.socket.shutdown(std::net::Shutdown::Write).unwrap();
            });
            while understood.for_others.len() < expected.for_others.len() {
                understood.for_others.push(second.receive().unwrap());
            }
        });
        let why = loop {
            if let SwitchReport::PortDown { why, .. } = reports.recv_timeout(LONG).unwrap() {
                break why;
            }
        };
        understood.garbage = match why {
            Disconnection::Garbage { length } => Some(length),
            Disconnection::Ended => None,
            other => panic!("{other:?}"),
        };
        let port = port(&switch, 1);
        (understood.frames, understood.too_short, understood.home) = (port.received_frames, port.too_short, port.home);
        prop_assert_eq!(understood, expected);
        drop(switch);
        prop_assert_eq!(second.receive(), None, "and nothing came behind it");
    }
}
