//! Rules, history and waits together, as the executor uses them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::event::{FailureReason, MarkerStanding};
use crate::lane::model::{Expectation, Expected, FailurePatternRules};
use crate::lane::units::Span;
use crate::lane::{Format, LaneFile};

const NAMES: [&str; 5] = ["boot", "services.ready", "tick", "bad", "a.b"];

fn rules() -> Arc<CompiledRules> {
    let parts = RuleParts {
        machine: "node01".into(),
        names: NAMES.map(String::from).into(),
        nodes: ["node01", "node02"].map(String::from).into(),
        console_patterns: ["login:".to_string()].into(),
        ..RuleParts::default()
    };
    Arc::new(CompiledRules::from_parts(parts).unwrap())
}

/// A machine's history and the console that fills it.
struct Machine {
    history: MarkerHistory,
    rules: Arc<CompiledRules>,
}

impl Machine {
    fn new() -> Self {
        let rules = rules();
        Self { history: MarkerHistory::new(rules.clone()), rules }
    }

    fn prints(&mut self, text: &str) -> Vec<Observed> {
        let mut found = Vec::new();
        for text in text.lines() {
            let line = Line { text, offset: 0, length: text.len() as u64, complete: true, intact: true };
            self.rules.examine(line, "console.raw", &mut Vec::new(), &mut |finding| found.push(finding));
        }
        found.into_iter().map(|finding| self.history.observe(finding)).collect()
    }

    fn standing(&mut self, text: &str) -> MarkerStanding {
        self.prints(text)[0].finding.marker().unwrap().standing
    }

    fn start(&mut self, wait: &mut Wait) -> Vec<String> {
        summary(wait.start(&mut self.history))
    }

    fn prints_to(&mut self, wait: &mut Wait, text: &str) -> Vec<String> {
        self.prints(text);
        summary(wait.advance(&mut self.history))
    }
}

fn summary(progress: Vec<WaitProgress>) -> Vec<String> {
    let one = |progress| match progress {
        WaitProgress::Met { expectation, .. } => format!("met {expectation}"),
        WaitProgress::Done => "done".into(),
        WaitProgress::Ended(end) => format!("{:?}: {}", end.reason, end.message),
    };
    progress.into_iter().map(one).collect()
}

fn marker(name: &str) -> Expectation {
    marker_with(name, &[])
}

fn marker_with(name: &str, arguments: &[(&str, &str)]) -> Expectation {
    let arguments: BTreeMap<_, _> = arguments.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Expectation { what: Expected::Marker { name: name.into(), arguments }, within: Span::from_secs(1) }
}

fn console(pattern: &str) -> Expectation {
    Expectation { what: Expected::Console { pattern: pattern.into() }, within: Span::from_secs(1) }
}

fn sealed(text: &str, sequence: u64) -> String {
    let text = format!("BOOTPROOF_MARKER {text} seq={sequence}");
    format!("{text} crc={:08x}", crc32fast::hash(text.as_bytes()))
}

#[test]
fn markers_are_met_in_order() {
    let mut machine = Machine::new();
    let mut wait = Wait::new(&[marker("boot"), marker("services.ready")], &[]);
    assert!(machine.start(&mut wait).is_empty());
    assert_eq!(wait.due_index(), Some(0));
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER boot\nother"), ["met 0"]);
    assert_eq!(wait.due_index(), Some(1));
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER services.ready.node01"), ["met 1", "done"]);
    assert!(wait.is_over());
    assert_eq!(machine.history.last_marker(), Some("services.ready.node01"));
}

#[test]
fn what_came_since_the_last_match_counts_and_nothing_before_it() {
    let mut machine = Machine::new();
    machine.prints("BOOTPROOF_MARKER boot\nBOOTPROOF_MARKER tick n=1\nBOOTPROOF_MARKER services.ready");
    let mut first = Wait::new(&[marker("boot")], &[]);
    assert_eq!(machine.start(&mut first), ["met 0", "done"]);
    let mut second = Wait::new(&[marker("services.ready")], &[]);
    assert_eq!(machine.start(&mut second), ["met 0", "done"]);
    let mut third = Wait::new(&[marker("tick")], &[]);
    assert!(machine.start(&mut third).is_empty(), "`tick` came before the last match");
    assert_eq!(machine.prints_to(&mut third, "BOOTPROOF_MARKER tick n=2"), ["met 0", "done"]);
}

#[test]
fn a_watch_leaves_markers_to_the_waits_after_it() {
    let mut machine = Machine::new();
    let mut watch = Wait::watch();
    assert!(machine.start(&mut watch).is_empty());
    assert!(machine.prints_to(&mut watch, "BOOTPROOF_MARKER boot").is_empty());
    let mut wait = Wait::new(&[marker("boot")], &[]);
    assert_eq!(machine.start(&mut wait), ["met 0", "done"]);
}

#[test]
fn a_later_marker_before_its_turn_ends_the_wait() {
    let mut machine = Machine::new();
    let mut wait = Wait::new(&[marker("boot"), marker("services.ready")], &[]);
    machine.start(&mut wait);
    assert_eq!(
        machine.prints_to(&mut wait, "BOOTPROOF_MARKER services.ready\nBOOTPROOF_MARKER boot"),
        ["OutOfOrder: marker `services.ready` came before marker `boot`, which was due"]
    );
    assert!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER tick").is_empty(), "it is over");
}

#[test]
fn arguments_tell_expectations_apart() {
    let mut machine = Machine::new();
    let expectations = [marker_with("tick", &[("n", "1")]), marker_with("tick", &[("n", "2")])];
    let mut wait = Wait::new(&expectations, &[]);
    machine.start(&mut wait);
    assert!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER tick n=7").is_empty());
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER tick n=1 more=x"), ["met 0"]);
    let end = wait.deadline_passed(&machine.history);
    assert_eq!(end.expected.as_deref(), Some("marker `tick n=2`"));
    assert_eq!(end.last_marker.as_deref(), Some("tick"));
    assert_eq!(end.reason, FailureReason::Deadline);
}

#[test]
fn duplicates_and_damaged_lines_do_not_count() {
    use MarkerStanding::*;
    let mut machine = Machine::new();
    assert_eq!(machine.standing(&sealed("tick", 1)), Counted);
    assert_eq!(machine.standing(&sealed("tick", 1)), Duplicate);
    assert_eq!(machine.standing(&sealed("tick", 2)), Counted);
    assert_eq!(machine.standing(&sealed("tick", 3).replace("seq=3", "seq=4")), Damaged);
    assert_eq!(machine.standing(&sealed("tick", 4)), Counted, "a forged number takes nothing away");
    assert_eq!(machine.standing("BOOTPROOF_MARKER tick seq=9"), Counted);
    assert_eq!(machine.standing(&sealed("tick", 9)), Counted, "nor does a bare one");
    assert_eq!(machine.standing("BOOTPROOF_MARKER tick seq=9"), Duplicate);
    machine.history.begin_epoch();
    assert_eq!(machine.standing(&sealed("tick", 1)), Counted, "a new epoch counts anew");
    assert_eq!(machine.standing("BOOTPROOF_MARKER tick seq=9"), Counted);

    let mut wait = Wait::new(&[marker("boot")], &[]);
    machine.start(&mut wait);
    let damaged = sealed("boot", 5).replace("crc=", "crc=0");
    assert!(machine.prints_to(&mut wait, &damaged).is_empty());
    assert_eq!(
        wait.deadline_passed(&machine.history).message,
        "marker `boot` did not come in time; one line with that name came damaged"
    );
}

#[test]
fn a_forbidden_marker_ends_the_wait() {
    let mut machine = Machine::new();
    let mut wait = Wait::new(&[marker("boot")], &["bad".into()]);
    machine.start(&mut wait);
    assert!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER bad.node02").is_empty(), "another node's");
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER bad"), ["ForbiddenMarker: forbidden marker `bad`"]);
}

#[test]
fn a_failure_ends_any_wait_at_once_even_one_that_starts_later() {
    let panic = "[    1.000000] Kernel panic - not syncing: test";
    let message = format!("FailurePattern: failure pattern `kernel-panic`: {panic}");
    let mut machine = Machine::new();
    let mut wait = Wait::new(&[marker("boot")], &[]);
    machine.start(&mut wait);
    assert_eq!(machine.prints_to(&mut wait, panic), [&*message]);

    machine.prints(&format!("{panic}\n{panic}\n{panic}"));
    let mut watch = Wait::watch();
    assert_eq!(machine.start(&mut watch), [&*message]);
    let mut collecting = Wait::watch().past_failures();
    assert!(machine.start(&mut collecting).is_empty());
    assert!(machine.prints_to(&mut collecting, panic).is_empty());
    let mut after = Wait::watch();
    assert_eq!(machine.start(&mut after), [&*message], "what nobody answered for is still there");
}

#[test]
fn a_failure_in_a_markers_arguments_is_none() {
    let mut machine = Machine::new();
    let found = machine.prints("BOOTPROOF_MARKER tick [ 1.0] Kernel panic - not syncing");
    assert_eq!(found.len(), 1);
    assert!(found[0].finding.marker().is_some());
}

#[test]
fn console_lines_are_expectations_too() {
    let mut machine = Machine::new();
    machine.prints("debian login: ");
    let mut wait = Wait::new(&[marker("boot"), console("login:")], &[]);
    assert!(machine.start(&mut wait).is_empty(), "it was not due yet");
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER boot\ndebian login: "), ["met 0", "met 1", "done"]);
}

#[test]
fn what_happens_to_the_machine_ends_waits_not_made_for_it() {
    let machine = Machine::new();
    let reboot = MachineEvent::EpochBegan { origin: "reset".into() };
    let off = MachineEvent::Stopped { detail: "guest shutdown".into() };
    let died = MachineEvent::Died { detail: "signal 9".into() };
    let capped = MachineEvent::ConsoleCapped { limit: 1 };
    let reason = |wait: Wait, event: &MachineEvent| {
        let mut wait = wait;
        wait.machine_event(event, &machine.history).map(|end| end.reason)
    };
    assert_eq!(reason(Wait::watch(), &reboot), Some(FailureReason::UnexpectedReboot));
    assert_eq!(reason(Wait::watch().across_reboot(), &reboot), None);
    assert_eq!(reason(Wait::watch(), &off), Some(FailureReason::MachineOff));
    assert_eq!(reason(Wait::watch().until_off(), &off), None);
    assert_eq!(reason(Wait::watch().until_off().across_reboot(), &died), Some(FailureReason::MachineDied));
    assert_eq!(reason(Wait::watch(), &capped), Some(FailureReason::ConsoleCapped));
}

#[test]
fn a_blind_machine_ends_every_wait() {
    let mut machine = Machine::new();
    machine.prints("BOOTPROOF_MARKER boot");
    machine.history.console_capped();
    let mut wait = Wait::new(&[marker("boot")], &[]);
    assert!(machine.start(&mut wait)[0].starts_with("ConsoleCapped"));
}

#[test]
fn an_epoch_forgets_what_nobody_waited_for() {
    let mut machine = Machine::new();
    machine.prints("BOOTPROOF_MARKER boot");
    machine.history.begin_epoch();
    let mut wait = Wait::new(&[marker("boot")], &[]).across_reboot();
    assert!(machine.start(&mut wait).is_empty());
    assert_eq!(machine.prints_to(&mut wait, "BOOTPROOF_MARKER boot"), ["met 0", "done"]);
}

#[test]
fn waits_side_by_side_do_not_take_from_each_other() {
    let mut machine = Machine::new();
    let mut one = Wait::new(&[marker("boot")], &[]);
    let mut other = Wait::new(&[marker("boot")], &[]);
    machine.start(&mut one);
    machine.start(&mut other);
    assert_eq!(machine.prints_to(&mut one, "BOOTPROOF_MARKER boot"), ["met 0", "done"]);
    assert_eq!(summary(other.advance(&mut machine.history)), ["met 0", "done"]);
}

#[test]
fn a_flood_is_bounded_and_says_little() {
    let mut machine = Machine::new();
    let mut recorded = 0;
    for number in 0..20_000 {
        let text = format!("BOOTPROOF_MARKER tick n={number}\n[ 1.0] Kernel panic - not syncing: {number}\nP");
        recorded += machine.prints(&text).iter().filter(|one| one.worth_recording).count();
        machine.prints("BOOTPROOF_MARKER unknown.name");
    }
    assert_eq!(recorded, 20_000 + 64, "every marker that counts, and some failures");
    let mut wait = Wait::new(&[marker_with("tick", &[("n", "19999")])], &[]).past_failures();
    assert_eq!(machine.start(&mut wait), ["met 0", "done"]);
}

#[test]
fn a_lane_adds_and_silences_patterns() {
    let compile = |add: &[(&str, &str)], silence: &[&str]| {
        let add = add.iter().map(|(name, pattern)| (name.to_string(), pattern.to_string())).collect();
        let silence = silence.iter().map(|name| name.to_string()).collect();
        let failure_patterns = FailurePatternRules { add, silence };
        CompiledRules::from_parts(RuleParts { failure_patterns, ..RuleParts::default() })
    };
    let found = |rules: &CompiledRules, text: &str| {
        let line = Line { text, offset: 0, length: 0, complete: true, intact: true };
        let mut count = 0;
        if rules.next_candidate(text.as_bytes(), 0).is_some() {
            rules.examine(line, "", &mut Vec::new(), &mut |_| count += 1);
        }
        count
    };
    let rules = compile(&[("my-error", "^E[0-9]+$")], &["kernel-panic"]).unwrap();
    assert_eq!(found(&rules, "E42"), 1, "a pattern without any literal is tried on every line");
    assert_eq!(found(&rules, "Kernel panic - not syncing: x"), 0);
    assert_eq!(found(&rules, "grub rescue> "), 1);

    let error = compile(&[], &["kernel-panics"]).unwrap_err();
    assert!(error.to_string().contains("`kernel-panics`") && error.hints()[0].contains("kernel-panic, "));
    let error = compile(&[("broken", "(")], &[]).unwrap_err();
    assert_eq!(error.to_string(), "failed to compile the failure pattern `broken`");
}

#[test]
fn rules_are_made_of_what_a_lane_says() {
    let text = r#"
        version = 1
        [lane]
        name = "two"
        summary = "two machines"
        deadline = "1m"
        [markers]
        prefix = "HERE"
        aliases = { "APP-UP" = "app.ready" }
        [failure_patterns]
        silence = ["grub-rescue"]
        add = { app-crash = "^FATAL: " }
        [machines.node01]
        [machines.node02]
        [[steps]]
        expect = [{ marker = "boot.node01", within = "1s" }, { console = "one only", within = "1s" }]
        on = ["node01"]
        [[steps]]
        name = "both"
        parallel = [
            { expect = [{ console = "two only", within = "1s" }], forbid = ["bad.end"], on = ["node02"] },
            { expect = [{ marker = "app.ready", within = "1s" }], on = ["node01"] },
        ]
    "#;
    let file = LaneFile::parse("two.toml", text, Format::Toml, Path::new(".")).unwrap();
    let lane = file.lane(&[]).unwrap_or_else(|error| panic!("{error}: {:?}", error.rendered_excerpt(false)));
    let told = |machine: &str| {
        let rules = CompiledRules::compile(&lane, machine).unwrap();
        let lines = [
            "HERE boot.node01",
            "HERE boot.node02",
            "HERE bad.end.node02",
            "HERE APP-UP.node01",
            "BOOTPROOF_MARKER boot",
            "one only",
            "two only",
            "grub rescue> ",
            "FATAL: x",
        ];
        let mut told = Vec::new();
        for text in lines {
            let line = Line { text, offset: 0, length: text.len() as u64, complete: true, intact: true };
            rules.examine(line, "", &mut Vec::new(), &mut |finding| {
                told.push(match finding.found {
                    Found::Marker(marker) => format!("{} {}", marker.name, marker.node.unwrap_or("-".into())),
                    Found::FailurePattern { name } => format!("failure {name}"),
                    Found::ConsoleMatch { pattern } => format!("console {pattern}"),
                });
            });
        }
        told
    };
    let markers = ["boot.node01 -", "boot node02", "bad.end node02", "app.ready node01"];
    assert_eq!(told("node01"), [&markers[..], &["console one only", "failure app-crash"]].concat());
    assert_eq!(told("node02"), [&markers[..], &["console two only", "failure app-crash"]].concat());
}
