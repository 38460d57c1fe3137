//! What is done to a proof root, and what `verify` says of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::error::ErrorKind;
use crate::event::Verdict;

fn root(work_root: &Path) -> ProofRoot {
    let root = ProofRoot::create(work_root, "smoke").unwrap();
    let machine = root.create_machine("node01").unwrap();
    fs::write(machine.join("console.raw"), b"BOOTPROOF_MARKER boot\n").unwrap();
    fs::write(root.events(), b"{}\n{}\n").unwrap();
    fs::write(root.artifacts().join("a b\\c\nd\re"), b"odd name").unwrap();
    root
}

fn sealed(work_root: &Path) -> ProofRoot {
    let root = root(work_root);
    let request = SealRequest { run: root.run(), lane: "smoke", verdict: Verdict::Passed };
    assert_eq!(seal(root.path(), request).unwrap().files, 3);
    root
}

fn findings(root: &Path) -> Vec<String> {
    verify(root).unwrap().findings.iter().map(Finding::to_string).collect()
}

#[test]
fn a_sealed_root_is_intact_and_sha256sum_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let root = sealed(directory.path());
    let verification = verify(root.path()).unwrap();
    assert!(verification.is_intact(), "{:?}", verification.findings);
    assert_eq!(verification.intact, 3);
    let seal = verification.seal.unwrap();
    assert_eq!((seal.verdict, seal.run.as_str()), (Verdict::Passed, root.run()));
    assert_eq!(seal.note, "unsigned digests detect damage, not forgery");
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(root.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": OK")).count(), 3);
}

#[test]
fn every_kind_of_tampering_is_named() {
    type Tamper = fn(&Path);
    let cases: [(Tamper, &[&str]); 11] = [
        (|root| fs::write(root.join("events.jsonl"), b"{}\n{ }\n").unwrap(), &["changed: events.jsonl"]),
        (|root| fs::write(root.join("events.jsonl"), b"{}\n").unwrap(), &["changed: events.jsonl"]),
        (|root| fs::remove_file(root.join("events.jsonl")).unwrap(), &["missing: events.jsonl"]),
        (|root| fs::write(root.join("artifacts/new"), b"").unwrap(), &["added: artifacts/new"]),
        (
            |root| fs::rename(root.join("events.jsonl"), root.join("log.jsonl")).unwrap(),
            &["missing: events.jsonl", "added: log.jsonl"],
        ),
        (
            // The same bytes, but somewhere else, where they can still change.
            |root| {
                fs::rename(root.join("events.jsonl"), root.join("../moved")).unwrap();
                symlink("../moved", root.join("events.jsonl")).unwrap();
            },
            &["not a plain file: events.jsonl is a symbolic link"],
        ),
        (
            |root| {
                fs::rename(root.join("machines"), root.join("../machines")).unwrap();
                symlink("../machines", root.join("machines")).unwrap();
            },
            &["missing: machines/node01/console.raw", "not a plain file: machines is a symbolic link"],
        ),
        (
            |root| {
                let path = root.join("artifacts/pipe");
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
                    .unwrap();
            },
            &["not a plain file: artifacts/pipe is a pipe"],
        ),
        (
            |root| {
                let text = fs::read_to_string(root.join("SHA256SUMS")).unwrap();
                let kept: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
                fs::write(root.join("SHA256SUMS"), kept).unwrap();
            },
            &["changed: SHA256SUMS", "added: artifacts/a b\\\\c\\nd\\re"],
        ),
        (|root| fs::remove_file(root.join("SHA256SUMS")).unwrap(), &["missing: SHA256SUMS"]),
        (
            |root| fs::remove_file(root.join("seal.json")).unwrap(),
            &["not sealed: the run has not finished, or was killed"],
        ),
    ];
    for (tamper, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let root = sealed(directory.path());
        tamper(root.path());
        assert_eq!(findings(root.path()), expected);
    }
}

#[test]
fn a_seal_of_another_version_or_none_at_all_is_unusable() {
    for (seal, expected) in [
        ("{\"version\":9}", "it has version 9, and this bootproof knows 1"),
        ("nonsense", "expected ident at line 1 column 2"),
        ("{\"version\":1}", "missing field `run`"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let root = sealed(directory.path());
        fs::write(root.path().join("seal.json"), seal).unwrap();
        let found = findings(root.path());
        assert!(
            found.len() == 1 && found[0].starts_with("unusable: seal.json") && found[0].contains(expected),
            "{found:?}"
        );
    }
}

#[test]
fn only_what_can_be_digested_is_sealed_and_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = root(directory.path());
    let request = SealRequest { run: root.run(), lane: "smoke", verdict: Verdict::Passed };
    symlink("/etc/hostname", root.artifacts().join("link")).unwrap();
    let error = seal(root.path(), request).unwrap_err();
    assert_eq!(error.to_string(), "failed to seal `artifacts/link`: it is a symbolic link");
    assert!(!root.path().join("seal.json").exists());
    fs::remove_file(root.artifacts().join("link")).unwrap();
    seal(root.path(), request).unwrap();
    assert!(seal(root.path(), request).unwrap_err().to_string().ends_with("it is sealed already"));
    assert!(verify(root.path()).unwrap().is_intact());
}

#[test]
fn latest_is_one_step_and_only_for_what_is_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = root(directory.path());
    assert_eq!(unfinished.publish().unwrap_err().kind(), ErrorKind::Infrastructure);
    let folder = unfinished.path().parent().unwrap().to_path_buf();
    assert!(!folder.join("latest").exists());
    let first = sealed(directory.path());
    first.publish().unwrap();
    assert_eq!(fs::read_link(folder.join("latest")).unwrap(), Path::new(first.run()));

    // Someone follows `latest` all the while: it always leads to a sealed root.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut followed = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || followed == 0 {
                assert!(folder.join("latest/seal.json").exists());
                followed += 1;
            }
            followed
        });
        for _ in 0..20 {
            sealed(directory.path()).publish().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    let entries = list(directory.path(), None).unwrap();
    assert_eq!(entries.len(), 22);
    assert_eq!(entries.iter().filter(|entry| entry.latest).count(), 1);
    assert_eq!(entries.iter().filter(|entry| entry.seal.is_none()).count(), 1);
    assert!(
        fs::read_dir(&folder).unwrap().all(|entry| !entry.unwrap().file_name().as_encoded_bytes().starts_with(b"."))
    );
}

#[test]
fn a_root_is_found_by_what_people_call_it() {
    let directory = tempfile::tempdir().unwrap();
    let work_root = directory.path();
    let error = find(work_root, "latest", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let root = sealed(work_root);
    root.publish().unwrap();
    let id = root.run().rsplit('-').next().unwrap();
    for wanted in ["latest", "smoke/latest", root.run(), id, root.path().to_str().unwrap()] {
        assert_eq!(find(work_root, wanted, None).unwrap().file_name().unwrap(), root.run(), "{wanted}");
    }
    assert!(find(work_root, "latest", Some("other")).is_err());
    assert!(find(work_root, "nothing-like-it", None).is_err());
    assert!(find(work_root, "../../etc/passwd", None).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "..", "a/b", ".hidden", "a\nb", "ä"] {
        assert_eq!(ProofRoot::create(directory.path(), name).unwrap_err().kind(), ErrorKind::Usage, "{name:?}");
    }
    let root = ProofRoot::create(directory.path(), "smoke").unwrap();
    assert!(root.create_machine("../artifacts").is_err());
    let stamp = root.run().split_once('-').unwrap();
    assert!(root.run().len() == "20260101T000000+0000-01234567".len(), "{stamp:?}");
}
