//! Machines whose firmware boots from the network: QEMU's own iPXE on BIOS and UEFI, our DHCP, and a deployer's script and
//! files. What is booted is the built-in `tiny`; the lane `netboot` does the same with the installer.

mod support;

use std::path::Path;

use support::own_lane::OwnLane;
use support::{events_of, expect_status};

const LANE: &str = "[secrets]\ntoken = { environment = \"TOKEN\" }\n\
     [networks.lan]\ndhcp = true\ncapture = false\n\
     [deployer]\nnetboot = \"tiny\"\ntokens = [\"token\"]\n";
const TOKEN: &str = "5ecre7-0123456789abcdef0123456789abcdef";

/// `firmware`: of the only machine. Its disk is empty.
fn lane(firmware: &str, boot: &str) -> OwnLane {
    OwnLane::new(&format!(
        "{LANE}[machines.m]\nfirmware = \"{firmware}\"\nnetwork_boot = \"{boot}\"\nnetworks = [\"lan\"]\n\
         disks = [{{ name = \"empty\", size = \"64MiB\" }}]\n\
         kernel_parameters = [\"told=yes\", \"bootproof.bootstrap_token=${{secret:token}}\"]\n\
         [[steps]]\nexpect = [{{ marker = \"boot\", within = \"60s\" }}]\n\
         [[steps]]\nname = \"parameters\"\nexec = {{ argv = [\"cat\", \"/proc/cmdline\"], stdout = {{ matches = \
         \"bootproof.deployer_url=http://10.77.0.1:8080 .* bootproof.node=m told=yes bootproof.bootstrap_token=@fw_cfg:[^ ]+$\" }} }}\n"
    ))
}

fn told_nowhere(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap) {
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let told = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!told, "the token stands in `{}`", entry.path().display());
        }
    }
}

// One after the other: each keeps a core busy.
#[test]
fn a_kernel_is_booted_from_the_network_by_bios_and_uefi() {
    for (firmware, boot) in [("bios", "first"), ("uefi", "last")] {
        let lane = lane(firmware, boot);
        let output = lane.command(&[]).env("TOKEN", TOKEN).output().unwrap();
        expect_status(&output, 0);
        let console = std::fs::read_to_string(lane.proof().join("machines/m/console.log")).unwrap();
        let script = "bootproof: the installer, for a machine that nobody knows yet";
        assert!(console.contains("iPXE 1.") && console.contains(script), "{firmware}: {console}");
        told_nowhere(&lane.proof());
        lane.expect_nothing_left();
    }
}

#[test]
fn what_cannot_be_booted_ends_the_wait_at_once_and_says_why() {
    let (missing, damaged) =
        ("networks.lan.boot_file=\"http://10.77.0.1:8080/netboot/nothing\"", "deployer.damage_kernel=true");
    let (not_there, no_kernel) = ("nothing... No such file or directory", "Could not select: Exec format error");
    for (firmware, planted, said) in [
        ("bios", missing, not_there),
        ("uefi", missing, not_there),
        ("bios", damaged, no_kernel),
        ("uefi", damaged, "Exec format error"),
    ] {
        let lane = lane(firmware, "first");
        let output = lane.command(&["--set", planted]).env("TOKEN", TOKEN).output().unwrap();
        expect_status(&output, 1);
        let failure = lane.sealed_result()["failure"].clone();
        assert_eq!(failure["reason"], "failure-pattern", "{firmware}: {failure}");
        let events = events_of(&lane.proof());
        let matched = events.iter().find(|event| event["event"]["kind"] == "failure-pattern-seen").unwrap();
        assert_eq!(matched["event"]["pattern"], "network-boot", "{firmware}: {matched}");
        assert!(matched.to_string().contains(said), "{firmware}: {matched}");
        lane.expect_nothing_left();
    }
}
