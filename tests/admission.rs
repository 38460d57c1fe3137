//! Who may start: runs that have no room wait or are blocked, those that take too much end, and eight at once do not collide.

mod support;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use support::own_lane::{OwnLane, Running};
use support::{OwnWorkRoot, events_of, expect_status, result_of, stderr_of};

/// A machine that is no machine, and a step that goes on until somebody writes into the pipe.
fn held(recorded: u64) -> String {
    format!(
        "[machines.m]\nbackend = \"recorder\"\nrecording = \"console\"\nconsole_limit = \"{recorded}B\"\n\
         [[steps]]\nname = \"held\"\nhost = [\"sh\", \"-c\", \"read line < pipe\"]\nwithin = \"4m\"\n"
    )
}

struct Held(OwnLane);

impl Held {
    fn new(recorded: u64) -> Self {
        let lane = OwnLane::new(&held(recorded));
        fs::write(lane.folder.path().join("console"), "").unwrap();
        let pipe = CString::new(lane.folder.path().join("pipe").into_os_string().into_encoded_bytes()).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        Self(lane)
    }

    /// With so much of the disk that two of it do not fit.
    fn large() -> Self {
        let free = rustix::fs::statvfs(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Its readable text may take as much again as what is recorded.
        Self::new(free.f_bavail * free.f_frsize / 100 * 35)
    }

    /// Up to the step that waits.
    fn start_held(&self) -> Running {
        let mut running = self.0.start(&[]);
        running.until("step held");
        running
    }

    fn let_go(&self) {
        fs::OpenOptions::new().write(true).open(self.0.folder.path().join("pipe")).unwrap().write_all(b"on\n").unwrap();
    }
}

fn kinds(proof: &Path) -> Vec<String> {
    events_of(proof).iter().map(|event| event["event"]["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn more_memory_than_the_host_has_is_blocked_at_once() {
    let lane =
        OwnLane::new("[machines.m]\nmemory = \"16TiB\"\nconsole_limit = \"1MiB\"\n[[steps]]\nexpect = [\"boot\"]\n");
    let output = lane.run(&[]);
    expect_status(&output, 3);
    let said = stderr_of(&output);
    assert!(said.contains("the machines need 16384GiB, and the host has "), "{said}");
    let kinds = kinds(&lane.proof());
    assert!(
        !kinds.iter().any(|kind| ["admitted", "image-ready", "machine-started"].contains(&kind.as_str())),
        "{kinds:?}"
    );
    assert_eq!(lane.sealed_result()["verdict"], "blocked");
    lane.expect_nothing_left();
}

#[test]
fn a_run_waits_for_another_to_end() {
    let lane = Held::large();
    let first = lane.start_held();
    let mut second = lane.0.start(&[]);
    let told = second.until("waiting for other runs");
    assert!(told.contains("the run may take ") && told.contains("own ("), "{told}");
    lane.let_go();
    first.expect(0);
    second.until("step held");
    lane.let_go();
    second.expect(0);
    let [first, second]: [_; 2] = {
        let mut proofs = lane.0.work.proofs();
        proofs.sort_by_key(|proof| result_of(proof)["resources"]["waited_ms"].as_u64());
        proofs.try_into().unwrap()
    };
    assert_eq!(result_of(&first)["resources"]["waited_ms"], 0);
    let resources = &result_of(&second)["resources"];
    assert!(
        resources["waited_ms"].as_u64().unwrap() > 0 && resources["disk"].as_u64().unwrap() > 1 << 20,
        "{resources}"
    );
    assert!(resources["disk_peak"].as_u64().unwrap() > 0, "{resources}");
    assert_eq!(kinds(&second).iter().filter(|kind| *kind == "admission-waiting").count(), 1);
    assert!(fs::read_to_string(second.join("report.md")).unwrap().contains("after waiting for"));
}

#[test]
fn what_a_killed_run_has_held_is_free() {
    let lane = Held::large();
    let first = lane.start_held();
    let mut second = lane.0.start(&[]);
    second.until("waiting for other runs");
    first.kill();
    second.until("step held");
    lane.let_go();
    second.expect(0);
}

#[test]
fn waiting_can_be_refused_bounded_and_ended() {
    let lane = Held::large();
    let first = lane.start_held();
    let refused: Output = lane.0.run(&["--admission", "block"]);
    expect_status(&refused, 3);
    assert!(stderr_of(&refused).contains("of which other runs will take"), "{}", stderr_of(&refused));
    let late = lane.0.run(&["--wait-at-most", "1ms"]);
    expect_status(&late, 3);
    assert!(stderr_of(&late).contains("after waiting for 1ms"), "{}", stderr_of(&late));
    let mut waiting = lane.0.start(&[]);
    waiting.until("waiting for other runs");
    waiting.signal(Signal::INT);
    waiting.expect(130);
    lane.let_go();
    first.expect(0);
    lane.0.expect_nothing_left();
}

#[test]
fn a_run_that_takes_too_much_ends_before_the_disk_is_full() {
    let lane = Held::new(1 << 20);
    let fill = "for proof in \"$1\"/proofs/own/2*; do head -c 40M /dev/urandom > \"$proof/artifacts/fill\"; done; read line < pipe";
    let text = fs::read_to_string(lane.0.folder.path().join("lane.toml")).unwrap();
    let step = format!(
        "[[steps]]\nname = \"fills\"\nhost = [\"sh\", \"-c\", '{fill}', \"sh\", \"{}\"]\nwithin = \"4m\"\n",
        lane.0.work.path().display()
    );
    let text = text.split("[[steps]]").next().unwrap().to_owned() + &step;
    fs::write(lane.0.folder.path().join("lane.toml"), text).unwrap();
    fs::write(lane.0.work.path().join("budget.toml"), "version = 1\n[hard]\ntotal = \"20MiB\"\nfree = \"1MiB\"\n")
        .unwrap();
    let output = lane.0.run(&[]);
    expect_status(&output, 5);
    assert!(stderr_of(&output).contains("`hard.total` in `budget.toml`"), "{}", stderr_of(&output));
    let result = lane.0.sealed_result();
    assert_eq!(result["verdict"], "budget");
    assert!(result["resources"]["disk_peak"].as_u64().unwrap() > 20 << 20, "{}", result["resources"]);
    // And the next one is not let in.
    let output = lane.0.run(&[]);
    expect_status(&output, 3);
    assert!(stderr_of(&output).contains("`hard.total`"), "{}", stderr_of(&output));
    lane.0.expect_nothing_left();
}

/// A work root with images of its own, made of the kernels that all share.
fn own_images() -> OwnWorkRoot {
    let work = OwnWorkRoot::new();
    let images = work.path().join("images");
    let shared = fs::canonicalize(&images).unwrap();
    fs::remove_file(&images).unwrap();
    fs::create_dir(&images).unwrap();
    for folder in ["kernels", "archive", "files", "layers", "locks"] {
        fs::create_dir_all(shared.join(folder)).unwrap();
        std::os::unix::fs::symlink(shared.join(folder), images.join(folder)).unwrap();
    }
    work
}

#[test]
fn eight_at_once_share_a_work_root_and_nothing_else() {
    let lane = OwnLane::with_work_root(
        "[machines.m]\nmemory = \"128MiB\"\nconsole_limit = \"4MiB\"\n[[steps]]\nname = \"up\"\n\
         expect = [{ marker = \"boot\", within = \"4m\" }]\n[[steps]]\nexec = [\"true\"]\nwithin = \"2m\"\n",
        own_images(),
    );
    let runs: Vec<Running> = (0..8).map(|_| lane.start(&[])).collect();
    for run in runs {
        run.expect(0);
    }
    let proofs = lane.work.proofs();
    assert_eq!(proofs.len(), 8);
    let results: Vec<serde_json::Value> = proofs.iter().map(|proof| result_of(proof)).collect();
    assert!(results.iter().all(|result| result["verdict"] == "passed"));
    let names: BTreeSet<&str> = results.iter().map(|result| result["run"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 8, "each has a name of its own");
    let built = |result: &&serde_json::Value| result["images"]["tiny"]["built"] == true;
    // By none of them where the accelerator's probe, which boots the same one, came first.
    assert!(results.iter().filter(built).count() <= 1, "the image is built once");
    let digests: BTreeSet<&str> =
        results.iter().map(|result| result["images"]["tiny"]["digest"].as_str().unwrap()).collect();
    assert_eq!(digests.len(), 1);
    for proof in &proofs {
        lane.ask(&["proof", "verify", &proof.display().to_string()]);
        let console = fs::read_to_string(proof.join("machines/m/console.log")).unwrap();
        assert_eq!(console.matches("BOOTPROOF_MARKER boot").count(), 1, "one machine's console and no other's");
    }
    // `latest` is moved by whoever ends, so it is one of those that ended last.
    let latest = fs::canonicalize(lane.work.path().join("proofs/own/latest")).unwrap();
    assert!(latest.join("seal.json").is_file() && names.contains(latest.file_name().unwrap().to_str().unwrap()));
    lane.expect_nothing_left();
}
