//! Checkpoints on real machines: forks that are their own, what is damaged or too large, who is killed while one is made,
//! and lanes that go back to where they were.

mod support;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use support::files::until_there_is;
use support::guest_program::{say, write_on};
use support::own_lane::{OwnLane, entries};
use support::{OwnWorkRoot, events_of, expect_status, result_of, stderr_of};

const FORKED: &str = "[networks.lan]\nsubnet = \"10.61.0.0/24\"\n\
    [machines.one]\nstart = \"checkpoint\"\nnetworks = [\"lan\"]\ndisks = [{ name = \"data\", size = \"64MiB\" }]\n\
    [machines.two]\nstart = \"checkpoint\"\nnetworks = [\"lan\"]\n\
    [[steps]]\nexpect = [\"boot\"]\n\
    [[steps]]\nname = \"names\"\nexec = [\"cat\", \"/proc/sys/kernel/hostname\", \"/proc/cmdline\", \"/proc/sys/kernel/random/boot_id\", \"/sys/class/dmi/id/product_serial\", \"/run/bootproof/identity/random-sample\"]\n\
    [[steps]]\nname = \"disk\"\nexec = { argv = [\"cat\", \"/sys/class/block/vda/serial\"], stdout = { equals = \"data\" } }\non = [\"one\"]\n\
    [[steps]]\nname = \"card\"\nexec = { argv = [\"cat\", \"/proc/net/fib_trie\"], stdout = { contains = \"10.61.0.1\" } }\n";

fn events(proof: &Path, kind: &str) -> Vec<serde_json::Value> {
    events_of(proof).into_iter().map(|event| event["event"].clone()).filter(|event| event["kind"] == kind).collect()
}

/// The one checkpoint of a work root.
fn checkpoint(work: &OwnWorkRoot) -> PathBuf {
    let folders: Vec<PathBuf> =
        entries(&work.path().join("checkpoints")).into_iter().filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

fn newest(lane: &OwnLane) -> PathBuf {
    fs::canonicalize(lane.work.path().join("proofs/own/latest")).unwrap()
}

/// What a machine's step of that name has printed.
fn said(proof: &Path, machine: &str) -> Vec<String> {
    let commands = events_of(proof).into_iter().filter(|event| {
        event["event"]["kind"] == "command-finished"
            && event["machine"] == machine
            && event["event"]["argv"].as_array().is_some_and(|argv| argv.len() > 3)
    });
    let file = commands.map(|event| event["event"]["stdout"]["file"].as_str().unwrap().to_owned()).next().unwrap();
    fs::read_to_string(proof.join(file)).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn forks_are_their_own_and_what_is_damaged_is_made_again() {
    let lane = OwnLane::new(FORKED);
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    assert_eq!(result["publishable"], false);
    assert_eq!(result["boots_unseen"], serde_json::json!(["one", "two"]));
    let proof = newest(&lane);
    let (one, two) = (said(&proof, "one"), said(&proof, "two"));
    assert_eq!((one[0].as_str(), two[0].as_str()), ("one", "two"));
    assert!(one[1].contains("bootproof.node=one") && one[1].contains("10.61.0.11/24"), "{}", one[1]);
    assert_eq!(one.len(), two.len());
    for (first, second) in one.iter().zip(&two) {
        assert_ne!(first, second, "no two forks share anything");
    }
    let origin = result["machines"]["one"]["epochs"][0]["origin"].as_str().unwrap();
    let ready = events(&proof, "checkpoint-ready");
    assert_eq!(ready.len(), 1, "both are forked from the same: {ready:?}");
    assert_eq!(ready[0]["made_now"], true);
    assert_eq!(origin, format!("checkpoint:{}", ready[0]["digest"].as_str().unwrap()));
    assert!(proof.join("machines/one/checkpoint-console.raw").metadata().unwrap().len() > 1000);

    // It is used again, and nobody reads gibibytes for that.
    expect_status(&lane.run(&[]), 0);
    let proof = newest(&lane);
    let again = events(&proof, "checkpoint-ready");
    assert_eq!((&again[0]["made_now"], &again[0]["digest"]), (&serde_json::json!(false), &ready[0]["digest"]));
    assert_ne!(said(&proof, "one")[2], one[2], "another run's fork is another machine");

    // One bit of the memory.
    let memory = checkpoint(&lane.work).join("memory");
    let mut file = File::options().read(true).write(true).open(&memory).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(16 << 20)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(16 << 20)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    drop(file);
    expect_status(&lane.run(&[]), 0);
    let proof = newest(&lane);
    assert_eq!(events(&proof, "checkpoint-ready")[0]["made_now"], true);
    let notes = events(&proof, "note");
    assert!(
        notes.iter().any(|note| note["text"].as_str().unwrap().contains("`memory` is not what it was")),
        "{notes:?}"
    );

    // A state that ends early.
    let state = checkpoint(&lane.work).join("state");
    let length = state.metadata().unwrap().len();
    File::options().write(true).open(&state).unwrap().set_len(length / 2).unwrap();
    expect_status(&lane.run(&[]), 0);
    let notes = events(&newest(&lane), "note");
    assert!(notes.iter().any(|note| note["text"].as_str().unwrap().contains("`state` has")), "{notes:?}");

    let listed: serde_json::Value = serde_json::from_str(&lane.ask(&["checkpoint", "list", "--json"])).unwrap();
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 1);
    assert_eq!(listed["checkpoints"][0]["image"], "tiny");
    assert!(lane.ask(&["checkpoint", "prune"]).starts_with("1 removed"));
    assert!(entries(&lane.work.path().join("checkpoints")).iter().all(|path| !path.is_dir()));
    lane.expect_nothing_left();
}

#[test]
fn a_fork_whose_power_was_cut_boots_as_itself() {
    let lane = OwnLane::new(
        "[machines.m]\nstart = \"checkpoint\"\ndisks = [{ name = \"data\", size = \"64MiB\" }]\n\
         [[steps]]\npower = \"cut\"\n[[steps]]\npower = \"on\"\n[[steps]]\nexpect = [\"boot\", \"agent.ready\"]\n\
         [[steps]]\nexec = { argv = [\"cat\", \"/proc/sys/kernel/hostname\", \"/sys/class/block/vda/serial\"], stdout = { matches = \"^m\\ndata\" } }\n",
    );
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    let origins = result["machines"]["m"]["epochs"].as_array().unwrap();
    assert_eq!(origins.len(), 2);
    assert_eq!(origins[1]["origin"], "power-on");
    assert_eq!(result["publishable"], false, "what it began from was not seen all the same");
    lane.expect_nothing_left();
}

#[test]
fn a_cap_that_is_too_small_ends_the_run_or_lets_the_machine_boot() {
    let steps = "[[steps]]\nexpect = [\"boot\"]\n";
    let lane = OwnLane::new(&format!("[machines.m]\nstart = \"checkpoint\"\n{steps}"));
    let output = lane.command(&[]).env("BOOTPROOF_CHECKPOINT_CAP", "1MiB").output().unwrap();
    expect_status(&output, 5);
    assert!(stderr_of(&output).contains("BOOTPROOF_CHECKPOINT_CAP"), "{}", stderr_of(&output));
    let lane = OwnLane::new(&format!("[machines.m]\nstart = \"checkpoint-or-boot\"\n{steps}"));
    let output = lane.command(&[]).env("BOOTPROOF_CHECKPOINT_CAP", "1MiB").output().unwrap();
    expect_status(&output, 0);
    let result = lane.sealed_result();
    assert_eq!(
        (&result["publishable"], &result["machines"]["m"]["epochs"][0]["origin"]),
        (&true.into(), &"power-on".into())
    );
    let reasons = events(&newest(&lane), "checkpoint-unavailable");
    assert!(reasons[0]["reason"].as_str().unwrap().contains("1MiB"), "{reasons:?}");
    let output = lane.command(&[]).env("BOOTPROOF_CHECKPOINT_CAP", "much").output().unwrap();
    assert!(stderr_of(&output).contains("`much`"), "{}", stderr_of(&output));
}

#[test]
fn a_machine_that_can_never_be_forked_boots_where_it_may() {
    let lane = |start: &str| {
        let lane = OwnLane::new(&format!(
            "[failure_patterns]\nsilence = [\"no-bootable-device\"]\n[images.own]\ndisk = {{ path = \"own.raw\" }}\n\
             [machines.m]\nimage = \"own\"\nstart = \"{start}\"\n[[steps]]\nhold = \"1s\"\n"
        ));
        File::create(lane.folder.path().join("own.raw")).unwrap().set_len(1 << 20).unwrap();
        lane
    };
    let may = lane("checkpoint-or-boot");
    expect_status(&may.run(&[]), 0);
    let reasons = events(&newest(&may), "checkpoint-unavailable");
    assert!(reasons[0]["reason"].as_str().unwrap().contains("boot loader"), "{reasons:?}");
    let must = lane("checkpoint");
    let output = must.run(&[]);
    assert!(
        !output.status.success() && stderr_of(&output).contains("cannot have a checkpoint"),
        "{}",
        stderr_of(&output)
    );
}

#[test]
fn whoever_is_killed_while_one_is_made_leaves_nothing_and_two_make_one() {
    let lane = OwnLane::new("[machines.m]\nstart = \"checkpoint\"\n[[steps]]\nexpect = [\"boot\"]\n");
    // Before its memory is there, while it boots, while it is saved, while what was saved is put together.
    for stage in ["checkpoints", "memory", "state", "console.raw"] {
        let mut killed = lane.start(&[]);
        if stage != "checkpoints" {
            killed.until("booting a machine for its checkpoint");
            until_there_is(&lane.work.path().join("checkpoints"), stage);
        } else {
            until_there_is(lane.work.path(), stage);
        }
        killed.kill();
        support::process::expect_none_left(lane.work.path());
        let there = lane.ask(&["checkpoint", "list"]);
        assert!(there.is_empty(), "killed at `{stage}` it left {there}");
    }
    let mut first = lane.start(&[]);
    first.until("booting a machine for its checkpoint");
    let second = lane.start(&[]);
    let (first, second) = (first.expect(0), second.expect(0));
    assert!(first.contains("checkpoint of tiny made"), "{first}");
    assert!(
        second.contains("waiting for another bootproof") && second.contains("checkpoint of tiny ready"),
        "{second}"
    );
    let left = entries(&lane.work.path().join("checkpoints"));
    assert!(left.iter().all(|path| path.extension().is_none_or(|extension| extension != "making")), "{left:?}");
    checkpoint(&lane.work);
    lane.expect_nothing_left();
}

const DEVICES: &str = "networks = [\"lan\", \"wan\"]\n\
    disks = [{ name = \"data\", size = \"64KiB\" }, { name = \"more\", size = \"128KiB\" }]\n";

/// A lane that writes, saves, writes again and goes back.
fn goes_back(machine: &str) -> String {
    let say = say().display();
    let put = |what: &str| {
        format!(
            "[[steps]]\nname = \"put-{what}\"\ncopy = {{ from = \"{what}\", to = \"guest:/tmp/note\" }}\n\
             [[steps]]\nname = \"write-{what}\"\nexec = [\"/tmp/say\", \"/dev/vda\", \"/tmp/note\", \"1\"]\n\
             [[steps]]\nname = \"write-other-{what}\"\nexec = [\"/tmp/say\", \"/dev/vdb\", \"/tmp/note\", \"1\"]\n"
        )
    };
    let holds = |step: &str, what: &str| {
        format!(
            "[[steps]]\nname = \"{step}-memory\"\nexec = {{ argv = [\"cat\", \"/tmp/note\"], stdout = {{ contains = \"{what}\" }} }}\n\
             [[steps]]\nname = \"{step}-disk\"\nexec = {{ argv = [\"cat\", \"/dev/vda\"], stdout = {{ contains = \"{what}\" }} }}\n\
             [[steps]]\nname = \"{step}-other\"\nexec = {{ argv = [\"cat\", \"/dev/vdb\"], stdout = {{ contains = \"{what}\" }} }}\n"
        )
    };
    [
        "[networks.lan]\nsubnet = \"10.62.0.0/24\"\n[networks.wan]\nsubnet = \"10.63.0.0/24\"\n".to_owned(),
        format!("[machines.a]\n{DEVICES}{machine}"),
        format!("[machines.b]\n{DEVICES}{machine}"),
        "[[steps]]\nexpect = [\"agent.ready\"]\nwithin = \"90s\"\n".into(),
        format!("[[steps]]\nname = \"program\"\ncopy = {{ from = \"{say}\", to = \"guest:/tmp/say\" }}\n"),
        put("before"),
        "[[steps]]\ncheckpoint = \"here\"\n".into(),
        put("after"),
        holds("now", "after"),
        "[[steps]]\nrestore = \"here\"\n".into(),
        holds("then", "before"),
        "[[steps]]\nname = \"drawn\"\nexec = [\"cat\", \"/run/bootproof/identity/random-sample\"]\n".into(),
        // As often as one likes.
        "[[steps]]\nname = \"again\"\nrestore = \"here\"\n".into(),
        holds("again", "before"),
        "[[steps]]\nname = \"drawn-again\"\nexec = [\"cat\", \"/run/bootproof/identity/random-sample\"]\n".into(),
        "[[steps]]\nname = \"card\"\nexec = { argv = [\"cat\", \"/proc/net/fib_trie\"], stdout = { matches = \"(?s)10.62.0.1.*10.63.0.1\" } }\n".into(),
    ]
    .concat()
}

fn restores(machine: &str) {
    let lane = OwnLane::new(&goes_back(machine));
    for word in ["before", "after"] {
        fs::write(lane.folder.path().join(word), format!("{word}\n")).unwrap();
    }
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    assert_eq!(result["publishable"], true, "the run has seen them boot");
    for name in ["a", "b"] {
        let epochs = result["machines"][name]["epochs"].as_array().unwrap();
        let origins: Vec<_> = epochs.iter().map(|epoch| epoch["origin"].as_str().unwrap()).collect();
        assert_eq!(origins, ["power-on", "restore:here", "restore:here"]);
    }
    let proof = newest(&lane);
    let saved = events(&proof, "checkpoint-saved");
    assert_eq!(saved[0]["machines"], serde_json::json!(["a", "b"]));
    let samples: Vec<String> = result["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["name"].as_str().unwrap().starts_with("drawn"))
        .flat_map(|step| step["commands"].as_array().unwrap().clone())
        .map(|command| fs::read_to_string(proof.join(command["stdout"]["file"].as_str().unwrap())).unwrap())
        .collect();
    assert_eq!(samples.len(), 4);
    let distinct: std::collections::BTreeSet<_> = samples.iter().collect();
    assert_eq!(distinct.len(), 4, "who goes back twice does not draw the same twice: {samples:?}");
    lane.expect_nothing_left();
}

#[test]
fn machines_with_disks_and_a_network_go_back_to_where_they_were() {
    restores("");
}

#[test]
fn machines_with_uefi_go_back_too() {
    if !Path::new("/usr/share/OVMF").exists() && std::env::var_os("BOOTPROOF_OVMF_CODE").is_none() {
        eprintln!("skipped: there is no OVMF firmware on this host");
        return;
    }
    restores("firmware = \"uefi\"\n");
}

#[test]
fn a_clock_that_is_wrong_on_purpose_is_wrong_after_a_restore_too() {
    let lane = OwnLane::new(
        "[machines.m]\nclock = \"-365d\"\n[[steps]]\nexpect = [\"agent.ready\"]\n[[steps]]\ncheckpoint = \"here\"\n\
         [[steps]]\nrestore = \"here\"\n[[steps]]\nname = \"time\"\nexec = [\"cat\", \"/proc/stat\"]\n",
    );
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    let step = result["steps"].as_array().unwrap().iter().find(|step| step["name"] == "time").unwrap();
    let said = fs::read_to_string(newest(&lane).join(step["commands"][0]["stdout"]["file"].as_str().unwrap())).unwrap();
    // When it booted, by its own clock.
    let booted = said.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse::<u64>().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((364..366).contains(&((now - booted) / 86_400)), "{booted}, {now}");
}

#[test]
fn what_nobody_can_save_is_refused_and_the_machine_goes_on() {
    if !std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|p| p.join("nbdkit").exists())) {
        eprintln!("skipped: `nbdkit` was not found");
        return;
    }
    let lane = OwnLane::new(
        "[machines.m]\ndisks = [{ name = \"data\", size = \"64MiB\", write_cache = \"volatile\" }]\n\
         [[steps]]\nexpect = [\"agent.ready\"]\n\
         [[steps]]\nname = \"save\"\ncheckpoint = \"here\"\ngate = { name = \"saved\", hard = false }\n\
         [[steps]]\nname = \"goes-on\"\nalways = true\nexec = [\"true\"]\n",
    );
    lane.run(&[]);
    let result = result_of(&newest(&lane));
    let steps = result["steps"].as_array().unwrap();
    let outcome = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap()["outcome"].clone();
    assert_eq!((outcome("save"), outcome("goes-on")), ("failed".into(), "passed".into()), "{result}");
    let message = result["failures"][0]["message"].as_str().unwrap();
    assert!(message.contains("`data`") && message.contains("cache"), "{message}");
}

#[test]
fn a_checkpoint_in_the_midst_of_writes_loses_nothing_that_was_flushed() {
    let write_on = write_on().display();
    let number = |step: &str, file: &str| {
        format!(
            "[[steps]]\nname = \"{step}\"\nexec = {{ argv = [\"cat\", \"{file}\"], stdout = {{ matches = \"^0\" }} }}\n"
        )
    };
    let lane = OwnLane::new(
        &[
            "[machines.m]\ndisks = [{ name = \"data\", size = \"4KiB\" }]\n[[steps]]\nexpect = [\"agent.ready\"]\n".to_owned(),
            format!("[[steps]]\nname = \"program\"\ncopy = {{ from = \"{write_on}\", to = \"guest:/tmp/write-on\" }}\n"),
            "[[steps]]\nname = \"begins\"\nexec = [\"/tmp/write-on\", \"/dev/vda\", \"/tmp/flushed\"]\n".into(),
            number("flushed-before", "/tmp/flushed"),
            "[[steps]]\ncheckpoint = \"here\"\n".into(),
            number("flushed-after", "/tmp/flushed"),
            "[[steps]]\nrestore = \"here\"\n".into(),
            number("flushed-then", "/tmp/flushed"),
            "[[steps]]\npower = \"cut\"\n[[steps]]\npower = \"on\"\n[[steps]]\nname = \"again\"\nexpect = [\"agent.ready\"]\n".into(),
            number("on-the-disk", "/dev/vda"),
        ]
        .concat(),
    );
    expect_status(&lane.run(&[]), 0);
    let (result, proof) = (lane.sealed_result(), newest(&lane));
    let number = |name: &str| -> u64 {
        let step = result["steps"].as_array().unwrap().iter().find(|step| step["name"] == name).unwrap();
        let file = step["commands"][0]["stdout"]["file"].as_str().unwrap();
        fs::read_to_string(proof.join(file)).unwrap().lines().next().unwrap().trim().parse().unwrap()
    };
    let (before, after, then) = (number("flushed-before"), number("flushed-after"), number("flushed-then"));
    assert!(before < after, "it goes on after it was saved: {before}, {after}");
    assert!(before <= then, "what was flushed before is there: {before}, {then}");
    assert!(
        then <= number("on-the-disk"),
        "it goes on writing, and its disk has it: {then}, {}",
        number("on-the-disk")
    );
    lane.expect_nothing_left();
}

#[test]
fn a_machine_that_dies_while_it_is_saved_ends_the_run() {
    let lane = OwnLane::new(
        // So much memory that there is time to die.
        "[machines.m]\nmemory = \"3GiB\"\n[[steps]]\nexpect = [\"agent.ready\"]\n[[steps]]\nname = \"save\"\ncheckpoint = \"here\"\n",
    );
    let running = lane.start(&[]);
    let runs = until_there_is(lane.work.path(), "runs");
    until_there_is(&runs, "state");
    for qemu in lane.work.qemus() {
        kill_process(Pid::from_raw(i32::try_from(qemu).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    let said = running.end().2;
    assert!(said.contains("infrastructure own"), "{said}");
    assert!(
        said.contains("the machine cannot be saved") || said.contains("ended while the machine was saved"),
        "{said}"
    );
    lane.expect_nothing_left();
}
