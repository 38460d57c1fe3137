//! What becomes of each frame on one directed link.

use std::time::Duration;

use super::counters::FaultCounters;
use super::kind::Fault;
use super::random::{LinkIdentity, Random};
use super::{FaultId, Nanoseconds};
use crate::network::frame::SHORTEST;

/// One frame leaves a link as so many at most, however many duplications are set on it.
const MOST_COPIES: usize = 8;

/// One copy of a frame that leaves a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCopy {
    /// When it leaves: not before it came.
    pub release: Nanoseconds,
    /// Bits that are flipped, counted from the frame's first.
    pub flips: Vec<u32>,
    /// Keeps its place behind those before it.
    in_order: bool,
    /// The fault that made it wait.
    holder: Option<FaultId>,
}

/// What becomes of a frame: the copies that leave the link, none where it was lost.
pub type Decision = Vec<LinkCopy>;

#[derive(Debug)]
struct ActiveFault {
    id: FaultId,
    fault: Fault,
    random: Random,
    counters: FaultCounters,
    /// Of a rate limit: when the bucket will have paid for what was let through.
    paid_at: Nanoseconds,
}

/// The faults of one directed link.
#[derive(Debug, Default)]
pub struct Link {
    /// In the order in which they act.
    faults: Vec<ActiveFault>,
    /// When the last frame that keeps its place leaves.
    last_release: Nanoseconds,
}

impl Link {
    /// Sets a fault; its stream of chance begins.
    pub fn set(&mut self, id: FaultId, fault: Fault, identity: LinkIdentity<'_>) {
        let active =
            ActiveFault { id, fault, random: Random::new(identity), counters: FaultCounters::default(), paid_at: 0 };
        let at = self.faults.partition_point(|other| (other.fault.stage(), other.id) < (fault.stage(), id));
        self.faults.insert(at, active);
    }

    /// Takes a fault away and gives its counters; `None` where it was not set. What the link still holds has to be
    /// released when [`Link::holds_frames`] says no afterwards, before the next frame comes.
    pub fn heal(&mut self, id: FaultId) -> Option<FaultCounters> {
        let at = self.faults.iter().position(|active| active.id == id)?;
        let counters = self.faults.remove(at).counters;
        if !self.holds_frames() {
            self.last_release = 0;
        }
        Some(counters)
    }

    pub fn counters(&self, id: FaultId) -> Option<FaultCounters> {
        self.faults.iter().find(|active| active.id == id).map(|active| active.counters)
    }

    /// No fault is set.
    pub fn is_clear(&self) -> bool {
        self.faults.is_empty()
    }

    /// Some fault makes frames wait.
    pub fn holds_frames(&self) -> bool {
        self.faults.iter().any(|active| active.fault.holds_frames())
    }

    /// Frames that waited on the link were lost because this fault, a partition, was set.
    pub fn count_cut_off(&mut self, id: FaultId, frames: u64) {
        if let Some(active) = self.faults.iter_mut().find(|active| active.id == id) {
            active.counters.seen += frames;
            active.counters.dropped += frames;
        }
    }

    /// A copy was to wait and there is no room for it.
    pub fn count_overflow(&mut self, copy: &LinkCopy) {
        // Without a holder it waits behind others; then what holds those is to blame.
        let active = self.faults.iter_mut().find(|active| match copy.holder {
            Some(id) => active.id == id,
            None => active.fault.holds_frames(),
        });
        if let Some(active) = active {
            active.counters.overflowed += 1;
        }
    }

    /// Decides about the next frame, of so many bytes. `now` never goes back.
    pub fn decide(&mut self, length: usize, now: Nanoseconds, copies: &mut Decision) {
        copies.clear();
        copies.push(LinkCopy { release: now, flips: Vec::new(), in_order: true, holder: None });
        for active in &mut self.faults {
            active.act(length, copies);
            if copies.is_empty() {
                return;
            }
        }
        for copy in copies.iter_mut().filter(|copy| copy.in_order) {
            copy.release = copy.release.max(self.last_release);
            self.last_release = copy.release;
        }
    }
}

impl ActiveFault {
    fn act(&mut self, length: usize, copies: &mut Decision) {
        let Self { id, random, counters, paid_at, .. } = self;
        counters.seen += copies.len() as u64;
        match self.fault {
            Fault::Partition => {
                counters.dropped += copies.len() as u64;
                copies.clear();
            }
            Fault::Loss { probability } => copies.retain(|_| {
                let lost = random.hits(probability);
                counters.dropped += u64::from(lost);
                !lost
            }),
            Fault::Corruption { probability, bits } => {
                for copy in copies {
                    if random.hits(probability) && flip(random, length, bits.get(), &mut copy.flips) {
                        counters.corrupted += 1;
                    }
                }
            }
            Fault::Duplication { probability } => {
                for index in (0..copies.len()).rev() {
                    if random.hits(probability) && copies.len() < MOST_COPIES {
                        copies.insert(index + 1, copies[index].clone());
                        counters.duplicated += 1;
                    }
                }
            }
            Fault::RateLimit { bytes_per_second, burst, queue } => copies.retain_mut(|copy| {
                let time_for = |bytes: u64| {
                    let time = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.get());
                    Nanoseconds::try_from(time).unwrap_or(Nanoseconds::MAX)
                };
                // A bucket that has filled up gets no fuller.
                let begin = (*paid_at).max(copy.release.saturating_sub(time_for(burst)));
                if begin.saturating_sub(copy.release) > time_for(queue) {
                    counters.overflowed += 1;
                    return false;
                }
                *paid_at = begin.saturating_add(time_for(length as u64));
                if *paid_at > copy.release {
                    copy.release = *paid_at;
                    copy.holder = Some(*id);
                    counters.delayed += 1;
                }
                true
            }),
            Fault::Delay { delay, jitter, reorder } => {
                for copy in copies {
                    let delay = nanoseconds(delay).saturating_add_signed(random.jitter(jitter));
                    copy.in_order &= !reorder;
                    if delay > 0 {
                        copy.release = copy.release.saturating_add(delay);
                        copy.holder = Some(*id);
                        counters.delayed += 1;
                    }
                }
            }
            Fault::Reordering { probability, hold } => {
                for copy in copies {
                    if random.hits(probability) {
                        copy.release = copy.release.saturating_add(nanoseconds(hold));
                        copy.in_order = false;
                        copy.holder = Some(*id);
                        counters.reordered += 1;
                    }
                }
            }
        }
    }
}

/// Picks so many different bits behind the Ethernet header, fewer where there are fewer. False where there is none.
fn flip(random: &mut Random, length: usize, bits: u32, flips: &mut Vec<u32>) -> bool {
    let available = (length - length.min(SHORTEST)) as u64 * 8;
    for _ in 0..u64::from(bits).min(available) {
        let mut bit = SHORTEST as u32 * 8 + random.below(available) as u32;
        // The next one that is still as it was: a bit that is flipped twice is not flipped.
        while flips.contains(&bit) {
            bit = if u64::from(bit) + 1 < length as u64 * 8 { bit + 1 } else { SHORTEST as u32 * 8 };
            if flips.len() as u64 >= available {
                return available > 0;
            }
        }
        flips.push(bit);
    }
    available > 0
}

fn nanoseconds(duration: Duration) -> Nanoseconds {
    duration.as_nanos() as Nanoseconds
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use proptest::prelude::*;

    use super::*;
    use crate::network::fault::{Jitter, Probability};

    const MILLISECOND: Nanoseconds = 1_000_000;

    fn identity(label: &str) -> LinkIdentity<'_> {
        LinkIdentity { seed: 1, network: "lan", label, from: "node01", to: "node02" }
    }

    fn link(faults: &[Fault]) -> Link {
        let mut link = Link::default();
        for (index, fault) in faults.iter().enumerate() {
            link.set(FaultId(index as u64), *fault, identity(&index.to_string()));
        }
        link
    }

    /// What leaves for frames of these lengths at these times.
    fn outcome(link: &mut Link, frames: &[(usize, Nanoseconds)]) -> Vec<Decision> {
        let mut all = Vec::new();
        for (length, now) in frames {
            let mut copies = Vec::new();
            link.decide(*length, *now, &mut copies);
            all.push(copies);
        }
        all
    }

    fn half() -> Probability {
        Probability::new(0.5).unwrap()
    }

    #[test]
    fn a_partition_passes_nothing_and_counts_all() {
        let mut link = link(&[Fault::Partition, Fault::Duplication { probability: Probability::ALWAYS }]);
        assert!(outcome(&mut link, &[(60, 0); 100]).iter().all(Vec::is_empty));
        let counters = link.counters(FaultId(0)).unwrap();
        assert_eq!((counters.seen, counters.dropped), (100, 100));
        assert_eq!(link.counters(FaultId(1)).unwrap().seen, 0, "a partition comes first");
        assert_eq!(link.heal(FaultId(0)), Some(counters));
        assert_eq!(link.heal(FaultId(0)), None);
    }

    #[test]
    fn a_rate_limit_spends_its_burst_then_paces_then_drops() {
        let mut link = link(&[Fault::RateLimit {
            bytes_per_second: NonZeroU64::new(1_000_000).unwrap(),
            burst: 2000,
            queue: 3000,
        }]);
        let start = 1_000 * MILLISECOND;
        let releases: Vec<Option<Nanoseconds>> = outcome(&mut link, &[(1000, start); 8])
            .iter()
            .map(|copies| copies.first().map(|copy| copy.release - start))
            .collect();
        // 1000 bytes take a millisecond. Two go at once, three wait, one more is begun behind a full queue's edge.
        let expected = [0, 0, 1, 2, 3, 4].map(|milliseconds| Some(milliseconds * MILLISECOND));
        assert_eq!(releases[..6], expected);
        assert_eq!(releases[6..], [None, None]);
        let counters = link.counters(FaultId(0)).unwrap();
        assert_eq!((counters.seen, counters.delayed, counters.overflowed), (8, 4, 2));
        // After a long silence the bucket is full, and not fuller.
        let later = outcome(&mut link, &[(1000, start * 100); 3]);
        assert_eq!(later[1][0].release, start * 100);
        assert_eq!(later[2][0].release, start * 100 + MILLISECOND);
    }

    #[test]
    fn a_delay_moves_everything_by_as_much() {
        let delay = Duration::from_millis(20);
        let mut link = link(&[Fault::Delay { delay, jitter: Jitter::None, reorder: false }]);
        let all = outcome(&mut link, &[(60, 0), (60, 5), (60, 5 * MILLISECOND)]);
        let releases: Vec<_> = all.iter().map(|copies| copies[0].release).collect();
        assert_eq!(releases, [20 * MILLISECOND, 20 * MILLISECOND + 5, 25 * MILLISECOND]);
    }

    #[test]
    fn jitter_reorders_only_where_it_is_asked_to() {
        let frames: Vec<(usize, Nanoseconds)> = (0..1000).map(|index| (60, index * 1000)).collect();
        for jitter in [Jitter::Uniform(Duration::from_millis(5)), Jitter::Normal(Duration::from_millis(5))] {
            let ordered = |reorder| {
                let mut link = link(&[Fault::Delay { delay: Duration::from_millis(10), jitter, reorder }]);
                outcome(&mut link, &frames).iter().map(|copies| copies[0].release).is_sorted()
            };
            assert!(ordered(false), "{jitter:?}");
            assert!(!ordered(true), "{jitter:?}");
        }
    }

    #[test]
    fn a_frame_that_is_held_back_is_overtaken_and_holds_up_nobody() {
        let hold = Duration::from_millis(3);
        let mut link = link(&[Fault::Reordering { probability: half(), hold }]);
        let frames: Vec<(usize, Nanoseconds)> = (0..1000).map(|index| (60, index)).collect();
        let all = outcome(&mut link, &frames);
        let held = all.iter().zip(&frames).filter(|(copies, (_, now))| copies[0].release > *now).count() as u64;
        assert!((400..600).contains(&held));
        assert_eq!(link.counters(FaultId(0)).unwrap().reordered, held);
    }

    #[test]
    fn copies_are_bounded_however_many_duplications_there_are() {
        let mut link = link(&[Fault::Duplication { probability: Probability::ALWAYS }; 10]);
        let all = outcome(&mut link, &[(60, 0)]);
        assert_eq!(all[0].len(), MOST_COPIES);
        let duplicated: u64 = (0..10).map(|id| link.counters(FaultId(id)).unwrap().duplicated).sum();
        assert_eq!(duplicated, MOST_COPIES as u64 - 1);
    }

    #[test]
    fn corruption_spares_the_header_and_flips_each_bit_once() {
        const MANY: u32 = 64;
        let bits = NonZeroU32::new(MANY).unwrap();
        let corruption = Fault::Corruption { probability: Probability::ALWAYS, bits };
        for length in [14, 15, 16, 22, 60, 1514] {
            let mut link = link(&[corruption, corruption]);
            for copies in outcome(&mut link, &[(length, 0); 50]) {
                let flips = &copies[0].flips;
                let available = (length as u32 - 14) * 8;
                assert_eq!(flips.len() as u32, available.min(2 * MANY), "of {length} bytes");
                assert!(flips.iter().all(|bit| (14 * 8..length as u32 * 8).contains(bit)));
                let mut distinct = flips.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), flips.len());
            }
        }
    }

    #[test]
    fn another_fault_changes_nothing_in_a_faults_chance() {
        let loss = Fault::Loss { probability: half() };
        let delay = Fault::Delay {
            delay: Duration::from_millis(1),
            jitter: Jitter::Uniform(Duration::from_millis(1)),
            reorder: true,
        };
        let lost =
            |link: &mut Link| -> Vec<bool> { outcome(link, &[(60, 0); 500]).iter().map(Vec::is_empty).collect() };
        let mut alone = link(&[loss]);
        let mut together = link(&[loss]);
        together.set(FaultId(9), delay, identity("9"));
        assert_eq!(lost(&mut alone), lost(&mut together));
    }

    pub fn any_fault() -> impl Strategy<Value = Fault> {
        let probability = (0.0..=1.0f64).prop_map(|value| Probability::new(value).unwrap());
        let duration = (0u64..20_000).prop_map(Duration::from_micros);
        let jitter = prop_oneof![
            Just(Jitter::None),
            duration.clone().prop_map(Jitter::Uniform),
            duration.clone().prop_map(Jitter::Normal)
        ];
        prop_oneof![
            Just(Fault::Partition),
            probability.clone().prop_map(|probability| Fault::Loss { probability }),
            (probability.clone(), 1u32..64).prop_map(|(probability, bits)| Fault::Corruption {
                probability,
                bits: NonZeroU32::new(bits).unwrap()
            }),
            probability.clone().prop_map(|probability| Fault::Duplication { probability }),
            (1u64..1_000_000_000, 0u64..10_000, 0u64..100_000).prop_map(|(rate, burst, queue)| Fault::RateLimit {
                bytes_per_second: NonZeroU64::new(rate).unwrap(),
                burst,
                queue
            }),
            (duration.clone(), jitter, any::<bool>()).prop_map(|(delay, jitter, reorder)| Fault::Delay {
                delay,
                jitter,
                reorder
            }),
            (probability, duration).prop_map(|(probability, hold)| Fault::Reordering { probability, hold }),
        ]
    }

    fn any_frames() -> impl Strategy<Value = Vec<(usize, Nanoseconds)>> {
        proptest::collection::vec((14usize..2000, 0u64..MILLISECOND), 1..200).prop_map(|frames| {
            let mut now = 0;
            frames
                .into_iter()
                .map(|(length, step)| {
                    now += step;
                    (length, now)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_same_seed_and_frames_give_the_same_outcome(faults in proptest::collection::vec(any_fault(), 0..6), frames in any_frames()) {
            prop_assert_eq!(outcome(&mut link(&faults), &frames), outcome(&mut link(&faults), &frames));
        }

        /// Every frame that came either left, was lost to a fault that counted it, or is a copy that was counted.
        #[test]
        fn the_counters_add_up(faults in proptest::collection::vec(any_fault(), 0..6), frames in any_frames()) {
            let mut link = link(&faults);
            let left: u64 = outcome(&mut link, &frames).iter().map(|copies| copies.len() as u64).sum();
            let mut total = FaultCounters::default();
            for id in 0..faults.len() {
                total += link.counters(FaultId(id as u64)).unwrap();
            }
            prop_assert_eq!(frames.len() as u64 + total.duplicated, left + total.dropped + total.overflowed);
        }

        #[test]
        fn nothing_leaves_before_it_came_nor_out_of_order_unless_asked(faults in proptest::collection::vec(any_fault(), 0..6), frames in any_frames()) {
            let reorders = |fault: &Fault| matches!(fault, Fault::Delay { reorder: true, .. } | Fault::Reordering { .. });
            let all = outcome(&mut link(&faults), &frames);
            for (copies, (_, now)) in all.iter().zip(&frames) {
                prop_assert!(copies.iter().all(|copy| copy.release >= *now));
            }
            if !faults.iter().any(reorders) {
                prop_assert!(all.iter().flatten().map(|copy| copy.release).is_sorted());
            }
        }

        #[test]
        fn once_healed_it_is_as_if_nothing_had_been(faults in proptest::collection::vec(any_fault(), 0..6), frames in any_frames()) {
            let mut healed = link(&faults);
            outcome(&mut healed, &frames);
            for id in 0..faults.len() {
                healed.heal(FaultId(id as u64)).unwrap();
            }
            prop_assert!(healed.is_clear() && !healed.holds_frames());
            // Time goes on: what comes next comes after all that came before.
            let end = frames.last().unwrap().1;
            let later: Vec<_> = frames.iter().map(|(length, now)| (*length, now + end)).collect();
            prop_assert_eq!(outcome(&mut healed, &later), outcome(&mut Link::default(), &later));
        }
    }
}
