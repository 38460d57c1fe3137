//! `bootproof exec` on real machines: the guest's streams and status are the command's own, and 125 is ours.

mod support;

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use support::own_lane::{OwnLane, Running, entries};
use support::{expect_status, stderr_of, stdout_of};

fn exec(lane: &OwnLane, options: &[&str], words: &[&str]) -> Command {
    let mut command = lane.bootproof(&["exec"]);
    command.args(options).arg("--").args(words);
    command
}

/// A work root of a test's own; the lane in it is not used.
fn nowhere() -> OwnLane {
    OwnLane::new("")
}

fn with_input(mut command: Command, input: Vec<u8>) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    output
}

#[test]
fn streams_pass_whole_and_apart_and_the_status_is_the_commands() {
    let lane = nowhere();
    let input: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = with_input(exec(&lane, &[], &["cat", "-", "/no/such/file"]), input.clone());
    expect_status(&output, 1);
    assert!(output.stdout == input, "{} of {} bytes came back", output.stdout.len(), input.len());
    assert!(stderr_of(&output).contains("/no/such/file"), "{}", stderr_of(&output));
    lane.expect_nothing_left();
    assert!(entries(&lane.work.path().join("exec")).is_empty(), "nothing has to be explained");
    assert!(lane.work.proofs().is_empty());
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let lane = nowhere();
    let output = exec(&lane, &[], &["surely-no-such-command"]).output().unwrap();
    expect_status(&output, 127);
    assert!(stderr_of(&output).contains("`surely-no-such-command` was not found in the guest"));
    assert!(output.stdout.is_empty());
}

#[test]
fn what_goes_wrong_on_our_side_is_125_and_says_what() {
    let lane = nowhere();
    for (options, part) in [
        (&["--image", "surely-no-such-image"][..], "there is no image `surely-no-such-image`"),
        (&["--image", "./missing.qcow2"], "missing.qcow2"),
        (&["--env", "LANG"], "is not `NAME=VALUE`"),
    ] {
        let output = exec(&lane, options, &["true"]).output().unwrap();
        // An argument that cannot be meant is refused before anything is ours to fail.
        expect_status(&output, if options[0] == "--env" { 2 } else { 125 });
        assert!(stderr_of(&output).contains(part), "{}", stderr_of(&output));
        assert!(stdout_of(&output).is_empty());
    }
    lane.expect_nothing_left();
}

#[test]
fn a_command_without_an_end_ends_at_the_deadline_and_the_console_stays() {
    let lane = nowhere();
    let output = exec(&lane, &["--deadline", "1500ms"], &["hold"]).output().unwrap();
    expect_status(&output, 125);
    let said = stderr_of(&output);
    assert!(said.contains("did not end within"), "{said}");
    lane.expect_nothing_left();
    let kept = entries(&lane.work.path().join("exec"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    let console = kept[0].join("machines/guest/console.raw");
    assert!(said.contains(console.to_str().unwrap()) && console.is_file(), "{said}");
}

/// Starts a command that copies, and returns once its first answer shows that it runs.
fn copying(lane: &OwnLane) -> (Running, std::process::ChildStdin) {
    let mut command = exec(lane, &[], &["cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"!").unwrap();
    let mut answer = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"!");
    (Running::of(child), stdin)
}

#[test]
fn told_to_stop_it_ends_its_machine_before_it_returns() {
    let lane = nowhere();
    let (running, stdin) = copying(&lane);
    running.signal(Signal::INT);
    running.expect(130);
    drop(stdin);
    assert!(support::process::of_work_root(lane.work.path()).is_empty());
    lane.expect_nothing_left();
    assert!(entries(&lane.work.path().join("exec")).is_empty());
}

#[test]
fn killed_it_leaves_nothing_running_and_the_next_one_tidies_up() {
    let lane = nowhere();
    let (running, stdin) = copying(&lane);
    running.kill();
    drop(stdin);
    support::process::expect_none_left(lane.work.path());
    expect_status(&exec(&lane, &[], &["true"]).output().unwrap(), 0);
    lane.expect_nothing_left();
    assert!(entries(&lane.work.path().join("exec")).is_empty());
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let lane = nowhere();
    let mut command = exec(&lane, &[], &["cat", "/dev/zero"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [1; 100];
    stdout.read_exact(&mut some).unwrap();
    assert_eq!(some, [0; 100]);
    drop(stdout);
    // As a shell tells it of a command that SIGPIPE has ended.
    Running::of(child).expect(141);
    lane.expect_nothing_left();
}
