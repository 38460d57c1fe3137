//! What the switch decides: where a frame goes and what the links' faults make of it. Pure: ports are numbers, time is
//! one, and nothing here knows a socket.

use super::fault::{Decision, Fault, FaultCounters, FaultId, Link, LinkIdentity, Nanoseconds};
use super::frame::HEADER;
use super::held::{HeldFrame, HeldFrames};
use super::mac::{MacAddress, MacTable};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one port.
    One(usize),
    /// To every port but its own.
    Flood,
    /// Who it is for is behind the port that it came from.
    Home,
}

/// What leaves a link at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The frame as it came.
    AsItCame,
    /// The frame, its length before it, with other bits.
    Changed(Box<[u8]>),
}

/// Forwarding and faults of one network.
#[derive(Debug)]
pub struct Fabric {
    seed: u64,
    network: String,
    names: Vec<String>,
    table: MacTable,
    /// By where they come from, then by where they go to; `None` where no fault is set, which is what the fast path asks.
    links: Vec<Vec<Option<Box<Link>>>>,
    held: HeldFrames,
    next_fault: u64,
    /// Reused for every frame.
    copies: Decision,
}

impl Fabric {
    pub fn new(network: &str, seed: u64, held: HeldFrames) -> Self {
        Self {
            seed,
            network: network.into(),
            names: Vec::new(),
            table: MacTable::default(),
            links: Vec::new(),
            held,
            next_fault: 0,
            copies: Vec::new(),
        }
    }

    /// Adds a port and gives its number.
    pub fn add_port(&mut self, name: &str) -> usize {
        self.names.push(name.into());
        let count = self.names.len();
        self.links.push(Vec::new());
        self.links.iter_mut().for_each(|row| row.resize_with(count, || None));
        count - 1
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Learns where the frame comes from and says where it goes. The frame is without its length, and no shorter than
    /// its header.
    pub fn route(&mut self, from: usize, frame: &[u8]) -> Route {
        let address = |at: usize| MacAddress(frame[at..at + 6].try_into().expect("a frame has its addresses"));
        self.table.learn(address(6), from);
        let destination = address(0);
        if destination.is_group() {
            return Route::Flood;
        }
        match self.table.port_of(destination) {
            Some(port) if port == from => Route::Home,
            Some(port) => Route::One(port),
            None => Route::Flood,
        }
    }

    /// Whether a link has no fault, so that frames pass as they are.
    #[inline]
    pub fn is_clear(&self, from: usize, to: usize) -> bool {
        self.links[from][to].is_none()
    }

    /// Takes a frame over a link that has faults. What leaves at once is given to `leave`, what has to wait is kept
    /// until [`Fabric::release_due`]. What was due until `now` must have been released before.
    pub fn cross(&mut self, from: usize, to: usize, framed: &[u8], now: Nanoseconds, mut leave: impl FnMut(Leaving)) {
        let Some(link) = &mut self.links[from][to] else {
            leave(Leaving::AsItCame);
            return;
        };
        link.decide(framed.len() - HEADER, now, &mut self.copies);
        for copy in &self.copies {
            let waits = copy.release > now;
            if !waits && copy.flips.is_empty() {
                leave(Leaving::AsItCame);
                continue;
            }
            if waits && !self.held.has_room(from, to, framed.len()) {
                link.count_overflow(copy);
                continue;
            }
            let mut bytes: Box<[u8]> = framed.into();
            for bit in &copy.flips {
                bytes[HEADER + *bit as usize / 8] ^= 1 << (bit % 8);
            }
            if waits { self.held.push(copy.release, from, to, bytes) } else { leave(Leaving::Changed(bytes)) }
        }
    }

    /// The next frame whose time has come.
    pub fn release_due(&mut self, now: Nanoseconds) -> Option<HeldFrame> {
        self.held.pop_due(now)
    }

    /// When the next frame leaves that waits.
    pub fn next_release(&self) -> Option<Nanoseconds> {
        self.held.next_release()
    }

    /// Frames that wait on links.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Sets a fault on directed links. The label names its streams of chance.
    pub fn set_fault(&mut self, fault: Fault, label: &str, links: &[(usize, usize)]) -> FaultId {
        self.next_fault += 1;
        let id = FaultId(self.next_fault);
        for (from, to) in links {
            let identity = LinkIdentity {
                seed: self.seed,
                network: &self.network,
                label,
                from: &self.names[*from],
                to: &self.names[*to],
            };
            self.links[*from][*to].get_or_insert_default().set(id, fault, identity);
        }
        if fault == Fault::Partition {
            // What is on its way is cut off too: nothing comes through any more.
            for frame in self.held.take(|from, to| links.contains(&(from, to))) {
                if let Some(link) = &mut self.links[frame.from][frame.to] {
                    link.count_cut_off(id, 1);
                }
            }
        }
        id
    }

    /// Takes a fault away: gives its counters, and what waited only because of it and leaves now, in order. `None` where
    /// there is no such fault.
    pub fn heal(&mut self, id: FaultId) -> Option<(FaultCounters, Vec<HeldFrame>)> {
        let mut total = FaultCounters::default();
        let mut found = false;
        let mut freed = Vec::new();
        for (from, row) in self.links.iter_mut().enumerate() {
            for (to, slot) in row.iter_mut().enumerate() {
                let Some(link) = slot else { continue };
                let Some(counters) = link.heal(id) else { continue };
                found = true;
                total += counters;
                if !link.holds_frames() {
                    freed.push((from, to));
                }
                if link.is_clear() {
                    *slot = None;
                }
            }
        }
        let released = if freed.is_empty() || self.held.is_empty() {
            Vec::new()
        } else {
            self.held.take(|from, to| freed.contains(&(from, to)))
        };
        found.then_some((total, released))
    }

    /// What a fault has done so far; `None` where there is no such fault.
    pub fn counters(&self, id: FaultId) -> Option<FaultCounters> {
        let mut found = None;
        for link in self.links.iter().flatten().flatten() {
            if let Some(counters) = link.counters(id) {
                *found.get_or_insert_with(FaultCounters::default) += counters;
            }
        }
        found
    }

    /// The port is gone, and the addresses behind it. What waits for it may still find it back.
    pub fn forget_port(&mut self, port: usize) {
        self.table.forget_port(port);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::network::fault::{Jitter, Probability};
    use crate::network::frame::framed;

    const BROADCAST: [u8; 6] = [0xff; 6];

    fn mac(port: usize) -> [u8; 6] {
        [2, 0, 0, 0, 0, port as u8]
    }

    fn fabric(ports: usize) -> Fabric {
        let mut fabric = Fabric::new("lan", 42, HeldFrames::new(1 << 20, 1 << 18));
        for port in 0..ports {
            assert_eq!(fabric.add_port(&format!("node{port:02}")), port);
        }
        fabric
    }

    /// A frame with a number in it, so that each is told from the others.
    fn frame(destination: [u8; 6], from: usize, number: u32) -> Vec<u8> {
        let mut bytes = destination.to_vec();
        bytes.extend_from_slice(&mac(from));
        bytes.extend_from_slice(&[0x88, 0xb5]);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.resize(60, 0);
        bytes
    }

    type Delivery = (usize, usize, Vec<u8>);

    /// Does what the engine does with one frame.
    fn send(fabric: &mut Fabric, from: usize, frame: &[u8], now: Nanoseconds, delivered: &mut Vec<Delivery>) {
        release(fabric, now, delivered);
        let targets: Vec<usize> = match fabric.route(from, frame) {
            Route::One(port) => vec![port],
            Route::Flood => (0..fabric.names().len()).filter(|port| *port != from).collect(),
            Route::Home => vec![],
        };
        let framed = framed(frame);
        for to in targets {
            fabric.cross(from, to, &framed, now, |leaving| {
                let bytes = match leaving {
                    Leaving::AsItCame => frame.to_vec(),
                    Leaving::Changed(bytes) => bytes[HEADER..].to_vec(),
                };
                delivered.push((from, to, bytes));
            });
        }
    }

    fn release(fabric: &mut Fabric, now: Nanoseconds, delivered: &mut Vec<Delivery>) {
        while let Some(held) = fabric.release_due(now) {
            delivered.push((held.from, held.to, held.framed[HEADER..].to_vec()));
        }
    }

    #[test]
    fn unknown_is_flooded_known_is_sent_and_home_stays_home() {
        let mut fabric = fabric(3);
        assert_eq!(fabric.route(0, &frame(mac(1), 0, 0)), Route::Flood);
        assert_eq!(fabric.route(1, &frame(mac(0), 1, 0)), Route::One(0));
        assert_eq!(fabric.route(0, &frame(mac(1), 0, 0)), Route::One(1));
        assert_eq!(fabric.route(2, &frame(BROADCAST, 2, 0)), Route::Flood);
        assert_eq!(fabric.route(0, &frame(mac(0), 0, 0)), Route::Home);
        fabric.forget_port(1);
        assert_eq!(fabric.route(0, &frame(mac(1), 0, 0)), Route::Flood);
    }

    #[test]
    fn a_partition_one_way_leaves_the_other_way_alone_and_cuts_off_what_is_on_its_way() {
        let mut fabric = fabric(2);
        let second = Duration::from_secs(1);
        let delay = Fault::Delay { delay: second, jitter: Jitter::None, reorder: false };
        let delayed = fabric.set_fault(delay, "delay", &[(0, 1), (1, 0)]);
        let mut delivered = Vec::new();
        send(&mut fabric, 0, &frame(mac(1), 0, 1), 0, &mut delivered);
        send(&mut fabric, 1, &frame(mac(0), 1, 2), 0, &mut delivered);
        assert_eq!((delivered.len(), fabric.waiting()), (0, 2));
        let cut = fabric.set_fault(Fault::Partition, "cut", &[(0, 1)]);
        assert_eq!(fabric.waiting(), 1);
        send(&mut fabric, 0, &frame(mac(1), 0, 3), 5, &mut delivered);
        release(&mut fabric, u64::MAX, &mut delivered);
        assert_eq!(delivered, [(1, 0, frame(mac(0), 1, 2))]);
        let (counters, _) = fabric.heal(cut).unwrap();
        assert_eq!((counters.seen, counters.dropped), (2, 2));
        assert_eq!(fabric.counters(delayed).unwrap().delayed, 2);
        assert!(!fabric.is_clear(0, 1));
        fabric.heal(delayed).unwrap();
        assert!(fabric.is_clear(0, 1) && fabric.is_clear(1, 0));
        assert!(fabric.heal(delayed).is_none() && fabric.counters(delayed).is_none());
    }

    #[test]
    fn healing_a_delay_lets_go_of_what_waits_in_order_unless_something_else_holds_it() {
        let mut fabric = fabric(2);
        let delay =
            |seconds| Fault::Delay { delay: Duration::from_secs(seconds), jitter: Jitter::None, reorder: false };
        let first = fabric.set_fault(delay(1), "first", &[(0, 1)]);
        let second = fabric.set_fault(delay(2), "second", &[(0, 1)]);
        let mut delivered = Vec::new();
        for number in 0..5 {
            send(&mut fabric, 0, &frame(mac(1), 0, number), number.into(), &mut delivered);
        }
        let (_, released) = fabric.heal(first).unwrap();
        assert!(released.is_empty(), "the second holds them still");
        let (_, released) = fabric.heal(second).unwrap();
        let frames: Vec<Vec<u8>> = released.iter().map(|held| held.framed[HEADER..].to_vec()).collect();
        assert_eq!(frames, (0..5).map(|number| frame(mac(1), 0, number)).collect::<Vec<_>>());
        assert_eq!((delivered.len(), fabric.waiting()), (0, 0));
    }

    #[test]
    fn a_broadcast_takes_each_links_own_faults() {
        let mut fabric = fabric(3);
        fabric.set_fault(Fault::Partition, "cut", &[(0, 1)]);
        let mut delivered = Vec::new();
        send(&mut fabric, 0, &frame(BROADCAST, 0, 1), 0, &mut delivered);
        assert_eq!(delivered, [(0, 2, frame(BROADCAST, 0, 1))]);
    }

    #[test]
    fn what_waits_is_bounded_and_what_does_not_fit_is_counted() {
        let mut fabric = fabric(2);
        let delay = Fault::Delay { delay: Duration::from_secs(9), jitter: Jitter::None, reorder: false };
        let id = fabric.set_fault(delay, "delay", &[(0, 1)]);
        for number in 0..10_000 {
            send(&mut fabric, 0, &frame(mac(1), 0, number), number.into(), &mut Vec::new());
        }
        let counters = fabric.counters(id).unwrap();
        assert!(fabric.waiting() < 2000);
        assert_eq!(counters.overflowed + fabric.waiting() as u64, 10_000);
    }

    #[derive(Clone, Debug)]
    struct Traffic(Vec<(usize, Option<usize>, u64)>);

    const PORTS: usize = 4;

    fn any_traffic() -> impl Strategy<Value = Traffic> {
        let target = proptest::option::weighted(0.8, 0..PORTS);
        proptest::collection::vec((0..PORTS, target, 0u64..2_000_000), 1..200).prop_map(Traffic)
    }

    fn run(fabric: &mut Fabric, traffic: &Traffic, begin: Nanoseconds) -> (Vec<Delivery>, Nanoseconds) {
        let mut delivered = Vec::new();
        let mut now = begin;
        for (number, (from, to, step)) in traffic.0.iter().enumerate() {
            now += step;
            let frame = frame(to.map_or(BROADCAST, mac), *from, number as u32);
            send(fabric, *from, &frame, now, &mut delivered);
        }
        (delivered, now)
    }

    type LabelledFault = (Fault, &'static str, Vec<(usize, usize)>);

    fn some_faults() -> Vec<LabelledFault> {
        let half = Probability::new(0.5).unwrap();
        let jitter = Jitter::Uniform(Duration::from_millis(4));
        let delay = |reorder| Fault::Delay { delay: Duration::from_millis(3), jitter, reorder };
        let rate = NonZeroU64::new(20_000).unwrap();
        vec![
            (Fault::Loss { probability: half }, "loss", vec![(0, 1), (1, 0)]),
            (delay(false), "delay", vec![(0, 2), (2, 0)]),
            (delay(true), "wild delay", vec![(1, 2)]),
            (Fault::Duplication { probability: half }, "twice", vec![(0, 2), (3, 1)]),
            (Fault::RateLimit { bytes_per_second: rate, burst: 100, queue: 1000 }, "slow", vec![(2, 3), (3, 2)]),
            (Fault::Reordering { probability: half, hold: Duration::from_millis(2) }, "swap", vec![(1, 3)]),
            (Fault::Corruption { probability: half, bits: 3.try_into().unwrap() }, "noise", vec![(3, 0)]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The heart of a switch: without faults every frame reaches exactly those that it must, whole and in order.
        #[test]
        fn without_faults_nothing_is_lost_and_nothing_invented(traffic in any_traffic()) {
            let mut fabric = fabric(PORTS);
            let (delivered, _) = run(&mut fabric, &traffic, 0);
            // The same by a model that cannot be wrong: a port is known once it has sent something.
            let mut spoken = [false; PORTS];
            let mut expected = Vec::new();
            for (number, (from, to, _)) in traffic.0.iter().enumerate() {
                spoken[*from] = true;
                let bytes = frame(to.map_or(BROADCAST, mac), *from, number as u32);
                for port in (0..PORTS).filter(|port| port != from) {
                    if to.is_none_or(|to| to == port || !spoken[to]) {
                        expected.push((*from, port, bytes.clone()));
                    }
                }
            }
            prop_assert_eq!(delivered, expected);
        }

        #[test]
        fn the_same_seed_and_frames_give_the_same_deliveries_and_others_links_change_nothing(traffic in any_traffic()) {
            let outcome = |traffic: &Traffic| {
                let mut fabric = fabric(PORTS);
                // Everything is learnt already, so that no frame of one link appears on another by flooding.
                (0..PORTS).for_each(|port| { fabric.route(port, &frame(BROADCAST, port, 0)); });
                for (fault, label, links) in some_faults() {
                    fabric.set_fault(fault, label, &links);
                }
                let (mut delivered, end) = run(&mut fabric, traffic, 0);
                release(&mut fabric, end + 1_000_000_000_000, &mut delivered);
                delivered
            };
            let all = outcome(&traffic);
            prop_assert_eq!(&all, &outcome(&traffic));
            // Only what takes the link from 0 to 1, at the same times.
            let mut waited = 0;
            let mut alone = Vec::new();
            for (number, (from, to, step)) in traffic.0.iter().enumerate() {
                waited += step;
                if *from == 0 && to.is_none_or(|to| to == 1) {
                    alone.push((number, (0, *to, waited)));
                    waited = 0;
                }
            }
            let numbers: HashMap<u32, u32> = alone.iter().enumerate().map(|(new, (old, _))| (*old as u32, new as u32)).collect();
            let alone = outcome(&Traffic(alone.into_iter().map(|(_, item)| item).collect()));
            let number_of = |bytes: &[u8]| u32::from_be_bytes(bytes[14..18].try_into().unwrap());
            let of_link = |deliveries: &[Delivery]| -> Vec<u32> {
                deliveries.iter().filter(|(from, to, _)| (*from, *to) == (0, 1)).map(|(_, _, bytes)| number_of(bytes)).collect()
            };
            let before: Vec<u32> = of_link(&all).iter().map(|number| numbers[number]).collect();
            prop_assert_eq!(before, of_link(&alone));
        }

        #[test]
        fn once_healed_it_switches_as_if_nothing_had_been(traffic in any_traffic()) {
            let mut healed = fabric(PORTS);
            let ids: Vec<FaultId> = some_faults().into_iter().map(|(fault, label, links)| healed.set_fault(fault, label, &links)).collect();
            let (_, end) = run(&mut healed, &traffic, 0);
            ids.into_iter().for_each(|id| { healed.heal(id).unwrap(); });
            prop_assert_eq!(healed.waiting(), 0);
            let mut untouched = fabric(PORTS);
            run(&mut untouched, &traffic, 0);
            prop_assert_eq!(run(&mut healed, &traffic, end), run(&mut untouched, &traffic, end));
        }

        /// Nobody gets a frame that nobody sent, corrupted ones aside, and none from a port that is cut off.
        #[test]
        fn under_faults_no_frame_is_invented_and_a_partition_passes_nothing(traffic in any_traffic(), cut in 0..PORTS) {
            let mut fabric = fabric(PORTS);
            for (fault, label, links) in some_faults() {
                fabric.set_fault(fault, label, &links);
            }
            let links: Vec<_> = (0..PORTS).filter(|port| *port != cut).flat_map(|port| [(port, cut), (cut, port)]).collect();
            fabric.set_fault(Fault::Partition, "cut", &links);
            let (mut delivered, _) = run(&mut fabric, &traffic, 0);
            release(&mut fabric, u64::MAX, &mut delivered);
            for (from, to, bytes) in &delivered {
                prop_assert!(*from != cut && *to != cut && from != to);
                let number = u32::from_be_bytes(bytes[14..18].try_into().unwrap()) as usize;
                if (*from, *to) != (3, 0) {
                    let (sender, target, _) = traffic.0[number];
                    prop_assert_eq!(sender, *from);
                    prop_assert_eq!(bytes, &frame(target.map_or(BROADCAST, mac), sender, number as u32));
                }
            }
        }
    }
}
