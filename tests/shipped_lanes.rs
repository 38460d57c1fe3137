//! The lanes that ship, on real machines: each passes, its proof verifies and repeats, and its planted bugs are caught at
//! their gates.

mod support;

use std::path::Path;

use support::lane_runs::{passes, reproduces};
use support::{OwnWorkRoot, result_of};

fn has_lines(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().count() > 10)
}

#[test]
fn smoke_passes() {
    let work = OwnWorkRoot::new();
    let proof = passes(&work, &["smoke"]);
    assert!(has_lines(&proof.join("machines/node01/console.log")));
    let copied = std::fs::read_to_string(proof.join("artifacts/node01/greeting.txt")).unwrap();
    assert_eq!(copied.trim(), "hello from the host");
}

#[test]
fn every_bug_planted_in_smoke_is_caught_at_its_gate() {
    reproduces(&OwnWorkRoot::new(), "smoke", "all");
}

// One after the other: two Debian guests at once only slow each other down on a small host.
#[test]
fn quickstart_passes_and_its_bugs_are_caught() {
    let work = OwnWorkRoot::new();
    let proof = passes(&work, &["quickstart"]);
    assert!(has_lines(&proof.join("machines/node01/console.log")));
    let surface = std::fs::read_to_string(proof.join("artifacts/node01/product-surface.json")).unwrap();
    assert!(surface.contains("etcd") && surface.contains("postgresql"), "{surface}");
    // The others take as long as these and are in `make nightly`.
    for control in ["kv-down", "sql-down"] {
        reproduces(&work, "quickstart", control);
    }
    // The same image: after it, so that it is built once and by one.
    passes(&OwnWorkRoot::new(), &["power-cut"]);
    reproduces(&work, "power-cut", "all");
}

#[test]
fn partition_passes_and_its_bugs_are_caught() {
    let work = OwnWorkRoot::new();
    let proof = passes(&work, &["partition"]);
    let result = result_of(&proof);
    let fault = |name: &str| result["faults"].as_array().unwrap().iter().find(|fault| fault["name"] == name).unwrap();
    for name in ["cut-one-way", "cut-off"] {
        assert_eq!(fault(name)["cause"], "healed", "{}", fault(name));
        assert!(fault(name)["effects"]["frames dropped"].as_u64().unwrap() > 50, "{}", fault(name));
    }
    let capture = std::fs::read(proof.join("artifacts/networks/lan.pcapng")).unwrap();
    assert_eq!(capture[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section header, as Wireshark wants it");
    assert!(capture.len() > 20_000, "{} bytes", capture.len());
    reproduces(&work, "partition", "all");
}

#[test]
fn six_forks_share_nothing_and_the_same_randomness_is_caught() {
    let work = OwnWorkRoot::new();
    let proof = passes(&work, &["fork-six"]);
    let result = result_of(&proof);
    assert_eq!(result["publishable"], false, "nobody has seen these boot");
    // The others take as long and are in `make nightly`; the checkpoint is there by now.
    reproduces(&work, "fork-six", "same-randomness");
}
