//! Bare metal: machines with empty disks boot the installer, from its medium and from the network, by UEFI and BIOS, are
//! installed, reboot and converge; and an installed machine activates what is desired, and goes back from what is not healthy.

mod support;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use support::lane_runs::{passes, passes_with, reproduces};
use support::{OwnWorkRoot, bootproof, expect_status, fat, result_of, work_root};

/// A token that can be looked for.
const TOKEN: &str = "5ecre7-0123456789abcdef0123456789abcdef";

fn holds(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The installer's medium, made where it is not there.
fn medium() -> PathBuf {
    let output = bootproof().args(["image", "build", "installer"]).output().unwrap();
    expect_status(&output, 0);
    let output = bootproof().args(["image", "list", "--json"]).output().unwrap();
    let images: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_it = |image: &&serde_json::Value| image["name"] == "installer" && image["digest"].is_string();
    let digest = images.as_array().unwrap().iter().find(of_it).unwrap()["digest"].as_str().unwrap().to_owned();
    work_root().join("images/built").join(digest.trim_start_matches("sha256:")).join("installer.iso")
}

/// The tests here share images, and each keeps both cores busy: one after the other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // One that failed is no reason for the others to.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As on hardware: nobody but a stick says anything, and what it says here is that the deployer is where QEMU's host is.
#[test]
fn a_volume_beside_the_medium_tells_what_to_do() {
    let _turn = turn();
    let medium = medium();
    let folder = tempfile::tempdir().unwrap();
    let stick = folder.path().join("stick.raw");
    let configuration = b"set parameters=\"bootproof.deployer_url= bootproof.node=by-hand\"\n";
    std::fs::write(&stick, fat::volume("BOOTPROOF", "bootproof.cfg", configuration)).unwrap();
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio", "-boot", "d"])
        .arg("-drive")
        .arg(format!("file={},format=raw,if=none,id=medium,readonly=on", medium.display()))
        .args(["-device", "ide-cd,bus=ide.0,drive=medium", "-device", "qemu-xhci", "-drive"])
        .arg(format!("file={},format=raw,if=none,id=stick", stick.display()))
        .args(["-device", "usb-storage,drive=stick", "-netdev", "user,id=lan,restrict=on"])
        .args(["-device", "virtio-net-pci,netdev=lan,romfile="])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let console = std::io::BufReader::new(machine.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in console.split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(300);
    let mut said = Vec::new();
    let mut wanted = ["pre-install.boot.by-hand", "10.0.2.2:8080"].into_iter().peekable();
    while let Some(next) = wanted.peek()
        && let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now()))
    {
        if line.contains(next) {
            wanted.next();
        }
        said.push(line);
    }
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert_eq!(wanted.next(), None, "it said:\n{}", said.join("\n"));
}

/// A machine that enrols itself and is not taken in stays as it is: it does not ask again every half minute.
#[test]
fn a_refused_enrolment_is_final() {
    let _turn = turn();
    let ended = "systemctl start --wait bootproof-converge.service || true; \
                 systemctl show --property=SubState --value bootproof-converge.service; \
                 systemctl show --property=ExecMainStatus --value bootproof-converge.service";
    let ended =
        format!("steps.runs.exec={{ argv = [\"sh\", \"-ec\", \"{ended}\"], stdout = {{ equals = \"failed\\n77\" }} }}");
    let work = OwnWorkRoot::new();
    let proof = passes(
        &work,
        &[
            "deployer-smoke",
            "--set",
            "deployer.allow_unauthenticated=false",
            "--set",
            "steps.comes-up.expect=[{ marker = \"boot\", within = \"60s\" }]",
            "--set",
            "steps.activates.expect=[{ marker = \"enrolment.refused\", within = \"60s\" }]",
            "--set",
            "steps.active.deployer={ node = \"node01\", state = \"claimed\" }",
            "--set",
            &ended,
        ],
    );
    let markers = result_of(&proof)["machines"]["node01"]["markers"].clone();
    let refused = markers.as_array().unwrap().iter().map(|marker| marker["marker"].as_str().unwrap());
    let refused: Vec<&str> = refused.filter(|marker| marker.starts_with("enrolment.refused")).collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|marker| marker.contains("code=token-missing status=401")),
        "{refused:?}"
    );
}

#[test]
fn machines_are_installed_converge_and_go_back() {
    let _turn = turn();
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
    passes(&OwnWorkRoot::new(), &["netboot"]);
    // The firmware says by itself that it got nothing: this one takes seconds.
    reproduces(&OwnWorkRoot::new(), "netboot", "damaged-kernel");
    for lane in ["deployer-smoke", "deployer-rollback"] {
        passes(&OwnWorkRoot::new(), &[lane]);
        reproduces(&OwnWorkRoot::new(), lane, "all");
    }
    // The other faults that it survives install first: `install-faults`, `install-refusals`, `install-tls`.
    passes(&OwnWorkRoot::new(), &["activation-power-cut"]);
}
