//! What an operator does beside running: looks at runs and machines that go on, gets into them, ends them, tidies up.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use support::files::until_it_contains;
use support::guest_program::shell;
use support::own_lane::{OwnLane, Running, ask_monitor};
use support::process::Process;
use support::terminal::Terminal;
use support::{bootproof, expect_status, stderr_of, stdout_of};

const UP: &str = "[machines.m]\n[[steps]]\nname = \"up\"\nexpect = [\"boot\", \"agent.ready\"]\n";

/// A step that goes on until somebody opens the pipe of that name in the lane's folder for writing.
fn until_told(name: &str) -> String {
    format!("[[steps]]\nname = \"until-{name}\"\nwithin = \"4m\"\nhost = [\"cat\", \"{name}\"]\n")
}

fn pipe(lane: &OwnLane, name: &str) -> PathBuf {
    let path = lane.folder.path().join(name);
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

/// Opening returns once the step has opened its end; closing ends the step.
fn tell(pipe: &PathBuf) {
    drop(fs::OpenOptions::new().write(true).open(pipe).unwrap());
}

/// A command whose standard output is read as it comes.
struct Reading {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Reading {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    #[track_caller]
    fn until(&mut self, text: &str) {
        let mut said = String::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(text) {
                return;
            }
            said.push_str(&line);
            said.push('\n');
        }
        panic!("`{text}` never came, but:\n{said}");
    }

    /// It ends by itself; gives what it said on standard error.
    #[track_caller]
    fn expect(self, status: i32) -> String {
        let Self { child, lines } = self;
        lines.for_each(drop);
        Running::of(child).expect(status)
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The names of all commands that help shows: `bootproof-image-build`.
fn commands(command: &clap::Command, name: &str, names: &mut Vec<String>) {
    names.push(name.to_owned());
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        commands(inner, &format!("{name}-{}", inner.get_name()), names);
    }
}

#[test]
fn every_command_has_a_page_and_shells_understand_their_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let output = bootproof().arg("man").arg(folder.path()).output().unwrap();
    expect_status(&output, 0);
    let mut names = Vec::new();
    commands(&bootproof::cli::command(), "bootproof", &mut names);
    assert!(names.len() > 30, "{names:?}");
    for name in &names {
        let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap_or_else(|_| panic!("{name}.1"));
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{name}: {page}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), names.len(), "and nothing but these");
    let first = bootproof().arg("man").output().unwrap();
    assert!(stdout_of(&first).contains(".TH bootproof 1"), "{}", stdout_of(&first));
    for (shell, check) in [("bash", Some("bash")), ("zsh", Some("zsh")), ("fish", Some("fish")), ("elvish", None)] {
        let output = bootproof().args(["completions", shell]).output().unwrap();
        expect_status(&output, 0);
        let script = stdout_of(&output);
        assert!(script.contains("keep-on-failure"), "{shell}: {script}");
        let Some(program) = check else { continue };
        let file = folder.path().join(shell);
        fs::write(&file, script).unwrap();
        // Only bash has to be there.
        match Command::new(program).arg("-n").arg(&file).output() {
            Ok(output) => expect_status(&output, 0),
            Err(error) if program != "bash" => eprintln!("skipped: {program}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_run_under_way_is_looked_at_and_its_console_followed_until_it_is_over() {
    let again = "[[steps]]\nreboot = true\n[[steps]]\nexpect = [\"boot\", \"agent.ready\"]\n\
                 [[steps]]\nname = \"last\"\nexpect = [{ marker = \"never\", within = \"4m\" }]\n";
    let lane = OwnLane::new(&format!("{UP}{}{again}", until_told("reboot")));
    let reboot = pipe(&lane, "reboot");
    let mut running = lane.start(&[]);
    running.until("step until-reboot");

    let status = json(&lane.ask(&["status", "--json"]));
    let run = &status["under_way"][0];
    assert_eq!(
        (&run["lane"], &run["state"], &run["step"]["name"]),
        (&"own".into(), &"running".into(), &"until-reboot".into())
    );
    assert_eq!(
        (&run["step"]["number"], &run["steps_done"], &run["steps"]),
        (&2.into(), &1.into(), &5.into()),
        "{status}"
    );
    assert_eq!(run["machines"][0]["last_marker"], "agent.ready.m", "{status}");
    assert_eq!(status["lanes"], serde_json::json!([]), "nothing is over");

    let mut follower = Reading::start(lane.bootproof(&["logs", "m", "-f"]));
    follower.until("BOOTPROOF_MARKER agent.ready");
    let shown = lane.ask(&["logs", "m"]);
    assert!(shown.contains("BOOTPROOF_MARKER boot") && !shown.contains('\r'), "{shown}");
    tell(&reboot);
    follower.until("BOOTPROOF_MARKER boot");
    running.until("step last");
    let name = run["run"].as_str().unwrap();
    let text = lane.ask(&["status", &name[name.len() - 8..]]);
    assert!(text.contains("step 5 of 5  last: expect marker never"), "{text}");
    assert!(text.contains("waits for  marker never of m") && text.contains("m  up, boot 2, last marker"), "{text}");

    running.signal(Signal::INT);
    running.expect(130);
    let said = follower.expect(0);
    assert!(said.contains("m is gone: its run is over"), "{said}");
    let text = lane.ask(&["status"]);
    assert!(text.contains("own   interrupted"), "{text}");
    assert!(lane.ask(&["status", "latest"]).contains("SIGINT"));
    // What was followed is what the proof has.
    let of_proof = lane.ask(&["logs", "m", "--run", "latest"]);
    assert_eq!(of_proof, fs::read_to_string(lane.proof().join("machines/m/console.log")).unwrap());
    let raw = lane.bootproof(&["logs", "m", "--run", "latest", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, fs::read(lane.proof().join("machines/m/console.raw")).unwrap());
    lane.expect_nothing_left();
}

#[test]
fn machines_are_kept_on_failure_only_and_followed_until_they_are_stopped() {
    let fails = "[[steps]]\nname = \"check\"\nexec = [\"false\"]\ngate = \"check\"\n";
    let good = OwnLane::new(&format!("{UP}{}", fails.replace("false", "true")));
    expect_status(&good.run(&["--keep-on-failure"]), 0);
    good.expect_nothing_left();

    let lane = OwnLane::new(&format!("{UP}{fails}"));
    for _ in 0..2 {
        let output = lane.run(&["--keep-on-failure"]);
        expect_status(&output, 1);
        let said = stderr_of(&output);
        assert!(said.contains("kept: m") && said.contains("bootproof logs m -f"), "{said}");
    }
    let records = json(&lane.ask(&["ps", "--json"]));
    let (one, other) = (records[0]["run"].as_str().unwrap(), records[1]["run"].as_str().unwrap());
    let ambiguous = lane.bootproof(&["logs", "m"]).output().unwrap();
    expect_status(&ambiguous, 2);
    assert!(stderr_of(&ambiguous).contains(&format!("say which: {one}/m, {other}/m")), "{}", stderr_of(&ambiguous));
    let unknown = lane.bootproof(&["logs", "n"]).output().unwrap();
    expect_status(&unknown, 2);
    assert!(stderr_of(&unknown).contains("no machine `n` is up"), "{}", stderr_of(&unknown));
    let unknown = lane.bootproof(&["logs", "n", "--run", one]).output().unwrap();
    expect_status(&unknown, 2);
    assert!(stderr_of(&unknown).contains("it has: m"), "{}", stderr_of(&unknown));

    // First what the run has recorded, then what comes since.
    let first = format!("{}/m", &one[one.len() - 8..]);
    let mut follower = Reading::start(lane.bootproof(&["logs", &first, "--follow"]));
    follower.until("BOOTPROOF_MARKER agent.ready");
    ask_monitor(&records[0], "system_reset");
    // Nobody is there for its agent to talk to.
    follower.until("BOOTPROOF_MARKER boot");
    until_it_contains(records[0]["console"].as_str().unwrap().as_ref(), "BOOTPROOF_MARKER boot");
    let both = lane.ask(&["logs", &first]);
    assert_eq!(both.matches("BOOTPROOF_MARKER boot").count(), 2, "{both}");

    let qemus: Vec<Process> =
        [0, 1].map(|at| Process::open(records[at]["qemu_pid"].as_u64().unwrap() as u32).unwrap()).into();
    // Neither takes SIGTERM: one after the other they would need twice as long as both together.
    qemus.iter().for_each(|qemu| qemu.kill(Signal::STOP));
    let asked = std::time::Instant::now();
    let stopped = lane.bootproof(&["stop", "--all"]).output().unwrap();
    expect_status(&stopped, 0);
    assert_eq!(stderr_of(&stopped).matches("killed ").count(), 2, "{}", stderr_of(&stopped));
    assert!(asked.elapsed() < Duration::from_secs(20), "all at once");
    assert!(qemus.iter().all(|qemu| qemu.ends_within(Duration::ZERO)));
    let said = follower.expect(0);
    assert!(said.contains("m is gone"), "{said}");

    let freed = lane.bootproof(&["clean", "--dry-run"]).output().unwrap();
    expect_status(&freed, 0);
    assert_eq!(stdout_of(&freed).matches("console of a kept machine that is gone").count(), 2, "{}", stdout_of(&freed));
    lane.expect_nothing_left();
}

#[test]
fn clean_removes_what_a_killed_run_and_keeper_have_left_and_nothing_else() {
    let lane = OwnLane::new(&format!("{UP}[[steps]]\nname = \"wait\"\nhold = \"4m\"\n"));
    let mut running = lane.start(&[]);
    running.until("step wait");
    let record = lane.records().remove(0);
    let keeper = Process::open(u32::try_from(record["keeper_pid"].as_u64().unwrap()).unwrap()).unwrap();
    // Nothing is left over of what goes on.
    let nothing = lane.bootproof(&["clean"]).output().unwrap();
    expect_status(&nothing, 0);
    assert!(nothing.stdout.is_empty() && stderr_of(&nothing).contains("nothing is left over"));
    // Neither tidies up after the other.
    running.signal(Signal::STOP);
    keeper.kill(Signal::KILL);
    running.kill();
    support::process::expect_none_left(lane.work.path());

    let run = record["run"].as_str().unwrap();
    let folders =
        [lane.work.path().join("runs").join(run), lane.work.path().join("running").join(format!("{run}-m.json"))];
    let tells = |output: &std::process::Output| {
        let said = stdout_of(output);
        assert!(
            said.contains("record of a machine that is gone") && said.contains("folders of a run that is gone"),
            "{said}"
        );
        assert!(said.contains(&lane.work.runtime.path().display().to_string()), "also its sockets': {said}");
    };
    let dry = lane.bootproof(&["clean", "--dry-run"]).output().unwrap();
    expect_status(&dry, 0);
    tells(&dry);
    assert!(folders.iter().all(|path| path.exists()), "a dry run removes nothing");
    let clean = lane.bootproof(&["clean"]).output().unwrap();
    expect_status(&clean, 0);
    tells(&clean);
    lane.expect_nothing_left();
    assert!(lane.proof().join("events.jsonl").exists(), "never a proof");
    let text = lane.ask(&["status"]);
    assert!(text.contains("incomplete") && text.contains("killed before its end"), "{text}");
}

/// Brings the stand-in for a shell into the guest.
fn with_shell() -> String {
    format!("[[steps]]\nname = \"shell\"\ncopy = {{ from = \"{}\", to = \"guest:/bin/sh\" }}\n", shell().display())
}

fn with_input(mut command: Command, input: &[u8]) -> std::process::Output {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Commands, and a shell at a terminal, in the machine `m`.
fn gets_in(lane: &OwnLane) {
    assert_eq!(lane.ask(&["ssh", "m", "--", "uname", "-s"]), "Linux\n");
    for (words, status, says) in [(&["false"][..], 1, ""), (&["no-such"], 127, "failed to start `no-such`")] {
        let output = lane.bootproof(&["ssh", "m", "--"]).args(words).output().unwrap();
        expect_status(&output, status);
        assert!(stderr_of(&output).contains(says), "{}", stderr_of(&output));
    }
    let bytes: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = with_input(lane.bootproof(&["ssh", "m", "--", "cat"]), &bytes);
    expect_status(&output, 0);
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    // Without a terminal here there is none there.
    let output = with_input(lane.bootproof(&["ssh", "m"]), b"one\nexit 3\n");
    expect_status(&output, 3);
    assert!(stdout_of(&output).contains("-l terminal=false") && stdout_of(&output).contains("said one"));

    let mut command = lane.bootproof(&["ssh", "m"]);
    command.env("TERM", "vt100");
    let mut terminal = Terminal::start(command, 33, 77);
    terminal.until("through our agent and not by SSH");
    terminal.until("-l terminal=true size=33x77 TERM=vt100");
    assert!(terminal.is_raw());
    terminal.resize(40, 100);
    // The guest's own terminal shows what is typed, and ends lines at a carriage return.
    terminal.type_in("hello\r");
    terminal.until("said hello size=40x100");
    terminal.type_in("exit 7\r");
    terminal.expect(7);

    let mut command = lane.bootproof(&["ssh", "m", "--tty", "--", "sh", "-l"]);
    command.env("TERM", "vt100");
    let mut terminal = Terminal::start(command, 24, 80);
    terminal.until("terminal=true");
    // Ctrl-C is the guest's, which ends its program by it.
    terminal.type_in("\x03");
    terminal.expect(130);
    let mut terminal = Terminal::start(lane.bootproof(&["ssh", "m"]), 24, 80);
    terminal.until("terminal=true");
    terminal.signal(Signal::TERM);
    terminal.expect(125);
}

/// Two terminals at the console of `m`, into which the guest listens.
fn types_into_the_console(lane: &OwnLane) -> Terminal {
    let mut listener = Reading::start(lane.bootproof(&["ssh", "m", "--", "cat", "/dev/ttyS0"]));
    let mut one = Terminal::start(lane.bootproof(&["console", "m"]), 24, 80);
    let mut other = Terminal::start(lane.bootproof(&["console", "m"]), 24, 80);
    for terminal in [&mut one, &mut other] {
        terminal.until("Ctrl-] ends this");
        assert!(terminal.is_raw());
    }
    one.type_in("from one\r");
    // The guest's terminal echoes it, to all who look on.
    one.until("from one");
    other.until("from one");
    listener.until("from one");
    other.type_in("from other\r");
    one.until("from other");
    listener.until("from other");
    other.type_in("x\x1d");
    other.until("left the console");
    other.expect(0);
    // A script: what it is given is typed.
    let mut script = lane.bootproof(&["--quiet", "console", "m"]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(script.stdin.as_mut().unwrap(), b"\rfrom a script\r").unwrap();
    one.until("from a script");
    listener.until("from a script");
    script.kill().unwrap();
    script.wait().unwrap();
    assert!(lane.ask(&["logs", "m"]).contains("from other"), "what is echoed is recorded");
    drop(listener.child.kill());
    listener.child.wait().unwrap();
    one
}

#[test]
fn a_kept_machine_is_got_into_by_shell_and_console() {
    let lane = OwnLane::new(&format!("{UP}{}", with_shell()));
    expect_status(&lane.run(&["--keep"]), 0);
    gets_in(&lane);
    let mut busy = Terminal::start(lane.bootproof(&["ssh", "m"]), 24, 80);
    busy.until("terminal=true");
    let output = lane.bootproof(&["ssh", "m", "--", "true"]).output().unwrap();
    expect_status(&output, 125);
    assert!(stderr_of(&output).contains("another `bootproof ssh` is in it"), "{}", stderr_of(&output));
    busy.type_in("exit 0\r");
    busy.expect(0);
    let mut console = types_into_the_console(&lane);

    let record = lane.records().remove(0);
    ask_monitor(&record, "stop");
    let output = lane.bootproof(&["ssh", "m", "--within", "300ms", "--", "true"]).output().unwrap();
    expect_status(&output, 125);
    assert!(stderr_of(&output).contains("agent did not answer within 300ms"), "{}", stderr_of(&output));
    ask_monitor(&record, "cont");
    let unknown = lane.bootproof(&["console", "n"]).output().unwrap();
    expect_status(&unknown, 2);
    lane.ask(&["stop", "m"]);
    console.until("/m is off");
    console.expect(0);
    lane.expect_nothing_left();
    lane.ask(&["proof", "verify", "latest"]);
}

#[test]
fn a_machine_of_a_run_under_way_is_got_into_and_the_run_goes_on() {
    let after = "[[steps]]\nexec = [\"true\"]\n";
    let lane = OwnLane::new(&format!("{UP}{}{}{after}", with_shell(), until_told("over")));
    let over = pipe(&lane, "over");
    let mut running = lane.start(&[]);
    running.until("step until-over");
    gets_in(&lane);
    // There is room for several.
    let mut shell = Terminal::start(lane.bootproof(&["ssh", "m"]), 24, 80);
    shell.until("terminal=true");
    let mut console = types_into_the_console(&lane);
    tell(&over);
    running.expect(0);
    console.until("/m is off");
    console.expect(0);
    shell.until(" lost `");
    shell.expect(125);
    assert_eq!(lane.sealed_result()["verdict"], "passed");
    let recorded = fs::read(lane.proof().join("machines/m/console.raw")).unwrap();
    assert!(recorded.windows(8).any(|part| part == b"from one"));
    lane.expect_nothing_left();
}

/// `bootproof debug`, with somebody at its standard input.
fn debug(lane: &OwnLane, arguments: &[&str]) -> (Running, std::process::ChildStdin) {
    let mut command = lane.bootproof(&["debug", "./lane.toml"]);
    let mut child =
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (Running::of(child), stdin)
}

fn type_line(stdin: &mut std::process::ChildStdin, line: &str) {
    use std::io::Write;
    writeln!(stdin, "{line}").unwrap();
}

#[test]
fn a_run_stands_still_where_it_fails_with_its_machine_up_and_never_passes() {
    let steps = "[[steps]]\nname = \"check\"\nhost = [\"test\", \"-e\", \"fixed\"]\ngate = \"check\"\n\
                 [[steps]]\nname = \"next\"\nexec = [\"true\"]\n";
    let lane = OwnLane::new(&format!("{UP}{steps}"));
    let (mut running, mut stdin) = debug(&lane, &[]);
    running.until("held at step check");
    let shown = running.until("machines  m");
    assert!(shown.contains("nothing is torn down"), "{shown}");
    running.until("bootproof ssh m");
    running.until("`r` and Enter try the step again");
    let status = json(&lane.ask(&["status", "--json"]));
    assert_eq!(status["under_way"][0]["state"], "held", "{status}");
    assert!(status["under_way"][0]["held"].as_str().unwrap().starts_with("at step check: "), "{status}");
    assert_eq!(lane.ask(&["ssh", "m", "--", "uname", "-s"]), "Linux\n");
    type_line(&mut stdin, "what");
    running.until("`what` means nothing here");
    type_line(&mut stdin, "r");
    running.until("held at step check");
    fs::write(lane.folder.path().join("fixed"), "").unwrap();
    type_line(&mut stdin, "r");
    running.until("step next passed");
    // What failed stays failed.
    running.expect(1);
    let result = lane.sealed_result();
    assert_eq!(result["verdict"], "failed", "{result}");
    let events = support::events_of(&lane.proof());
    let releases: Vec<&serde_json::Value> =
        events.iter().map(|event| &event["event"]).filter(|event| event["kind"] == "run-released").collect();
    assert_eq!(releases.len(), 2);
    assert!(releases.iter().all(|event| event["how"] == "retry"), "{releases:?}");
    lane.expect_nothing_left();
}

/// A lane without a machine that takes time.
fn quick(steps: &str) -> OwnLane {
    let lane = OwnLane::new(&format!("[machines.m]\nbackend = \"recorder\"\nrecording = \"recording\"\n{steps}"));
    fs::write(lane.folder.path().join("recording"), "").unwrap();
    lane
}

#[test]
fn a_run_stands_still_before_a_step_that_is_named_until_it_is_let_go_or_stopped() {
    let steps = "[[steps]]\nname = \"one\"\nhost = [\"true\"]\n[[steps]]\nname = \"two\"\nhost = [\"true\"]\n";
    let lane = quick(steps);
    let (mut running, mut stdin) = debug(&lane, &["--at", "two"]);
    running.until("step one passed");
    let held = running.until("held at step two");
    assert!(held.contains("asked for before this step"), "{held}");
    type_line(&mut stdin, "");
    running.until("step two passed");
    // Nothing failed, and it proves nothing all the same.
    let said = running.expect(130);
    assert!(said.contains("held for somebody to look"), "{said}");
    assert_eq!(lane.sealed_result()["verdict"], "interrupted");

    let lane = quick(steps);
    let (mut running, stdin) = debug(&lane, &["--at", "one"]);
    running.until("held at step one");
    // Nobody there to press Enter: it stands still all the same.
    drop(stdin);
    running.until("only a signal ends this");
    running.signal(Signal::INT);
    running.expect(130);
    let events = support::events_of(&lane.proof());
    assert!(events.iter().any(|event| event["event"]["how"] == "stop"), "{events:?}");
    lane.expect_nothing_left();

    let output = lane.bootproof(&["debug", "./lane.toml", "--at", "three"]).output().unwrap();
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("its steps are: one, two"), "{}", stderr_of(&output));
}

#[test]
fn a_fresh_run_uses_nothing_that_was_there_and_leaves_nothing_there() {
    let lane = OwnLane::new(UP);
    let output = lane.run(&["--fresh", "--keep"]);
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("cannot keep machines"), "{}", stderr_of(&output));
    // Whatever looked for an image, a checkpoint or the accelerator's proof there would fail.
    let caches = ["images", "host", "checkpoints"].map(|name| lane.work.path().join(name));
    for cache in &caches {
        let _ = fs::remove_file(cache);
        fs::write(cache, "none").unwrap();
    }
    expect_status(&lane.run(&[]), 3);
    expect_status(&lane.run(&["--fresh"]), 0);
    assert!(caches.iter().all(|cache| fs::read_to_string(cache).unwrap() == "none"));
    assert!(!lane.work.path().join("fresh").exists());
    lane.expect_nothing_left();
}
