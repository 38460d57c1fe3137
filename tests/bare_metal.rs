//! Bare metal: machines with empty disks boot the installer's medium by UEFI and BIOS, are installed, reboot and converge; and
//! an installed machine activates what is desired, and goes back from what is not healthy.

mod support;

use std::path::Path;

use support::lane_runs::{passes, passes_with, reproduces};
use support::{OwnWorkRoot, result_of};

/// A token that can be looked for.
const TOKEN: &str = "5ecre7-0123456789abcdef0123456789abcdef";

fn holds(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

// One after the other: they share images, and each keeps both cores busy.
#[test]
fn machines_are_installed_converge_and_go_back() {
    let work = OwnWorkRoot::new();
    let known = r#"secrets.token-worker={ environment = "TOKEN" }"#;
    let proof = passes_with(&work, &["baremetal-iso", "--set", known], &[("TOKEN", TOKEN)]);
    for entry in walkdir::WalkDir::new(&proof).into_iter().map(Result::unwrap) {
        if entry.file_type().is_file() {
            assert!(!holds(entry.path(), TOKEN), "a token stands in `{}`", entry.path().display());
        }
    }
    // What went over the network is among it: under TLS.
    let capture = proof.join("artifacts/networks/lan.pcapng");
    assert!(capture.metadata().unwrap().len() > 1 << 20 && holds(&capture, "BEGIN CERTIFICATE"));
    assert!(!holds(&capture, "POST /api") && !holds(&capture, "Authorization"));
    let nodes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(proof.join("artifacts/deployer/nodes.json")).unwrap()).unwrap();
    let firmware: Vec<_> = nodes.as_array().unwrap().iter().map(|node| &node["node"]["firmware"]).collect();
    assert_eq!(firmware, ["uefi", "bios"]);
    // Both machines speak to it again and again, and what it takes for that is nothing beside what they do.
    let deployer = &result_of(&proof)["deployer"];
    assert_eq!(deployer["nodes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["control-plane", "worker"]);
    assert!(deployer["all"]["requests"].as_u64().unwrap() > 10, "{deployer}");
    assert!(deployer["all"]["answering_us"].as_u64().unwrap() < 2_000_000, "{deployer}");
    assert!(deployer["telling"]["longest_us"].as_u64().unwrap() < 2_000_000, "{deployer}");
    // The others install first, and take as long as the lane: they are in `make nightly`.
    for control in ["wrong-token", "damaged-bundle"] {
        reproduces(&OwnWorkRoot::new(), "baremetal-iso", control);
    }
    for lane in ["deployer-smoke", "deployer-rollback"] {
        passes(&OwnWorkRoot::new(), &[lane]);
        reproduces(&OwnWorkRoot::new(), lane, "all");
    }
    // The other faults that it survives install first: `install-faults`, `install-refusals`, `install-tls`.
    passes(&OwnWorkRoot::new(), &["activation-power-cut"]);
}
