//! What a schedule of faults comes to: drawn from its seed alone, so that every run and every host gives the same.

use std::time::Duration;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::lane::model::Schedule;
use crate::lane::units::Span;

/// One fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnFault {
    /// From the schedule's start.
    pub begins: Span,
    pub ends: Span,
    /// Index into the schedule's `faults`.
    pub fault: usize,
    /// The machine that it hits, where it is a machine's.
    pub machine: Option<String>,
}

/// No schedule is longer, however short its steps.
const MOST_FAULTS: usize = 10_000;

/// The faults in the order of their beginnings.
pub fn draw(schedule: &Schedule) -> Vec<DrawnFault> {
    let mut random = ChaCha8Rng::seed_from_u64(schedule.seed);
    let mut between = |least: Duration, most: Duration| {
        let (least, most) = (milliseconds(least), milliseconds(most));
        // Whole numbers only, so that every host draws alike.
        let range = u128::from(most.saturating_sub(least)) + 1;
        let part = (u128::from(random.next_u64()) * range) >> 64;
        Duration::from_millis(least + u64::try_from(part).unwrap_or(0))
    };
    let every = schedule.every.duration();
    let end = schedule.duration.duration();
    let mut drawn: Vec<DrawnFault> = Vec::new();
    let mut now = Duration::ZERO;
    while drawn.len() < MOST_FAULTS {
        now += between(every / 2, every + every / 2).max(Duration::from_millis(1));
        // The same draws whatever is active, so that a change of one fault moves no other.
        let lasts = between(schedule.shortest.duration(), schedule.longest.duration());
        let choice = between(Duration::ZERO, Duration::from_millis(u64::from(u32::MAX)));
        let whom = between(Duration::ZERO, Duration::from_millis(u64::from(u32::MAX)));
        if now >= end {
            break;
        }
        let active: Vec<&DrawnFault> = drawn.iter().filter(|fault| fault.ends.duration() > now).collect();
        if active.len() >= schedule.overlap as usize {
            continue;
        }
        let candidates: Vec<(usize, Option<&String>)> = schedule
            .faults
            .iter()
            .enumerate()
            .flat_map(|(index, scheduled)| match scheduled.fault.is_on_machines() {
                true => scheduled.on.iter().map(|machine| (index, Some(machine))).collect(),
                false => vec![(index, None)],
            })
            // The same twice at once would heal itself early; two on one machine would heal each other.
            .filter(|(index, machine)| {
                !active.iter().any(|fault| {
                    fault.fault == *index && machine.is_none()
                        || machine.is_some() && fault.machine.as_ref() == *machine
                })
            })
            .collect();
        let faults: Vec<usize> = {
            let mut faults: Vec<usize> = candidates.iter().map(|(index, _)| *index).collect();
            faults.dedup();
            faults
        };
        // First which fault, then which machine: a fault of many machines is no likelier than one of few.
        let Some(fault) = pick(&faults, choice) else { continue };
        let machines: Vec<Option<&String>> =
            candidates.iter().filter(|(index, _)| index == fault).map(|(_, machine)| *machine).collect();
        let machine = pick(&machines, whom).copied().flatten().cloned();
        let ends = if schedule.faults[*fault].fault.lasts() { (now + lasts).min(end) } else { now };
        drawn.push(DrawnFault { begins: Span(now), ends: Span(ends), fault: *fault, machine });
    }
    drawn
}

fn pick<T>(items: &[T], draw: Duration) -> Option<&T> {
    let index = (milliseconds(draw) * items.len() as u64) >> 32;
    items.get(usize::try_from(index).ok()?.min(items.len().saturating_sub(1)))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lane::model::{Fault, LinkEffects, PowerFault, ScheduledFault};

    fn schedule(seed: u64, overlap: u32) -> Schedule {
        let link = Fault::Link {
            network: "lan".into(),
            from: vec!["a".into()],
            to: vec!["b".into()],
            both_ways: true,
            effects: LinkEffects { partition: true, ..LinkEffects::default() },
        };
        let on = |fault: Fault, name: &str| ScheduledFault {
            name: name.into(),
            on: vec!["a".into(), "b".into(), "c".into()],
            fault,
        };
        Schedule {
            seed,
            duration: Span::from_secs(120),
            every: Span::from_secs(5),
            shortest: Span::from_secs(2),
            longest: Span::from_secs(9),
            overlap,
            faults: vec![
                ScheduledFault { name: "cut".into(), on: Vec::new(), fault: link },
                on(Fault::Pause {}, "pause"),
                on(Fault::Power { action: PowerFault::Reset }, "reset"),
            ],
        }
    }

    proptest! {
        #[test]
        fn a_schedule_keeps_its_bounds_whatever_the_seed(seed: u64, overlap in 1u32..4) {
            let schedule = schedule(seed, overlap);
            let drawn = draw(&schedule);
            prop_assert_eq!(&drawn, &draw(&schedule), "the same seed gives the same schedule");
            for (index, fault) in drawn.iter().enumerate() {
                prop_assert!(fault.begins < schedule.duration && fault.ends <= schedule.duration);
                prop_assert!(fault.begins <= fault.ends);
                let active: Vec<_> = drawn[..index].iter().filter(|other| other.ends > fault.begins).collect();
                prop_assert!(active.len() < overlap as usize);
                prop_assert!(
                    active.iter().all(|other| other.fault != fault.fault || other.machine != fault.machine),
                    "nothing is disturbed twice at once"
                );
                prop_assert_eq!(fault.machine.is_some(), schedule.faults[fault.fault].fault.is_on_machines());
            }
        }
    }

    #[test]
    fn everything_that_may_be_drawn_is_drawn_sometimes() {
        let drawn: Vec<DrawnFault> = (0..20).flat_map(|seed| draw(&schedule(seed, 2))).collect();
        for fault in 0..3 {
            let machines: std::collections::BTreeSet<_> =
                drawn.iter().filter(|drawn| drawn.fault == fault).map(|drawn| drawn.machine.clone()).collect();
            assert_eq!(machines.len(), if fault == 0 { 1 } else { 3 }, "{machines:?}");
        }
    }

    /// A change of how it is drawn would make old runs irreproducible: it has to be seen.
    #[test]
    fn the_draw_is_the_same_as_ever() {
        let first = &draw(&schedule(7, 1))[0];
        insta::assert_debug_snapshot!(first);
    }
}
