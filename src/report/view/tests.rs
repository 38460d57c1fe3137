use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::sample::{self, LogBuilder};
use crate::event::{Answering, FaultEnd, Kind, MarkerStanding, Outcome, Severity, Telling, Verdict};
use crate::report::result::RunResult;
use crate::report::verdict::{Decision, decide, verdict};

proptest! {
    #[test]
    fn any_log_in_any_order_folds_and_has_a_verdict(events in sample::any_log()) {
        let mut view = View::default();
        for event in &events {
            view.apply(event);
            let Decision { verdict, .. } = verdict(&view);
            // Nothing but a closing event makes a verdict, and trouble is never forgotten.
            prop_assert_eq!(verdict == Verdict::Incomplete, view.closed.is_none() || view.events_after_closing > 0);
            if view.troubles.iter().any(|trouble| trouble.decisive) {
                prop_assert_ne!(decide(&view).verdict, Verdict::Passed);
            }
        }
    }
}

#[test]
fn only_a_whole_log_has_a_verdict() {
    for (name, events) in sample::all() {
        for length in 0..events.len() {
            let prefix = View::of(&events[..length]);
            assert_eq!(verdict(&prefix).verdict, Verdict::Incomplete, "{name}, the first {length} events");
        }
        assert_ne!(verdict(&View::of(&events)).verdict, Verdict::Incomplete, "{name}");
    }
}

#[test]
fn a_cut_log_never_passes_even_if_someone_closes_it() {
    for (name, events) in sample::all() {
        for length in 0..events.len() - 1 {
            let mut view = View::of(&events[..length]);
            view.apply(events.last().unwrap());
            if verdict(&view).verdict == Verdict::Passed {
                // What comes after the last gate and step decides nothing.
                assert!(view.steps.values().all(|step| step.outcome == Some(Outcome::Passed)), "{name} {length}");
                assert!(view.gates.iter().all(|gate| gate.outcome == Outcome::Passed), "{name} {length}");
            }
        }
    }
}

#[test]
fn markers_belong_to_the_step_that_waited_for_them() {
    let view = View::of(&sample::passed());
    let node = &view.machines["node01"];
    let seen: Vec<(&str, Option<&str>)> =
        node.timeline.iter().map(|marker| (marker.text.as_str(), marker.step.as_deref())).collect();
    assert_eq!(seen, [("boot port=2379", Some("expect")), ("services.ready port=2379", Some("expect"))]);
    assert_eq!(node.last_marker.as_ref().unwrap().text, "services.ready port=2379");
    assert_eq!((node.epoch, node.markers_counted), (1, 2));
    assert_eq!(view.score().unwrap().percent, 100);
}

#[test]
fn a_flood_of_markers_takes_bounded_memory() {
    let mut log = LogBuilder::new(None);
    log.preflight();
    for number in 0..20_000 {
        log.marker(&"x".repeat(2000), number);
    }
    let view = View::of(&log.unclosed());
    let node = &view.machines["node01"];
    assert_eq!(node.markers_counted, 20_000);
    assert_eq!(node.timeline.omitted(), 20_000 - 2 * TIMELINE_ENDS as u64);
    assert!(node.timeline.iter().all(|marker| marker.text.chars().count() <= 400));
    assert!(node.timeline.iter().all(|marker| marker.standing == MarkerStanding::Counted));
}

#[test]
fn the_events_of_a_trouble_are_told_once() {
    let view = View::of(&sample::failed_gate());
    assert_eq!(view.troubles.total(), 1, "the gate's own event repeats what its step has said");
    let view = View::of(&sample::passed());
    let warnings: Vec<&str> = view.warnings.iter().map(|warning| warning.text.as_str()).collect();
    assert_eq!(warnings, ["accelerator tcg (cached-probe): KVM hung a probe guest"]);
}

#[test]
fn the_time_between_markers_is_told_across_reboots_and_leaves_out_what_does_not_count() {
    let mut log = LogBuilder::new(None);
    log.preflight();
    let seen = |name: &str, standing, at: u64| Kind::MarkerSeen {
        name: name.into(),
        node: None,
        arguments: BTreeMap::new(),
        marker_sequence: None,
        standing,
        evidence: LogBuilder::console(at, 10),
    };
    let (counted, damaged) = (MarkerStanding::Counted, MarkerStanding::Damaged);
    log.after(1_000).guest(seen("boot", counted, 0));
    log.after(200).guest(seen("torn", damaged, 10));
    log.after(300).guest(seen("reboot", counted, 20));
    log.after(50).push(Some(("node01", 2)), Severity::Info, None, Kind::EpochBegan { origin: "reboot".into() });
    log.after(4_000).push(Some(("node01", 2)), Severity::Info, None, seen("boot", counted, 30));
    // Of another machine, and of an epoch whose beginning was never told.
    log.after(7).push(Some(("node02", 1)), Severity::Info, None, seen("boot", counted, 40));
    let result = RunResult::of(&View::of(&log.unclosed()));
    let told = |machine: &str| -> Vec<(String, Option<u64>, Option<u64>)> {
        let markers = result.machines[machine].markers.iter();
        markers.map(|marker| (marker.marker.clone(), marker.since_previous_ms, marker.since_epoch_ms)).collect()
    };
    assert_eq!(
        told("node01"),
        [
            ("boot".into(), None, Some(1_000)),
            ("torn".into(), None, None),
            ("reboot".into(), Some(500), Some(1_500)),
            ("boot".into(), Some(4_050), Some(4_000)),
        ]
    );
    assert_eq!(told("node02"), [("boot".into(), None, None)]);
}

#[test]
fn the_lives_of_a_deployer_are_added_up() {
    let answering = |requests, longest_us| Answering { requests, answering_us: 10, longest_us, waiting_us: 1 };
    let ended = |node: &str, requests, longest| Kind::DeployerEnded {
        nodes: BTreeMap::from([(node.into(), answering(requests, longest))]),
        others: answering(1, 1),
        telling: Telling { changes: 1, telling_us: 5, longest_us: longest },
    };
    let mut log = LogBuilder::new(None);
    log.host(Severity::Info, ended("a", 2, 7));
    log.host(Severity::Info, ended("b", 3, 4));
    log.host(Severity::Info, ended("a", 4, 3));
    let deployer = RunResult::of(&View::of(&log.unclosed())).deployer.unwrap();
    assert_eq!(deployer.nodes["a"], Answering { requests: 6, answering_us: 20, longest_us: 7, waiting_us: 2 });
    assert_eq!(deployer.all, Answering { requests: 12, answering_us: 60, longest_us: 7, waiting_us: 6 });
    assert_eq!(deployer.telling, Telling { changes: 3, telling_us: 15, longest_us: 7 });
}

#[test]
fn the_end_of_a_fault_finds_its_beginning() {
    let mut log = LogBuilder::new(None);
    let began = |fault: &str| Kind::FaultBegan {
        fault: fault.into(),
        description: "cut off".into(),
        targets: vec!["node01".into()],
        lasts: true,
    };
    let ended = |fault: &str, count| Kind::FaultEnded {
        fault: fault.into(),
        cause: FaultEnd::Healed,
        duration_ms: 5,
        effects: BTreeMap::from([("frames dropped".into(), count)]),
    };
    for kind in [began("cut"), began("slow"), ended("cut", 1), began("cut"), ended("cut", 2), ended("never", 3)] {
        log.after(5).host(Severity::Info, kind);
    }
    let view = View::of(&log.unclosed());
    let counts: Vec<Option<u64>> =
        view.faults.iter().map(|fault| fault.ended.as_ref().map(|ended| ended.effects["frames dropped"])).collect();
    assert_eq!(counts, [Some(1), None, Some(2)], "of one name each end belongs to the one before it");
    assert_eq!(view.faults_ended_unseen, 1);
}
