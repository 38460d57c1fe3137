//! Faults of links, in the terms of the switch.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::error::Result;
use crate::lane::model::LinkEffects;
use crate::lane::units::Share;
use crate::network::{Fault, FaultCounters, FaultId, Jitter, LinkSelection, Probability, Switch};

/// How long a frame is held back for others to overtake it.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// How many bits of a frame are flipped.
const FLIPPED: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");
/// A rate holds over a fiftieth of a second, and what waits longer than a fifth is dropped.
const BURSTS_PER_SECOND: u64 = 50;
const QUEUES_PER_SECOND: u64 = 5;
/// Room for two frames of the usual size at least, or nothing would ever pass.
const LEAST_BURST: u64 = 3028;
const LEAST_QUEUE: u64 = 32 << 10;

/// What the switch is told to do wrong.
fn faults(effects: &LinkEffects) -> Vec<Fault> {
    let probability = |share: Share| Probability::new(share.fraction()).unwrap_or(Probability::ALWAYS);
    let mut faults = Vec::new();
    if effects.partition {
        faults.push(Fault::Partition);
    }
    if let Some(share) = effects.loss {
        faults.push(Fault::Loss { probability: probability(share) });
    }
    if let Some(share) = effects.corrupt {
        faults.push(Fault::Corruption { probability: probability(share), bits: FLIPPED });
    }
    if let Some(share) = effects.duplicate {
        faults.push(Fault::Duplication { probability: probability(share) });
    }
    if let Some(rate) = effects.rate.and_then(|rate| NonZeroU64::new(rate.bytes())) {
        faults.push(Fault::RateLimit {
            bytes_per_second: rate,
            burst: (rate.get() / BURSTS_PER_SECOND).clamp(LEAST_BURST, u64::from(u32::MAX)),
            queue: (rate.get() / QUEUES_PER_SECOND).clamp(LEAST_QUEUE, u64::from(u32::MAX)),
        });
    }
    if let Some(delay) = effects.delay {
        let jitter = effects.jitter.map_or(Jitter::None, |jitter| Jitter::Uniform(jitter.duration()));
        faults.push(Fault::Delay { delay: delay.duration(), jitter, reorder: false });
    }
    if let Some(share) = effects.reorder {
        faults.push(Fault::Reordering { probability: probability(share), hold: OVERTAKEN });
    }
    faults
}

/// Sets all that is wrong with the links. Where one cannot be set, none is.
pub(super) fn set(
    switch: &Switch,
    label: &str,
    selection: &LinkSelection,
    effects: &LinkEffects,
) -> Result<Vec<FaultId>> {
    let mut set = Vec::new();
    for fault in faults(effects) {
        match switch.set_fault(fault, label, selection) {
            Ok(id) => set.push(id),
            Err(error) => {
                for id in set {
                    let _ = switch.heal(id);
                }
                return Err(error);
            }
        }
    }
    Ok(set)
}

/// In the words of the log: how many frames met the fault, and what became of them.
pub(super) fn effects(counters: FaultCounters) -> BTreeMap<String, u64> {
    let FaultCounters { seen: _, dropped, overflowed, delayed, duplicated, reordered, corrupted } = counters;
    [
        ("frames dropped", dropped),
        ("frames overflowed", overflowed),
        ("frames delayed", delayed),
        ("frames duplicated", duplicated),
        ("frames reordered", reordered),
        ("frames corrupted", corrupted),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(what, count)| (what.to_owned(), count))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::units::{Size, Span};

    #[test]
    fn every_effect_becomes_a_fault_that_the_switch_takes() {
        let share = Some("10%".parse().unwrap());
        let all = LinkEffects {
            partition: true,
            loss: share,
            delay: Some(Span::from_secs(1)),
            jitter: Some(Span::from_secs(1)),
            duplicate: share,
            reorder: share,
            rate: Some(Size(1)),
            corrupt: share,
        };
        let faults = faults(&all);
        assert_eq!(faults.len(), 7);
        for fault in faults {
            fault.validate().unwrap();
        }
    }
}
