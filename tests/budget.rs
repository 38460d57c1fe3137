//! `bootproof budget`: what the work root takes, and what it may.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Output;

use support::{bootproof, expect_status, stderr_of, stdout_of};

/// A work root with nothing in it.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, path: &str, bytes: usize) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; bytes]).unwrap();
    }

    fn budget(&self, text: &str) {
        fs::write(self.path().join("budget.toml"), format!("version = 1\n{text}")).unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        bootproof().env("BOOTPROOF_WORK_ROOT", self.path()).args(arguments).output().unwrap()
    }

    fn status(&self) -> serde_json::Value {
        let output = self.ask(&["budget", "status", "--json"]);
        expect_status(&output, 0);
        serde_json::from_str(&stdout_of(&output)).unwrap()
    }
}

#[test]
fn holes_and_second_names_are_not_counted() {
    let work = Work::new();
    work.file("images/built/aa/disk.raw", 1 << 20);
    let disk = File::options().write(true).open(work.path().join("images/built/aa/disk.raw")).unwrap();
    disk.set_len(1 << 40).unwrap();
    disk.write_all_at(b"far", 1 << 39).unwrap();
    work.file("proofs/one/a/log", 300_000);
    fs::create_dir_all(work.path().join("proofs/two/b")).unwrap();
    fs::hard_link(work.path().join("proofs/one/a/log"), work.path().join("proofs/two/b/log")).unwrap();
    let status = work.status();
    let blocks = |path: &str| fs::metadata(work.path().join(path)).unwrap().blocks() * 512;
    let [images, one, two] =
        [&status["parts"]["images"], &status["lanes"]["one"], &status["lanes"]["two"]].map(|entry| &entry["bytes"]);
    assert_eq!(
        images.as_u64().unwrap(),
        ["/disk.raw", ""].map(|end| blocks(&format!("images/built/aa{end}"))).iter().sum::<u64>()
            + blocks("images/built")
    );
    assert!(one.as_u64().unwrap() >= 300_000 && two.as_u64().unwrap() < 100_000, "{status}");
    let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(work.path()).output().unwrap();
    let du: u64 = stdout_of(&du).split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(status["total"]["bytes"].as_u64().unwrap(), du);
}

#[test]
fn what_is_over_its_budget_is_named_and_is_exit_code_5() {
    let work = Work::new();
    work.file("checkpoints/aa/memory", 200_000);
    work.file("proofs/smoke/run/log", 200_000);
    work.file("proofs/other/run/log", 100);
    expect_status(&work.ask(&["budget", "enforce"]), 0);
    work.budget("[soft]\ntotal = \"1GiB\"\ncheckpoints = \"100KiB\"\nlane = \"150KiB\"\n");
    let output = work.ask(&["budget", "enforce"]);
    expect_status(&output, 5);
    let told = stderr_of(&output);
    assert!(told.contains("over: checkpoints take ") && told.contains("over: the proofs of `smoke` take "), "{told}");
    assert!(!told.contains("other") && !told.contains("the work root"), "{told}");
    assert_eq!(stdout_of(&output).lines().filter(|line| line.ends_with("over")).count(), 2);
    let status = work.status();
    assert_eq!(status["within_budget"], false);
    assert_eq!(status["parts"]["checkpoints"]["budget"], 100 << 10);
}

#[test]
fn a_budget_that_is_wrong_is_told_with_its_line() {
    let work = Work::new();
    for (text, line, told) in [
        ("[soft]\ntotal = \"20 parsecs\"\n", 3, "20 parsecs"),
        ("[soft]\nimagse = \"1GiB\"\n", 3, "imagse"),
        ("[soft\n", 2, "budget.toml"),
    ] {
        work.budget(text);
        let output = work.ask(&["budget", "status"]);
        expect_status(&output, 2);
        let said = stderr_of(&output);
        assert!(said.contains(&format!("budget.toml:{line}:")) && said.contains(told), "{said}");
        assert_eq!(stdout_of(&output), "");
    }
}

/// A work root with proofs of a lane that is played from a file, the oldest first: their names.
fn with_proofs(verdicts: &[bool]) -> (support::own_lane::OwnLane, Vec<String>) {
    let lane = support::own_lane::OwnLane::new(
        "[machines.m]\nbackend = \"recorder\"\nrecording = \"console\"\nconsole_limit = \"1MiB\"\n\
         [[steps]]\nname = \"decides\"\nhost = [\"true\"]\ngate = \"decides\"\n",
    );
    fs::write(lane.folder.path().join("console"), "").unwrap();
    let names = verdicts.iter().map(|passes| {
        let set = format!("steps.decides.host=[\"{passes}\"]");
        let output = lane.run(&["--json", "--set", &set]);
        expect_status(&output, i32::from(!passes));
        let result: serde_json::Value = serde_json::from_str(&stdout_of(&output)).unwrap();
        result["run"].as_str().unwrap().to_owned()
    });
    let names = names.collect();
    (lane, names)
}

#[test]
fn pruning_keeps_what_it_must() {
    let (lane, names) = with_proofs(&[false, true, false, false, false]);
    let there = |name: &String| lane.work.path().join("proofs/own").join(name).is_dir();
    lane.ask(&["proof", "pin", &names[0]]);
    assert!(lane.ask(&["proof", "list"]).lines().any(|line| line.contains(&names[0]) && line.ends_with("pinned")));
    let told = lane.ask(&["budget", "prune-proofs", "2"]);
    assert!(told.contains(&names[2]) && told.lines().count() == 1, "{told}");
    assert!(names.iter().all(there), "nothing goes unless it is told to");
    let listed: serde_json::Value =
        serde_json::from_str(&lane.ask(&["budget", "prune-proofs", "2", "--json"])).unwrap();
    let mut because: Vec<(&str, &str)> = listed["proofs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|proof| (proof["run"].as_str().unwrap(), proof["kept_because"].as_str().unwrap_or("goes")))
        .collect();
    because.sort();
    let mut expected: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(["pinned", "only-passing", "goes", "newest", "latest"]).collect();
    expected.sort();
    assert_eq!(because, expected);
    lane.ask(&["budget", "prune-proofs", "2", "--apply"]);
    assert_eq!(names.iter().map(there).collect::<Vec<_>>(), [true, true, false, true, true]);
    lane.ask(&["proof", "unpin", &names[0]]);
    lane.ask(&["budget", "prune-proofs", "1", "--apply"]);
    assert_eq!(names.iter().map(there).collect::<Vec<_>>(), [false, true, false, false, true]);
    lane.ask(&["proof", "verify", "latest"]);
    let none = lane.bootproof(&["budget", "prune-proofs", "0", "--apply"]).output().unwrap();
    expect_status(&none, 2);
}
