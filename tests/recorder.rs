//! Whole runs without a machine: lanes whose consoles are recordings. Verdicts, exit codes, reports, and being stopped.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{OwnWorkRoot, events_of, expect_status, read_until, result_of, stderr_of, stdout_of};

/// A lane with one recorded machine, in a folder of its own.
struct Recorded {
    folder: tempfile::TempDir,
    work: OwnWorkRoot,
}

impl Recorded {
    fn new(console: &[u8], rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("console"), console).unwrap();
        let lane = format!(
            "version = 1\n[lane]\nname = \"recorded\"\nsummary = \"a recording\"\ntier = \"host\"\ndeadline = \"1m\"\n\n{rest}"
        );
        fs::write(folder.path().join("lane.toml"), lane).unwrap();
        Self { folder, work: OwnWorkRoot::new() }
    }

    /// With the machine played from the file, and one expectation of `boot` then `ready`.
    fn expecting(console: &str) -> Self {
        Self::new(console.as_bytes(), &format!("{MACHINE}\n{EXPECT}"))
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.work.bootproof();
        command.current_dir(self.folder.path()).args(["run", "./lane.toml"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn spawn(&self) -> Child {
        self.command(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn proof(&self) -> PathBuf {
        self.work.proof()
    }

    fn bootproof(&self, arguments: &[&str]) -> Output {
        self.work.bootproof().current_dir(self.folder.path()).args(arguments).output().unwrap()
    }
}

const MACHINE: &str = "[machines.m]\nbackend = \"recorder\"\nrecording = \"console\"\n";
const LIVE: &str = "[machines.m]\nbackend = \"recorder\"\nrecording = \"-\"\n";
const EXPECT: &str = "[[steps]]\nname = \"up\"\nexpect = [{ marker = \"boot\", within = \"1s\" }, { marker = \"ready\", within = \"1s\" }]\n";

fn failure_reason(proof: &Path) -> String {
    result_of(proof)["failure"]["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_run_that_passes_leaves_a_proof_that_verifies_and_repeats() {
    let lane = Recorded::expecting("BOOTPROOF_MARKER boot\r\nnoise\r\nBOOTPROOF_MARKER ready\r\n");
    let output = lane.run(&["--json"]);
    expect_status(&output, 0);
    let printed: serde_json::Value = serde_json::from_str(&stdout_of(&output)).unwrap();
    assert_eq!(printed, result_of(&lane.proof()), "standard output is result.json and nothing else");
    assert_eq!(printed["verdict"], "passed");
    expect_status(&lane.bootproof(&["proof", "verify", "latest"]), 0);
    expect_status(&lane.bootproof(&["proof", "replay", "latest"]), 0);
    for file in ["lane.json", "plan.json", "environment.json", "report.md", "report.html", "junit.xml", "seal.json"] {
        assert!(lane.proof().join(file).is_file(), "{file}");
    }
    assert_eq!(fs::read_to_string(lane.proof().join("machines/m/console.log")).unwrap().lines().count(), 3);
}

#[test]
fn every_way_to_fail_has_its_own_reason() {
    let cases = [
        ("BOOTPROOF_MARKER ready\nBOOTPROOF_MARKER boot\n", "out-of-order"),
        ("BOOTPROOF_MARKER boot\n[    1.0] Kernel panic - not syncing: no init\n", "failure-pattern"),
        ("BOOTPROOF_MARKER boot\nBOOTPROOF_MARKER rea\n", "machine-off"),
        ("not at the start BOOTPROOF_MARKER boot\nBOOTPROOF_MARKER ready\n", "out-of-order"),
    ];
    for (console, reason) in cases {
        let lane = Recorded::expecting(console);
        let output = lane.run(&[]);
        expect_status(&output, 1);
        assert_eq!(failure_reason(&lane.proof()), reason, "{console:?}");
        assert!(stderr_of(&output).contains("failed recorded"), "{}", stderr_of(&output));
        expect_status(&lane.bootproof(&["proof", "replay", "latest"]), 0);
    }
}

#[test]
fn a_deadline_says_what_was_due_and_what_came_last() {
    let lane = Recorded::new(b"", &format!("{LIVE}\n{EXPECT}"));
    let mut child = lane.spawn();
    child.stdin.as_mut().unwrap().write_all(b"BOOTPROOF_MARKER boot\n").unwrap();
    let mut stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin.take());
    expect_status(&output, 1);
    let result = result_of(&lane.proof());
    assert_eq!(result["failure"]["reason"], "deadline");
    assert_eq!(result["failure"]["last_marker"], "boot");
    assert!(result["failure"]["expected"].as_str().unwrap().contains("ready"), "{result}");
    let said = stderr_of(&output);
    assert!(said.contains("ready") && said.contains("console.log") && said.contains("bootproof proof show"), "{said}");
}

#[test]
fn a_control_has_to_fail_at_its_gate() {
    let lane = |console: &str| {
        Recorded::new(
            console.as_bytes(),
            &format!(
                "{MACHINE}\n[[steps]]\nexpect = [{{ marker = \"boot\", within = \"1s\" }}]\n[[steps]]\nhost = [\"test\", \"a\", \"=\", \"a\"]\ngate = {{ name = \"same\", hard = true }}\nname = \"compare\"\n[controls.differ]\nset = {{ \"steps.compare.host\" = [\"test\", \"a\", \"=\", \"b\"] }}\nfails_at = \"same\"\n"
            ),
        )
    };
    let good = lane("BOOTPROOF_MARKER boot\n");
    expect_status(&good.run(&[]), 0);
    let output = good.run(&["--control", "differ"]);
    expect_status(&output, 0);
    assert!(stderr_of(&output).contains("reproduced"), "{}", stderr_of(&output));
    expect_status(&good.run(&["--control", "all"]), 0);
    let elsewhere = lane("nothing\n");
    let output = elsewhere.run(&["--control", "differ"]);
    expect_status(&output, 1);
    assert!(stderr_of(&output).contains("failed elsewhere"), "{}", stderr_of(&output));
}

#[test]
fn what_is_missing_blocks_the_run_and_leaves_a_proof_that_says_so() {
    let lane = Recorded::new(
        b"",
        &format!("[requires]\ntools = [\"surely-no-such-tool\", \"nor-this\"]\n{MACHINE}\n{EXPECT}"),
    );
    let output = lane.run(&[]);
    expect_status(&output, 3);
    let result = result_of(&lane.proof());
    assert_eq!(result["verdict"], "blocked");
    let said = stderr_of(&output);
    assert!(said.contains("surely-no-such-tool") && said.contains("nor-this") && said.contains("hint"), "{said}");
    assert!(!lane.proof().join("machines/m").exists(), "nothing was started");
    expect_status(&lane.bootproof(&["proof", "verify", "latest"]), 0);
}

#[test]
fn a_console_beyond_its_cap_is_a_budget_crossed() {
    let mut console = vec![b'x'; 3 << 20];
    console.extend_from_slice(b"\nBOOTPROOF_MARKER boot\nBOOTPROOF_MARKER ready\n");
    let lane = Recorded::new(&console, &format!("{MACHINE}console_limit = \"1MiB\"\n\n{EXPECT}"));
    expect_status(&lane.run(&[]), 5);
    assert_eq!(fs::metadata(lane.proof().join("machines/m/console.raw")).unwrap().len(), 1 << 20);
}

#[test]
fn nothing_that_a_guest_prints_controls_the_terminal_or_the_reports() {
    let console = b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\r\nBOOTPROOF_MARKER boot evil=\x1b[2J\r\n\x00\x00\xff\xfe<script>]]>&\r\n[    1.0] Kernel panic - \x1b[1mnot\x1b[0m syncing: <b>|`x`\r\n";
    let lane = Recorded::new(console, &format!("{MACHINE}\n{EXPECT}"));
    let output = lane.run(&[]);
    expect_status(&output, 1);
    assert!(!output.stderr.contains(&0x1b) && !output.stderr.contains(&7), "{}", stderr_of(&output).escape_debug());
    let log = fs::read(lane.proof().join("machines/m/console.log")).unwrap();
    assert!(
        log.iter().all(|byte| *byte == b'\n' || *byte == b'\t' || *byte >= 0x20),
        "{:?}",
        String::from_utf8_lossy(&log)
    );
    assert_eq!(fs::read(lane.proof().join("machines/m/console.raw")).unwrap(), console, "raw bytes are as they came");
    let checker = "import sys, xml.parsers.expat as e; p = e.ParserCreate(); p.ParseFile(open(sys.argv[1], 'rb'))";
    if let Ok(parsed) =
        std::process::Command::new("python3").args(["-c", checker]).arg(lane.proof().join("junit.xml")).output()
    {
        expect_status(&parsed, 0);
    }
}

#[test]
fn two_hundred_megabytes_without_a_newline_take_no_memory() {
    let lane = Recorded::new(b"", &format!("{LIVE}\n{EXPECT}"));
    let mut child = lane.spawn();
    let mut stdin = child.stdin.take().unwrap();
    let chunk = vec![b'y'; 1 << 20];
    for _ in 0..200 {
        stdin.write_all(&chunk).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(1)), "{}", stderr_of(&output));
    assert!(kibibytes < 96 << 10, "peak memory was {kibibytes} KiB");
}

fn stop(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_once_is_an_orderly_end_with_its_proof() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP")] {
        let lane = Recorded::new(b"", &format!("{LIVE}\n[[steps]]\nname = \"wait\"\nhold = \"50s\"\n"));
        let mut child = lane.spawn();
        let stdin = child.stdin.take();
        read_until(&mut child, "step wait");
        stop(&child, signal);
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        expect_status(&output, 130);
        let result = result_of(&lane.proof());
        assert_eq!(result["verdict"], "interrupted");
        let told = events_of(&lane.proof()).iter().any(|event| event["event"]["signal"] == name);
        assert!(told, "the log says which signal");
        expect_status(&lane.bootproof(&["proof", "verify", "latest"]), 0);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_no_finished_proof() {
    // The step's command ignores being asked; the run waits for nothing once it is told twice.
    let lane = Recorded::new(b"", &format!("{LIVE}\n[[steps]]\nname = \"wait\"\nhold = \"50s\"\n"));
    let mut child = lane.spawn();
    let stdin = child.stdin.take();
    read_until(&mut child, "step wait");
    stop(&child, Signal::INT);
    stop(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    expect_status(&output, 130);
}

#[test]
fn killed_it_leaves_nothing_that_says_passed() {
    let lane = Recorded::new(b"", &format!("{LIVE}\n[[steps]]\nname = \"wait\"\nhold = \"50s\"\n"));
    let mut child = lane.spawn();
    let stdin = child.stdin.take();
    read_until(&mut child, "step wait");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    assert!(!lane.proof().join("seal.json").exists());
    let shown = lane.bootproof(&["proof", "list"]);
    assert!(!stdout_of(&shown).contains("passed"), "{}", stdout_of(&shown));
    let run = lane.proof().file_name().unwrap().to_str().unwrap().to_owned();
    let replayed = lane.bootproof(&["proof", "replay", &run]);
    assert!(stdout_of(&replayed).contains("incomplete") || stderr_of(&replayed).contains("incomplete"));
}

#[test]
fn a_lane_that_is_no_lane_is_a_usage_error() {
    let work = OwnWorkRoot::new();
    let folder = tempfile::tempdir().unwrap();
    for (arguments, part) in [
        (vec!["run", "./"], "director"),
        (vec!["run", "./missing.toml"], "missing.toml"),
        (vec!["run", "quickstrat"], "quickstart"),
        (vec!["run", "smoke", "--set", "machines.node01.memroy=1GiB"], "memory"),
        (vec!["run", "smoke", "--control", "nothing-like-it"], "nothing-like-it"),
    ] {
        let mut command = work.bootproof();
        if arguments[1].starts_with('.') {
            command.current_dir(folder.path());
        }
        let output = command.args(&arguments).output().unwrap();
        expect_status(&output, 2);
        assert!(stderr_of(&output).contains(part), "{arguments:?}: {}", stderr_of(&output));
    }
    assert!(work.proofs().is_empty(), "what cannot be planned leaves nothing");
}
