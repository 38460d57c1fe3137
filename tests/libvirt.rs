//! The libvirt backend where no libvirt is needed: what blocks a lane, and the modes that start nothing.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::own_lane::OwnLane;
use support::{expect_status, result_of, stdout_of, work_root};

/// A machine that is over when it is up.
const COMES_UP: &str = "[machines.m]\nmemory = \"128MiB\"\n[[steps]]\nexpect = [\"boot\", \"agent.ready\"]\n";

/// The messages of a blocked run's findings, in one text.
fn blocked(lane: &OwnLane, arguments: &[&str]) -> String {
    let output = lane.run(&[&["--backend", "libvirt"], arguments].concat());
    expect_status(&output, 3);
    let result = lane.sealed_result();
    assert_eq!(result["verdict"], "blocked");
    lane.expect_nothing_left();
    let findings = result["findings"].as_array().unwrap();
    findings.iter().filter_map(|finding| finding["message"].as_str()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_lane_that_needs_what_libvirt_lacks_is_blocked_and_the_plan_says_so() {
    let lane = OwnLane::new(
        "[networks.lan]\n[machines.m]\nnetworks = [\"lan\"]\n[[machines.m.disks]]\nname = \"data\"\nsize = \"16MiB\"\n\
         write_cache = \"volatile\"\n[[steps]]\nname = \"saved\"\ncheckpoint = \"here\"\n",
    );
    let plan = lane.ask(&["plan", "./lane.toml", "--backend", "libvirt"]);
    let missing = ["the network `lan`", "the disk `data`", "a checkpoint (step `saved`)"];
    for need in missing {
        assert!(plan.contains(&format!("blocked      m needs {need}")), "{plan}");
    }
    assert!(!lane.ask(&["plan", "./lane.toml"]).contains("blocked"), "QEMU can do it");
    let said = blocked(&lane, &["--backend-mode", "record"]);
    for need in missing {
        assert!(said.contains(&format!("machine `m` needs {need}")), "{said}");
    }
    assert!(said.contains("libvirt at `qemu:///session` lacks"), "{said}");
}

#[test]
fn another_host_and_nobody_there_are_blocked() {
    let far = blocked(&OwnLane::new(COMES_UP), &["--libvirt-uri", "qemu+ssh://nowhere.invalid/system"]);
    assert!(far.contains("files and unix sockets of this host"), "{far}");
    let nobody = blocked(&OwnLane::new(COMES_UP), &["--libvirt-uri", "qemu:///system?socket=/nonexistent/socket"]);
    let expected = if cfg!(feature = "libvirt") { "does not answer" } else { "built without libvirt" };
    assert!(nobody.contains(expected), "{nobody}");
    if cfg!(feature = "libvirt") {
        let toy = blocked(&OwnLane::new(COMES_UP), &["--libvirt-uri", "test:///default"]);
        assert!(toy.contains("`TEST`"), "{toy}");
    }
}

#[test]
fn a_backend_that_records_or_is_disabled_starts_nothing_and_passes_nothing() {
    let rest = "[networks.lan]\nlibvirt = \"network:default\"\ncapture = false\n[machines.m]\nnetworks = [\"lan\"]\n\
                [[steps]]\nexpect = [\"boot\"]\n";
    let lane = OwnLane::new(rest);
    let said =
        blocked(&lane, &["--backend-mode", "record", "--libvirt-uri", "qemu:///system?socket=/nonexistent/socket"]);
    assert!(said.contains("the backend only records"), "{said}");
    let xml = fs::read_to_string(lane.proof().join("machines/m/domain.xml")).unwrap();
    for part in ["<source network=\"default\"/>", "urn:bootproof:mark:1", "<cmdline>console=ttyS0"] {
        assert!(xml.contains(part), "{part} is missing in {xml}");
    }
    let disabled = blocked(&OwnLane::new(rest), &["--backend-mode", "disabled"]);
    assert!(disabled.contains("the backend is disabled"), "{disabled}");

    let qemu = OwnLane::new(COMES_UP);
    expect_status(&qemu.run(&["--backend-mode", "record"]), 3);
    let command_line = fs::read_to_string(qemu.proof().join("machines/m/cmdline.txt")).unwrap();
    assert!(command_line.contains("-kernel"), "{command_line}");
    assert_eq!(result_of(&qemu.proof())["verdict"], "blocked");
}

#[test]
fn the_table_of_backends_is_printed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
    let output = command.args(["doctor", "--backends"]).env("BOOTPROOF_WORK_ROOT", work_root()).stdin(Stdio::null());
    let table = stdout_of(&output.output().unwrap());
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md")).unwrap();
    assert!(table.lines().count() > 15 && page.contains(&table), "{table}");
}
