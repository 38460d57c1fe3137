//! bootproof, its keeper and its QEMU killed or told to stop, on real machines: nothing is left running, nothing half-made is
//! taken for whole, and the next run on the same work root works.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::own_lane::OwnLane;
use support::process::Process;
use support::{events_of, expect_status, result_of, stderr_of, stdout_of};

/// A short run with something of everything: a disk, files both ways, commands on both sides, the guest's end.
const SHORT: &str = r#"
[machines.m]
disks = [{ name = "data", size = "16MiB" }]
console_limit = "16MiB"
[[steps]]
name = "up"
expect = ["boot", "agent.ready"]
[[steps]]
exec = { argv = ["uname", "-s"], stdout = { equals = "Linux" } }
gate = "answers"
[[steps]]
copy = { from = "lane.toml", to = "guest:/tmp/lane" }
[[steps]]
copy = { from = "guest:/tmp/lane", to = "lane" }
[[steps]]
host = ["true"]
[[steps]]
power = "shutdown"
"#;

/// A machine that is up and has nothing to do.
const HELD: &str = r#"
[machines.m]
[[steps]]
expect = ["boot", "agent.ready"]
[[steps]]
name = "wait"
hold = "4m"
"#;

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Right after this many lines on standard error.
    Line(usize),
    /// This long after the start.
    After(Duration),
}

/// How many moments; `make nightly` asks for more.
fn moments_wanted() -> usize {
    std::env::var("BOOTPROOF_CRASH_MOMENTS")
        .map_or(8, |text| text.parse().expect("BOOTPROOF_CRASH_MOMENTS is a number"))
}

/// Spread over a run that says so many lines and takes so long.
fn spread(wanted: usize, lines: usize, took: Duration) -> Vec<Moment> {
    let by_line = wanted.div_ceil(2);
    let by_time = wanted - by_line;
    let mut moments: Vec<Moment> = (0..by_line).map(|index| Moment::Line(1 + index * lines / by_line)).collect();
    moments.extend((0..by_time).map(|index| Moment::After(took.mul_f64((index as f64 + 0.5) / by_time as f64))));
    moments
}

fn run_and_kill(lane: &OwnLane, moment: Moment) {
    let mut running = lane.start(&["-vv"]);
    match moment {
        Moment::Line(number) => {
            for _ in 0..number {
                if running.next_line().is_none() {
                    break;
                }
            }
        }
        Moment::After(time) => drop(running.process().ends_within(time)),
    }
    running.kill();
}

/// A proof of a killed run: either it was sealed before, and is whole, or everyone says that it is not finished.
fn expect_honest(lane: &OwnLane, proof: &Path, moment: Moment) {
    let run = proof.file_name().unwrap().to_str().unwrap();
    let ask = |what: &str| lane.bootproof(&["proof", what, run]).output().unwrap();
    let listed = lane.ask(&["proof", "list"]);
    let listed = listed.lines().find(|line| line.contains(run)).unwrap_or_else(|| panic!("{run} in {listed}"));
    let (verified, replayed, shown) = (ask("verify"), ask("replay"), ask("show"));
    if proof.join("seal.json").exists() {
        // Killed after its end: whole, then.
        expect_status(&verified, 0);
        expect_status(&replayed, 0);
        assert!(listed.contains("passed"), "{moment:?}: {listed}");
        return;
    }
    assert!(listed.contains("incomplete") && !listed.contains("latest"), "{moment:?}: {listed}");
    expect_status(&verified, 1);
    assert!(stdout_of(&verified).contains("not intact"), "{moment:?}: {}", stdout_of(&verified));
    if proof.join("events.jsonl").exists() {
        // Also where the log is whole, and only the reports or the seal are missing.
        for output in [&shown, &replayed] {
            assert!(stdout_of(output).contains("incomplete"), "{moment:?}: {}", stdout_of(output));
            assert!(!stdout_of(output).contains("passed own"), "{moment:?}: {}", stdout_of(output));
        }
        expect_status(&shown, 0);
        expect_status(&replayed, 1);
    } else {
        for output in [shown, replayed] {
            assert!(matches!(output.status.code(), Some(1..5)), "{moment:?}: {}", stderr_of(&output));
        }
    }
    let latest = proof.with_file_name("latest");
    if let Ok(target) = std::fs::read_link(latest) {
        assert_ne!(target, Path::new(run), "{moment:?}: `latest` points to what is not finished");
    }
}

fn killed_at(moments: &[Moment]) {
    let lane = OwnLane::new(SHORT);
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    for moment in moments {
        // Each of these but the first is also the next run on what the one before has left.
        run_and_kill(&lane, *moment);
        support::process::expect_none_left(lane.work.path());
        let new: Vec<PathBuf> = lane.work.proofs().into_iter().filter(|proof| !known.contains(proof)).collect();
        assert!(new.len() <= 1, "{new:?}");
        for proof in new {
            expect_honest(&lane, &proof, *moment);
            known.insert(proof);
        }
    }
    expect_status(&lane.run(&[]), 0);
    lane.expect_nothing_left();
    let newest = lane.work.proofs().into_iter().find(|proof| !known.contains(proof)).unwrap();
    assert_eq!(std::fs::read_link(newest.with_file_name("latest")).unwrap(), Path::new(newest.file_name().unwrap()));
    for check in ["verify", "replay"] {
        lane.ask(&["proof", check, "latest"]);
    }
}

#[test]
fn killed_at_many_moments_it_leaves_nothing_running_and_nothing_that_says_passed() {
    let undisturbed = OwnLane::new(SHORT);
    let began = Instant::now();
    let mut running = undisturbed.start(&["-vv"]);
    let mut lines = 0;
    while running.next_line().is_some() {
        lines += 1;
    }
    running.expect(0);
    let took = began.elapsed();
    assert_eq!(undisturbed.sealed_result()["verdict"], "passed");
    undisturbed.expect_nothing_left();
    let moments = spread(moments_wanted(), lines, took);
    let (first, second) = moments.split_at(moments.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| killed_at(first));
        killed_at(second);
    });
}

/// A lane whose machine is up and holds.
fn held() -> (OwnLane, support::own_lane::Running) {
    let lane = OwnLane::new(HELD);
    let mut running = lane.start(&[]);
    running.until("step wait");
    (lane, running)
}

/// The only record's process of that role.
fn process_of(lane: &OwnLane, role: &str) -> Process {
    let records = lane.records();
    assert_eq!(records.len(), 1, "{records:?}");
    Process::open(u32::try_from(records[0][role].as_u64().unwrap()).unwrap()).expect("it is up")
}

#[test]
fn a_killed_keeper_takes_its_machine_along_and_the_run_says_infrastructure() {
    let (lane, running) = held();
    let (keeper, qemu) = (process_of(&lane, "keeper_pid"), process_of(&lane, "qemu_pid"));
    keeper.kill(Signal::KILL);
    let said = running.expect(4);
    assert!(qemu.ends_within(Duration::ZERO), "the run does not end before its machine");
    assert!(said.contains("keeper"), "{said}");
    assert_eq!(lane.sealed_result()["verdict"], "infrastructure");
    lane.expect_nothing_left();
}

#[test]
fn a_killed_qemu_is_infrastructure_and_the_signal_is_told() {
    let (lane, running) = held();
    process_of(&lane, "qemu_pid").kill(Signal::KILL);
    let said = running.expect(4);
    assert!(said.contains("signal 9"), "{said}");
    let result = lane.sealed_result();
    assert_eq!(result["verdict"], "infrastructure");
    assert_eq!(result["failure"]["reason"], "machine-died", "{result}");
    lane.expect_nothing_left();
}

#[test]
fn told_to_stop_once_it_ends_its_machine_and_seals() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let (lane, running) = held();
        running.signal(signal);
        running.expect(130);
        // Not a process of it is left when it returns.
        let left = support::process::of_work_root(lane.work.path());
        assert!(left.is_empty(), "{:?}", left.iter().map(|process| &process.command).collect::<Vec<_>>());
        assert_eq!(lane.sealed_result()["verdict"], "interrupted");
        assert!(events_of(&lane.proof()).iter().any(|event| event["event"]["signal"] == name));
        lane.expect_nothing_left();
    }
}

#[test]
fn told_twice_it_ends_at_once_and_its_machine_follows() {
    let (lane, mut running) = held();
    // Stopped, QEMU cannot answer an orderly end: only the second signal ends this.
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    while running.next_line().is_some() {}
    running.expect(130);
    lane.expect_nothing_left();
    let proof = lane.proof();
    if proof.join("seal.json").exists() {
        assert_eq!(result_of(&proof)["verdict"], "interrupted");
    }
    assert!(!lane.ask(&["proof", "list"]).contains("passed"));
}

#[test]
fn killed_it_takes_the_commands_of_its_steps_along() {
    // The command's grandchild holds the pipe open for as long as it lives.
    let steps = "[machines.m]\nbackend = \"recorder\"\nrecording = \"-\"\n\
                 [[steps]]\nwithin = \"4m\"\nhost = [\"sh\", \"-c\", \"sleep 1000 > alive & wait\"]\n";
    let lane = OwnLane::new(steps);
    let pipe = lane.folder.path().join("alive");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let mut command = lane.command(&[]);
    let running = support::own_lane::Running::start(command.stdin(std::process::Stdio::piped()));
    // Returns once the other end is open, too.
    let alive = std::fs::File::open(&pipe).unwrap();
    running.kill();
    support::process::expect_none_left(lane.work.path());
    assert_eq!(std::io::copy(&mut { alive }, &mut std::io::sink()).unwrap(), 0);
}
