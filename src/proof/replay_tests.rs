//! A proof root as a run leaves it, replayed before and after it was changed.

use std::fs;
use std::path::Path;

use super::*;
use crate::event::log::LogWriter;
use crate::event::{Event, Verdict, sample};
use crate::report::{REPORT_FILES, View, verdict};

/// What the dispatcher does at the end of a run.
fn finished(work_root: &Path, events: &[Event]) -> ProofRoot {
    let root = ProofRoot::create(work_root, "quickstart").unwrap();
    let machine = root.create_machine("node01").unwrap();
    fs::write(machine.join("console.raw"), b"[1.0] up\n\x1b[1mFAILED\x1b[0m to start etcd\n".repeat(40)).unwrap();
    let mut log = LogWriter::create(&root.events()).unwrap();
    let mut view = View::default();
    for batch in events.chunks(3) {
        log.append(batch).unwrap();
        batch.iter().for_each(|event| view.apply(event));
    }
    let (story, errors) = write_reports(root.path(), &view);
    assert!(errors.is_empty(), "{errors:?}");
    let request = SealRequest { run: root.run(), lane: "quickstart", verdict: story.result.verdict };
    seal(root.path(), request).unwrap();
    root.publish().unwrap();
    root
}

fn differences(root: &Path) -> Vec<String> {
    replay(root).unwrap().differences.iter().map(Difference::to_string).collect()
}

#[test]
fn every_ending_replays_to_the_same_verdict_and_the_same_bytes() {
    for (name, events) in sample::all() {
        let directory = tempfile::tempdir().unwrap();
        let root = finished(directory.path(), &events);
        let replay = replay(root.path()).unwrap();
        assert_eq!(replay.differences, [], "{name}");
        assert_eq!(replay.identical, REPORT_FILES);
        assert_eq!(replay.story.result.verdict, verdict::verdict(&View::of(&events)).verdict);
        assert!(verify(root.path()).unwrap().is_intact());
    }
}

#[test]
fn a_failure_shows_its_console() {
    let directory = tempfile::tempdir().unwrap();
    let root = finished(directory.path(), &sample::failed_deadline());
    for name in ["report.md", "report.html", "junit.xml"] {
        let text = fs::read_to_string(root.path().join(name)).unwrap();
        assert!(text.contains("to start etcd"), "{name}");
        assert!(!text.contains('\x1b'), "{name}");
    }
}

#[test]
fn what_was_changed_afterwards_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = finished(directory.path(), &sample::failed_gate());
    let path = root.path();
    let result = path.join("result.json");
    let text = fs::read_to_string(&result).unwrap();
    fs::write(&result, text.replacen("\"failed\"", "\"passed\"", 1)).unwrap();
    assert_eq!(differences(path), ["differs: result.json, from line 3 on"]);
    fs::remove_file(path.join("report.md")).unwrap();
    assert_eq!(differences(path)[1], "missing: report.md: No such file or directory (os error 2)");
}

#[test]
fn a_verdict_that_does_not_follow_from_its_log_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut events = sample::failed_gate();
    events.last_mut().unwrap().event = crate::event::Kind::RunClosed { verdict: Verdict::Passed };
    let root = finished(directory.path(), &events);
    assert_eq!(differences(root.path()), ["verdict: the closing event says passed, the log gives failed"]);
}

#[test]
fn a_log_cut_short_is_incomplete_and_says_so_against_the_seal() {
    let directory = tempfile::tempdir().unwrap();
    let root = finished(directory.path(), &sample::passed());
    let log = fs::read(root.events()).unwrap();
    fs::write(root.events(), &log[..log.len() - 10]).unwrap();
    let replay = replay(root.path()).unwrap();
    assert_eq!(replay.story.result.verdict, Verdict::Incomplete);
    assert!(replay.torn_bytes > 0);
    assert_eq!(replay.differences[0].to_string(), "verdict: the seal says passed, the log gives incomplete");
    assert!(replay.differences.len() == 5, "and every report differs: {:?}", replay.differences);
    fs::write(root.events(), &log[log.iter().position(|&byte| byte == b'\n').unwrap() + 1..]).unwrap();
    assert!(super::replay(root.path()).is_err(), "a log without its head is no log");
}

#[test]
fn without_a_seal_it_is_incomplete_whatever_its_log_says() {
    let directory = tempfile::tempdir().unwrap();
    let root = finished(directory.path(), &sample::passed());
    fs::remove_file(root.path().join("seal.json")).unwrap();
    let replay = replay(root.path()).unwrap();
    assert_eq!(replay.story.result.verdict, Verdict::Incomplete);
    assert_eq!(replay.differences, [Difference::NotSealed]);
}
