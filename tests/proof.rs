//! `bootproof proof` as a user meets it.

use std::path::Path;
use std::process::{Command, Output};

use bootproof::event::log::LogWriter;
use bootproof::event::{Event, Kind, LOG_VERSION, Outcome, Severity, StepSummary};
use bootproof::proof::{ProofRoot, SealRequest, seal, write_reports};
use bootproof::report::{View, decide, verdict};

/// A run of one step with one gate, as the dispatcher writes it.
fn finished_run(work_root: &Path, outcome: Outcome) -> ProofRoot {
    let root = ProofRoot::create(work_root, "tiny-lane").unwrap();
    let mut log = LogWriter::create(&root.events()).unwrap();
    let mut view = View::default();
    let mut sequence = 0;
    let mut append = |view: &mut View, kind: Kind| {
        sequence += 1;
        let event = Event {
            sequence,
            wall: format!("2026-01-01T00:00:0{sequence}.000+00:00"),
            monotonic_ns: sequence * 1_000_000_000,
            machine: None,
            epoch: None,
            severity: Severity::Info,
            correlation: None,
            event: kind,
        };
        log.append(std::slice::from_ref(&event)).unwrap();
        view.apply(&event);
    };
    append(
        &mut view,
        Kind::RunStarted {
            log_version: LOG_VERSION,
            run: root.run().into(),
            lane: "tiny-lane".into(),
            profile: None,
            summary: "one gate".into(),
            control: None,
            control_fails_at: None,
            plan_digest: "sha256:00".into(),
            tool_version: env!("CARGO_PKG_VERSION").into(),
            minimum_score: None,
        },
    );
    let step = StepSummary {
        index: 0,
        name: "look".into(),
        action: "exec".into(),
        gate: Some("seen".into()),
        hard: true,
        weight: 1,
        group: None,
    };
    append(&mut view, Kind::StepsPlanned { steps: vec![step] });
    append(&mut view, Kind::StepFinished { index: 0, name: "look".into(), outcome, failure: None, duration_ms: 5 });
    append(&mut view, Kind::GateDecided { gate: "seen".into(), hard: true, weight: 1, outcome, reason: None });
    let decided = decide(&view).verdict;
    append(&mut view, Kind::RunClosed { verdict: decided });
    assert!(write_reports(root.path(), &view).1.is_empty());
    let request = SealRequest { run: root.run(), lane: "tiny-lane", verdict: verdict::verdict(&view).verdict };
    seal(root.path(), request).unwrap();
    root.publish().unwrap();
    root
}

fn bootproof(work_root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootproof"))
        .args(["--work-root", work_root.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap()
}

fn told(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap())
}

#[test]
fn a_proof_is_listed_shown_verified_and_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let work_root = directory.path();
    finished_run(work_root, Outcome::Failed);
    let root = finished_run(work_root, Outcome::Passed);

    let (code, list) = told(&bootproof(work_root, &["proof", "list"]));
    assert_eq!((code, list.lines().count()), (Some(0), 3));
    assert!(list.starts_with("LANE       RUN "), "{list}");
    assert!(list.contains(&format!("{}  passed  latest", root.run())), "{list}");
    assert!(list.contains("  failed\n"), "{list}");

    let (code, shown) = told(&bootproof(work_root, &["proof", "show"]));
    assert!(code == Some(0) && shown.starts_with("passed tiny-lane\n"), "{shown}");
    let (_, json) = told(&bootproof(work_root, &["proof", "show", "tiny-lane/latest", "--json"]));
    let stored = std::fs::read_to_string(root.path().join("result.json")).unwrap();
    assert_eq!(json, stored);

    let (code, verified) = told(&bootproof(work_root, &["proof", "verify", root.run()]));
    assert_eq!(code, Some(0));
    assert!(verified.contains("5 files as sealed with verdict passed"), "{verified}");
    assert!(verified.contains("unsigned digests detect damage, not forgery"), "{verified}");
    let (code, replayed) = told(&bootproof(work_root, &["proof", "replay", "latest"]));
    assert_eq!(code, Some(0));
    for name in ["result.json", "report.md", "report.html", "junit.xml"] {
        assert!(replayed.contains(&format!("identical: {name}\n")), "{replayed}");
    }
}

#[test]
fn damage_is_named_and_is_exit_one() {
    let directory = tempfile::tempdir().unwrap();
    let root = finished_run(directory.path(), Outcome::Passed);
    std::fs::write(root.path().join("report.md"), "# passed, honestly\n").unwrap();
    std::fs::write(root.path().join("extra\x1b[31m"), "").unwrap();
    let (code, verified) = told(&bootproof(directory.path(), &["proof", "verify"]));
    assert_eq!(code, Some(1));
    assert!(verified.starts_with("changed: report.md\nadded: extra\\u{1b}[31m\nnot intact: "), "{verified}");
    let (code, replayed) = told(&bootproof(directory.path(), &["proof", "replay"]));
    assert_eq!(code, Some(1));
    assert!(replayed.starts_with("differs: report.md, from line 1 on\n"), "{replayed}");
}

#[test]
fn what_is_not_there_is_a_usage_error_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, message) in [
        (["proof", "show", "latest"], "error: failed to find a finished run under"),
        (["proof", "verify", "no-such-run"], "error: failed to find a run `no-such-run`"),
    ] {
        let output = bootproof(directory.path(), &arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.starts_with(message) && text.contains("hint: `bootproof proof list` shows what there is"),
            "{text}"
        );
    }
    let empty = bootproof(directory.path(), &["proof", "list"]);
    assert!(empty.status.success() && empty.stdout.is_empty());
}
