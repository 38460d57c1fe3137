//! Real machines beyond the shipped lanes: firmware, consoles, power, several at once, kept ones, hostile ones, and a disk
//! that fills up.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getsid};
use support::files::until_it_contains;
use support::guest_program::say;
use support::own_lane::{OwnLane, Running, ask_monitor, entries};
use support::process::Process;
use support::{OwnWorkRoot, events_of, expect_status, result_of, stderr_of, stdout_of};

/// The first step of most lanes.
const UP: &str = "[[steps]]\nname = \"up\"\nexpect = [\"boot\", \"agent.ready\"]\n";

/// Copies `say` and the file of that name into the guest, and says it there.
fn saying(file: &str, device: &str, times: u32) -> String {
    let say = say().display();
    format!(
        "[[steps]]\nname = \"program-{file}\"\ncopy = {{ from = \"{say}\", to = \"guest:/tmp/say-{file}\" }}\n\
         [[steps]]\nname = \"file-{file}\"\ncopy = {{ from = \"{file}\", to = \"guest:/tmp/{file}\" }}\n\
         [[steps]]\nname = \"say-{file}\"\nexec = [\"/tmp/say-{file}\", \"{device}\", \"/tmp/{file}\", \"{times}\"]\n\
         gate = {{ name = \"say-{file}\", hard = false }}\n"
    )
}

fn origins(result: &serde_json::Value, machine: &str) -> Vec<String> {
    let epochs = result["machines"][machine]["epochs"].as_array().unwrap();
    epochs.iter().map(|epoch| epoch["origin"].as_str().unwrap().to_owned()).collect()
}

fn step<'a>(result: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let steps = result["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step `{name}` in {result}"))
}

#[test]
fn a_machine_boots_by_uefi() {
    if !Path::new("/usr/share/OVMF").exists() && std::env::var_os("BOOTPROOF_OVMF_CODE").is_none() {
        eprintln!("skipped: there is no OVMF firmware on this host");
        return;
    }
    let check = "[[steps]]\nexec = { argv = [\"cat\", \"/sys/firmware/efi/fw_platform_size\"], stdout = { equals = \"64\" } }\n";
    let lane = OwnLane::new(&format!("[machines.m]\nfirmware = \"uefi\"\n{UP}within = \"90s\"\n{check}"));
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    assert_eq!(result["machines"]["m"]["firmware"], "uefi", "{result}");
    lane.expect_nothing_left();
}

#[test]
fn epochs_follow_reboot_reset_and_power_on_a_virtio_console() {
    let boot = "[[steps]]\nexpect = [\"boot\", \"agent.ready\"]\n";
    let power = |action: &str| format!("[[steps]]\npower = \"{action}\"\n");
    let steps = [
        UP.to_owned(),
        "[[steps]]\nreboot = true\n".into(),
        boot.into(),
        power("reset"),
        boot.into(),
        power("cut"),
        power("on"),
        boot.into(),
        power("shutdown"),
    ];
    let lane = OwnLane::new(&format!("[machines.m]\nconsole = \"virtio\"\n{}", steps.concat()));
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    assert_eq!(origins(&result, "m"), ["power-on", "reboot", "reset", "power-on"]);
    let markers = result["machines"]["m"]["markers"].as_array().unwrap();
    for epoch in 1..=4 {
        let boots = markers.iter().filter(|marker| marker["epoch"] == epoch && marker["marker"] == "boot.m").count();
        assert_eq!(boots, 1, "each boot's marker belongs to its epoch: {markers:?}");
    }
    let console = fs::read_to_string(lane.proof().join("machines/m/console-hvc0.log")).unwrap();
    assert_eq!(console.matches("BOOTPROOF_MARKER boot").count(), 4, "markers come over hvc0: {console}");
    lane.expect_nothing_left();
}

#[test]
fn kept_machines_go_on_are_found_and_stopped_and_leave_the_proof_alone() {
    let lane = OwnLane::new(&format!("[machines.one]\n[machines.two]\nnetwork = {{ forward = [22] }}\n{UP}"));
    // Returns when the run does: whoever keeps the machines does not hold its standard error.
    let output = lane.run(&["--keep"]);
    expect_status(&output, 0);
    assert!(stderr_of(&output).contains("kept: one, two"), "{}", stderr_of(&output));
    lane.ask(&["proof", "verify", "latest"]);
    let proof = lane.proof();
    let before = fs::read(proof.join("machines/one/console.raw")).unwrap();

    let listed: serde_json::Value = serde_json::from_str(&lane.ask(&["ps", "--json"])).unwrap();
    let machines = listed.as_array().unwrap();
    assert_eq!(machines.len(), 2, "{listed}");
    let processes: Vec<Process> =
        machines.iter().map(|machine| Process::open(machine["qemu_pid"].as_u64().unwrap() as u32).unwrap()).collect();
    for machine in machines {
        assert_eq!(machine["kept"], true);
        let keeper = Pid::from_raw(i32::try_from(machine["keeper_pid"].as_u64().unwrap()).unwrap()).unwrap();
        assert_eq!(getsid(Some(keeper)).unwrap(), keeper, "a terminal that is closed does not take it along");
    }
    assert_eq!(machines[1]["forwards"][0][0], 22, "{listed}");
    assert!(lane.ask(&["ps"]).contains("22->127.0.0.1:"));

    // What it prints from now on goes beside the proof.
    let console = PathBuf::from(machines[0]["console"].as_str().unwrap());
    ask_monitor(&machines[0], "system_reset");
    until_it_contains(&console, "BOOTPROOF_MARKER boot");
    assert!(fs::read(proof.join("machines/one/console.raw")).unwrap() == before);

    // Another run does not take their folders for left over.
    expect_status(&lane.bootproof(&["exec", "--", "true"]).output().unwrap(), 0);
    let stopped = lane.bootproof(&["stop", "one"]).output().unwrap();
    expect_status(&stopped, 0);
    assert!(processes[0].ends_within(Duration::ZERO), "it is gone when `stop` returns");
    assert!(!processes[1].ends_within(Duration::ZERO), "the other one is not");
    let output = lane.bootproof(&["stop", "one"]).output().unwrap();
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("no machine `one` is up"), "{}", stderr_of(&output));
    lane.ask(&["stop", "--all"]);
    assert!(processes[1].ends_within(Duration::ZERO));
    lane.expect_nothing_left();
    lane.ask(&["proof", "verify", "latest"]);
}

#[test]
fn a_kept_machine_that_does_not_take_sigterm_is_killed() {
    let lane = OwnLane::new(&format!("[machines.m]\n{UP}"));
    expect_status(&lane.run(&["--keep"]), 0);
    let records = lane.records();
    let qemu = Process::open(u32::try_from(records[0]["qemu_pid"].as_u64().unwrap()).unwrap()).unwrap();
    // A stopped process takes SIGTERM once it goes on, and SIGKILL at once.
    qemu.kill(Signal::STOP);
    let asked = Instant::now();
    let mut first = lane.bootproof(&["stop", "m"]);
    let first = Running::start(&mut first);
    // Whoever asks meanwhile gets the same answer, and gives it no more time.
    let mut second = lane.bootproof(&["--quiet", "stop", "--all"]);
    let second = Running::start(&mut second);
    for said in [first.expect(0), second.expect(0)] {
        assert!(said.contains("killed ") && said.contains("/m: its QEMU did not end within 10s of SIGTERM"), "{said}");
    }
    assert!(asked.elapsed() >= Duration::from_secs(10), "it had time to end by itself");
    assert!(qemu.ends_within(Duration::ZERO));
    lane.expect_nothing_left();
}

#[test]
fn a_command_that_hangs_and_a_panic_on_the_console_end_their_steps() {
    let hang =
        "[[steps]]\nname = \"hang\"\nexec = [\"hold\"]\nwithin = \"250ms\"\ngate = { name = \"hang\", hard = false }\n";
    let say = say().display();
    let copies = format!(
        "[[steps]]\ncopy = {{ from = \"{say}\", to = \"guest:/tmp/say\" }}\n\
         [[steps]]\ncopy = {{ from = \"panic\", to = \"guest:/tmp/panic\" }}\n"
    );
    let both = "[[steps]]\nname = \"both\"\nwithin = \"90s\"\nparallel = [\
                { name = \"wait\", expect = [{ marker = \"never\", within = \"60s\" }] },\
                { name = \"say\", exec = [\"/tmp/say\", \"/dev/console\", \"/tmp/panic\"] }]\n";
    let lane = OwnLane::new(&format!("[machines.m]\n{UP}{hang}{copies}{both}"));
    fs::write(lane.folder.path().join("panic"), "[   12.345678] Kernel panic - not syncing: planted\n").unwrap();
    let output = lane.run(&[]);
    expect_status(&output, 1);
    let result = lane.sealed_result();
    assert_eq!(step(&result, "hang")["failure"]["reason"], "deadline", "{result}");
    assert!(step(&result, "hang")["failure"]["waited_ms"].as_u64().unwrap() >= 250);
    let wait = step(&result, "wait");
    assert_eq!(wait["failure"]["reason"], "failure-pattern", "{result}");
    let message = wait["failure"]["message"].as_str().unwrap();
    assert!(message.contains("kernel-panic") && message.contains("planted"), "{wait}");
    assert!(wait["duration_ms"].as_u64().unwrap() < 10_000, "at once, not at its deadline: {wait}");
    lane.expect_nothing_left();
}

#[test]
fn a_hostile_console_reaches_no_terminal_and_passes_no_gate() {
    let hostile = saying("hostile", "/dev/hvc0", 1);
    let flood = saying("flood", "/dev/hvc0", 32);
    let forged = "[[steps]]\nname = \"forged\"\nexpect = [{ marker = \"forged\", within = \"100ms\" }]\n\
                  gate = { name = \"forged\", hard = false }\n";
    let real = "[[steps]]\nexec = [\"/init\", \"marker\", \"real\"]\n[[steps]]\nname = \"real\"\nexpect = [\"real\"]\n";
    let lane = OwnLane::new(&format!(
        "[markers]\nrequire_crc = true\n[machines.m]\nconsole = \"virtio\"\nconsole_limit = \"64MiB\"\n\
         {UP}{hostile}{flood}{forged}{real}"
    ));
    let mut bytes = b"\x1b]0;owned\x07\x1b[2J\x1b[31;1m\x90\x9b31m\x00\x00\xff\xfe\r\n".to_vec();
    bytes.extend_from_slice(b"BOOTPROOF_MARKER forged\nBOOTPROOF_MARKER forged seq=3 crc=00000000\n");
    bytes.extend_from_slice(b"\x1b[8mBOOTPROOF_MARKER forged seq=3 crc=deadbeef\x1b[0m\rBOOTPROOF_MARKER boot\n");
    fs::write(lane.folder.path().join("hostile"), &bytes).unwrap();
    // Without an end of line, with a whole marker in the middle, which is none.
    let mut line = vec![b'y'; 1 << 20];
    line[500_000..500_024].copy_from_slice(b" BOOTPROOF_MARKER forged");
    fs::write(lane.folder.path().join("flood"), &line).unwrap();

    let output = lane.run(&["-vv", "--json"]);
    expect_status(&output, 0);
    let printed = stderr_of(&output);
    let harmless = |text: &str| text.chars().all(|character| character == '\n' || !character.is_control());
    assert!(harmless(&printed), "{}", printed.escape_debug());
    assert!(harmless(&stdout_of(&output)));
    let result = lane.sealed_result();
    assert_eq!(step(&result, "say-hostile")["outcome"], "passed", "{result}");
    assert_eq!(step(&result, "say-flood")["outcome"], "passed");
    assert_eq!(step(&result, "forged")["failure"]["reason"], "deadline", "{result}");
    assert!(result["machines"]["m"]["markers_damaged"].as_u64().unwrap() >= 2, "{result}");
    let shown = lane.ask(&["proof", "show", "latest"]);
    assert!(harmless(&shown), "{}", shown.escape_debug());
    let raw = fs::read(lane.proof().join("machines/m/console-hvc0.raw")).unwrap();
    assert!(raw.windows(9).any(|part| part == b"\x1b]0;owned"), "raw bytes are as they came");
    // Not all of it: QEMU drops what a virtio console's reader has no room for.
    assert!(raw.len() > 1 << 20, "{} bytes", raw.len());
    for file in ["report.md", "report.html", "junit.xml", "result.json", "machines/m/console-hvc0.log"] {
        let text = fs::read_to_string(lane.proof().join(file)).unwrap();
        assert!(harmless(&text.replace(['\t', '\r'], "")), "{file}");
    }
    lane.expect_nothing_left();
}

#[test]
fn two_runs_at_once_on_one_work_root_do_not_disturb_each_other() {
    let lane = OwnLane::new(&format!(
        "[machines.m]\ndisks = [{{ name = \"data\", size = \"16MiB\" }}]\n{UP}[[steps]]\npower = \"shutdown\"\n"
    ));
    let both = [lane.start(&[]), lane.start(&[])];
    for running in both {
        running.expect(0);
    }
    let proofs = lane.work.proofs();
    assert_eq!(proofs.len(), 2, "{proofs:?}");
    for proof in &proofs {
        assert_eq!(result_of(proof)["verdict"], "passed");
        for check in ["verify", "replay"] {
            lane.ask(&["proof", check, proof.to_str().unwrap()]);
        }
    }
    let latest = fs::canonicalize(proofs[0].with_file_name("latest")).unwrap();
    assert!(proofs.iter().any(|proof| fs::canonicalize(proof).unwrap() == latest));
    lane.expect_nothing_left();
}

/// A small file system in memory; unmounted when it goes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u32) -> Result<Self, String> {
        let options = std::ffi::CString::new(format!("size={mebibytes}m")).unwrap();
        rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), Some(options.as_c_str()))
            .map(|()| Self(at.into()))
            .map_err(|error| error.to_string())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_fills_half_way_is_budget_and_leaves_nothing_that_says_passed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = match SmallDisk::mount(folder.path(), 48) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("skipped: a small file system cannot be mounted here: {error}");
            return;
        }
    };
    // As much stays free by default as this one has.
    fs::write(disk.0.join("budget.toml"), "version = 1\n[hard]\nfree = \"1MiB\"\n").unwrap();
    // Another program fills it while the guest talks on.
    let fill =
        "[[steps]]\nname = \"fill\"\nhost = [\"sh\", \"-c\", \"cat /dev/zero > $BOOTPROOF_WORK_ROOT/fill || true\"]\n";
    let talk = saying("talk", "/dev/console", 200);
    let lane = OwnLane::with_work_root(
        &format!("[machines.m]\nconsole_limit = \"8MiB\"\n{UP}{fill}{talk}"),
        OwnWorkRoot::at(disk.0.clone()),
    );
    fs::write(lane.folder.path().join("talk"), "nothing of interest\n".repeat(100)).unwrap();
    let output = lane.run(&[]);
    expect_status(&output, 5);
    let said = stderr_of(&output);
    assert!(said.contains("space") || said.contains("full"), "{said}");
    support::process::expect_none_left(lane.work.path());
    let proof = lane.proof();
    let listed = lane.ask(&["proof", "list"]);
    assert!(!listed.contains("passed"), "{listed}");
    if proof.join("seal.json").exists() {
        lane.ask(&["proof", "verify", "latest"]);
    }
    // With space again, the next run is as good as any.
    fs::remove_file(disk.0.join("fill")).unwrap();
    fs::write(
        lane.folder.path().join("lane.toml"),
        fs::read_to_string(lane.folder.path().join("lane.toml")).unwrap().replace("cat /dev/zero", "true"),
    )
    .unwrap();
    expect_status(&lane.run(&[]), 0);
    lane.expect_nothing_left();
    assert!(entries(&disk.0.join("proofs/own")).len() >= 2);
    assert!(!events_of(&proof).iter().any(|event| event["event"]["verdict"] == "passed"));
}
