//! `bootproof lane` as a user meets it: the command, its output and its exit status.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str =
    "version = 1\n[lane]\nname = \"good\"\nsummary = \"good\"\n[machines.node01]\n[[steps]]\nexpect = [\"boot\"]\n";

fn bootproof(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootproof"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("BOOTPROOF_PROJECT_ROOT")
        .output()
        .expect("the command starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_refused(folder: &Path, arguments: &[&str], reason: &str) {
    let output = bootproof(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains(reason), "{}", said(&output));
    assert!(said(&output).starts_with("error: "), "{}", said(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_new_lane_is_valid_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let output = bootproof(folder.path(), &["lane", "new", "first"]);
    assert!(output.status.success(), "{}", said(&output));
    let written = fs::read_to_string(folder.path().join("first.toml")).unwrap();
    assert!(!written.contains("NAME") && !written.contains("SCHEMA"), "{written}");
    assert!(bootproof(folder.path(), &["lane", "check", "./first.toml"]).status.success());
    assert_refused(folder.path(), &["lane", "new", "first"], "it is there already");
    assert_eq!(fs::read_to_string(folder.path().join("first.toml")).unwrap(), written);
    assert_refused(folder.path(), &["lane", "new", "Not A Name"], "cannot be a lane's name");
    assert_refused(folder.path(), &["lane", "new", "../elsewhere"], "cannot be a lane's name");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_no_lane_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("folder.toml")).unwrap();
    fs::write(path.join("bytes.toml"), b"version = 1\n\xff\xfe").unwrap();
    fs::write(path.join("huge.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_refused(path, &["lane", "check", "folder.toml"], "it is a directory");
    assert_refused(path, &["lane", "check", "./missing.toml"], "No such file");
    assert_refused(path, &["lane", "check", "bytes.toml"], "line 2 is not UTF-8");
    assert_refused(path, &["lane", "check", "huge.toml"], "more than 1024 KiB");
    assert_refused(path, &["lane", "check", "/dev/zero/../zero.toml"], "failed to read the lane");
    assert_refused(path, &["lane", "check", "nowhere"], "there is no lane `nowhere`");
}

#[test]
fn a_device_without_an_end_is_read_only_so_far() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.toml")).unwrap();
    assert_refused(folder.path(), &["lane", "check", "zero.toml"], "more than 1024 KiB");
}

#[test]
fn errors_of_several_files_are_all_told_without_colour() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("good.toml"), GOOD).unwrap();
    fs::write(path.join("one.toml"), GOOD.replace("summary", "sumary")).unwrap();
    fs::write(path.join("two.json"), "{}").unwrap();
    let output = bootproof(path, &["lane", "check", "good.toml", "one.toml", "two.json"]);
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    assert!(said.contains("--> one.toml:4:1") && said.contains("--> two.json:1:1"), "{said}");
    assert!(said.contains("did you mean `summary`?") && !said.contains('\x1b'), "{said}");
    let output = bootproof(path, &["lane", "check", "good.toml"]);
    assert!(output.status.success());
    assert_eq!(self::said(&output), "1 lane is valid\n");
    assert_eq!(self::said(&bootproof(path, &["--quiet", "lane", "check", "good.toml"])), "");
}

/// `profiles/` with one profile and one lane that fit.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lanes = folder.path().join("profiles/base/lanes");
    fs::create_dir_all(&lanes).unwrap();
    fs::write(lanes.join("good.toml"), GOOD.replace("summary", "profile = \"base\"\nsummary")).unwrap();
    fs::write(
        folder.path().join("profiles/base/profile.toml"),
        "version = 1\n[profile]\nname = \"base\"\nsummary = \"s\"\nentry_points = [\"x\"]\nlanes = [\"good\"]\n",
    )
    .unwrap();
    folder
}

#[test]
fn lanes_are_found_by_name_from_anywhere_in_the_project() {
    let project = project();
    let below = project.path().join("profiles/base");
    let output = bootproof(&below, &["lane", "list", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let lanes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lanes[0]["name"], "good");
    assert_eq!(lanes[0]["path"], "profiles/base/lanes/good.toml");
    let output = bootproof(&below, &["lane", "show", "good", "--json", "--set", "machines.node01.memory=1GiB"]);
    let lane: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lane["machines"]["node01"]["memory"], "1GiB");
    assert_refused(&below, &["lane", "show", "god"], "did you mean `good`?");
    assert_refused(&below, &["lane", "show", "good", "--control", "x"], "no control `x`");
    assert_eq!(said(&bootproof(&below, &["lane", "check", "--all"])), "1 lane is valid\n");
}

#[test]
fn lanes_and_profiles_that_do_not_fit_are_told() {
    let project = project();
    let lanes = project.path().join("profiles/base/lanes");
    fs::write(lanes.join("stray.toml"), GOOD).unwrap();
    fs::write(lanes.join("other.toml"), GOOD.replace("\"good\"\ns", "\"other\"\nprofile = \"elsewhere\"\ns")).unwrap();
    fs::write(lanes.join("broken.toml"), "version = 1\n").unwrap();
    fs::create_dir_all(project.path().join("profiles/empty")).unwrap();
    let output = bootproof(project.path(), &["lane", "check", "--all"]);
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    for part in [
        "is called `good`",
        "says that its profile is `elsewhere`",
        "the key `lane` is missing",
        "the lane `stray` is in `lanes/`, and this profile does not list it",
        "failed to read the profile `profiles/empty/profile.toml`",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let output = bootproof(project.path(), &["lane", "list"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("not valid: see `bootproof lane check broken`"));
}

#[test]
fn a_project_without_lanes_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = bootproof(folder.path(), &["lane", "list"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(said(&output).contains("no lanes below"));
    assert_refused(folder.path(), &["lane", "check", "--all"], "no lanes are below");
    assert_eq!(bootproof(folder.path(), &["lane", "check"]).status.code(), Some(2));
}

#[test]
fn a_plan_is_made_without_starting_or_building_anything() {
    let work = tempfile::tempdir().unwrap();
    let work_root = work.path().join("work");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan = |arguments: &[&str]| {
        let mut all = vec!["--work-root", work_root.to_str().unwrap(), "plan"];
        all.extend(arguments);
        bootproof(root, &all)
    };
    let output = plan(&["quickstart", "--accel", "tcg", "--set", "machines.node01.memory=2GiB", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let planned: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(planned["lane"]["machines"]["node01"]["memory"], "2GiB");
    assert_eq!(planned["images"]["node"]["source"], "debian");
    assert_eq!(planned["images"]["node"]["present"], false);
    assert_eq!(planned["accelerator"]["mode"], "tcg");
    assert_eq!(planned["step_deadlines"].as_array().unwrap().len(), planned["lane"]["steps"].as_array().unwrap().len());
    let again = plan(&["quickstart", "--accel", "tcg", "--set", "machines.node01.memory=2GiB", "--json"]);
    assert_eq!(again.stdout, output.stdout, "the same lane and host give the same plan");

    let output = plan(&["quickstart", "--images", "nix", "--control", "kv-down"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("control      kv-down: must fail at kv-healthy"), "{text}");
    assert!(text.contains("node  nix  "), "{text}");
    let output = plan(&["quickstart", "--set", "machines.node01.memory=much"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--> --set:1:24"), "{}", said(&output));
}
