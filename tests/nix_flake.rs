//! The flake's library, tried by a flake that needs no nixpkgs: a real image out of a real Nix, in lanes, as users come to
//! them. And this project's own flake, evaluated against a nixpkgs where one is at hand.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bootproof::image::{Boot, ImageRequest, ImageStore, Silent};
use serde_json::Value;
use support::nix::Nix;
use support::{expect_status, stderr_of, stdout_of};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The fixture with what it is made of beside it, and a Nix of its own.
struct Fixture {
    nix: Nix,
    folder: PathBuf,
}

impl Fixture {
    fn new() -> Option<Self> {
        let nix = Nix::new()?;
        let folder = nix.path("flake");
        copy_tree(&project().join("tests/fixtures/flake"), &folder);
        copy_tree(&project().join("nix/lib"), &folder.join("lib"));
        let parts = folder.join("parts");
        fs::create_dir(&parts).unwrap();
        let (kernel, initramfs) = tiny();
        fs::copy(kernel, parts.join("kernel")).unwrap();
        fs::copy(initramfs, parts.join("initramfs")).unwrap();
        // Without what a debugger needs: the store holds several copies of it.
        let program = parts.join("bootproof");
        fs::copy(env!("CARGO_BIN_EXE_bootproof"), &program).unwrap();
        expect_status(&Command::new("strip").arg(&program).output().unwrap(), 0);
        fs::copy(bootproof::image::agent_binary().unwrap(), parts.join("bootproof-agent")).unwrap();
        Some(Self { nix, folder })
    }

    fn reference(&self, attribute: &str) -> String {
        format!("path:{}#{attribute}", self.folder.display())
    }

    /// `nix`, in an empty folder, where whoever runs it would find `work` and `result` afterwards.
    fn nix(&self, here: &Path, arguments: &[&str]) -> Output {
        let mut command = self.nix.command(arguments);
        command.current_dir(here).env_remove("BOOTPROOF_WORK_ROOT").env_remove("BOOTPROOF_AGENT");
        command.output().unwrap()
    }

    fn here(&self, name: &str) -> PathBuf {
        let here = self.nix.path(name);
        fs::create_dir(&here).unwrap();
        // How the host's accelerator was proven is no part of this test.
        fs::create_dir(here.join("work")).unwrap();
        std::os::unix::fs::symlink(support::work_root().join("host"), here.join("work/host")).unwrap();
        here
    }
}

/// Kernel and initramfs of the built-in image.
fn tiny() -> (PathBuf, PathBuf) {
    let store = ImageStore::open(&support::work_root(), project()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = ImageRequest::tiny(project().into());
    let image = runtime.block_on(store.ensure(&request, Arc::new(Silent).as_ref(), Default::default())).unwrap();
    match image.boot {
        Boot::Kernel { kernel, initramfs, .. } => (kernel, initramfs),
        other => panic!("`tiny` boots by {other:?}"),
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

#[test]
fn a_flake_without_nixpkgs_runs_builds_and_checks_its_lanes() {
    let Some(fixture) = Fixture::new() else { return };

    // An app: `nix run`. Options of bootproof pass through.
    let here = fixture.here("app");
    let run = fixture.nix(&here, &["run", &fixture.reference("boots"), "--", "--json"]);
    expect_status(&run, 0);
    let result: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result["verdict"], "passed");
    let proof = here.join("work/proofs/boots/latest");
    let environment = json(&proof.join("environment.json"));
    assert_ne!(environment["execution_model"], "materialized-check-runner");
    assert_eq!(environment["images"]["node"]["source"], "nix");
    let failed = fixture.nix(
        &here,
        &["run", &fixture.reference("boots"), "--", "--set", "steps.built-by-nix.exec.stdout.equals=nobody"],
    );
    expect_status(&failed, 1);

    // A runner that is built: `nix build .#checks...`, then `result/bin/boots-e2e OUTPUT`.
    let here = fixture.here("runner");
    expect_status(&fixture.nix(&here, &["build", &fixture.reference("checks.x86_64-linux.boots-e2e")]), 0);
    let runner = here.join("result/bin/boots-e2e");
    let ran = fixture.nix.surround(Command::new(&runner).arg("my-proof").current_dir(&here)).output().unwrap();
    expect_status(&ran, 0);
    let environment = json(&here.join("my-proof/environment.json"));
    assert_eq!(environment["execution_model"], "materialized-check-runner");
    let verified = support::bootproof().args(["proof", "verify"]).arg(here.join("my-proof")).output().unwrap();
    expect_status(&verified, 0);
    assert!(here.join("work/proofs/boots/latest/seal.json").exists());
    let again = fixture.nix.surround(Command::new(&runner).arg("my-proof").current_dir(&here)).output().unwrap();
    expect_status(&again, 2);
    assert!(stderr_of(&again).contains("is there already"), "{}", stderr_of(&again));
    let help = fixture.nix.surround(Command::new(&runner).arg("--help")).output().unwrap();
    assert!(stdout_of(&help).contains("usage: boots-e2e [OUTPUT]"), "{}", stdout_of(&help));

    // All checks: `nix flake check`, and the proof that the sandboxed one judged.
    let here = fixture.here("check");
    let flake = format!("path:{}", fixture.folder.display());
    expect_status(&fixture.nix(&here, &["flake", "check", &flake]), 0);
    expect_status(&fixture.nix(&here, &["build", &fixture.reference("boots-proof")]), 0);
    let environment = json(&here.join("result/environment.json"));
    assert_eq!(environment["execution_model"], "sandboxed-check");
    let verified = support::bootproof().args(["proof", "verify"]).arg(here.join("result/")).output().unwrap();
    expect_status(&verified, 0);

    // A lane that fails: its proof is built all the same, its check is not, and says what to do.
    let here = fixture.here("broken");
    expect_status(&fixture.nix(&here, &["build", &fixture.reference("broken-proof")]), 0);
    let result = json(&here.join("result/result.json"));
    assert_eq!(result["verdict"], "failed");
    let proof = fs::canonicalize(here.join("result")).unwrap();
    let checked = fixture.nix(&here, &["build", "--print-build-logs", &fixture.reference("broken-sandboxed")]);
    assert!(!checked.status.success());
    let said = stderr_of(&checked);
    assert!(said.contains(&format!("nix store delete {}", proof.display())), "{said}");
    assert!(said.contains("built-by-nix"), "{said}");

    // What a continuous integration service is told.
    let matrix = fixture.nix(&here, &["eval", "--json", &fixture.reference("lib.matrix")]);
    expect_status(&matrix, 0);
    let matrix: Value = serde_json::from_slice(&matrix.stdout).unwrap();
    assert_eq!(matrix["include"][0]["attribute"], "checks.x86_64-linux.formatting");
    assert_eq!(matrix["include"][1]["attribute"], "checks.x86_64-linux.boots-e2e");
    assert_eq!(matrix["include"][1]["tier"], "single");

    let shown = fixture.nix(&here, &["flake", "show", &flake]);
    expect_status(&shown, 0);
    assert!(stdout_of(&shown).contains("boots-e2e"), "{}", stdout_of(&shown));
}

/// Evaluates an expression with bootproof's library in scope as `library`.
fn evaluate(nix: &Nix, expression: &str) -> Output {
    let expression = format!("let library = import {}/nix/lib; in {expression}", project().display());
    nix.command(&["eval", "--impure", "--json", "--expr", &expression]).output().unwrap()
}

#[test]
fn a_cluster_is_rendered_whole_or_refused_in_sentences() {
    let Some(nix) = Nix::new() else { return };
    let sound = evaluate(
        &nix,
        r#"(library.mkCluster {
            name = "demo"; subnet = "10.20.0.0/24";
            classes.control-plane = { disk.by_id = "virtio-system"; desired_system = "v1"; };
            classes.worker.disk.by_id = "virtio-system";
            systems.v1.store_path = "/nix/store/system";
            nodes.node01 = { role = "control-plane"; address = "10.20.0.11"; };
            nodes.node02 = { role = "worker"; address = "10.20.0.12"; match.mac = "52:54:00:00:00:02"; };
        }).state"#,
    );
    expect_status(&sound, 0);
    let state: Value = serde_json::from_slice(&sound.stdout).unwrap();
    // The program reads it.
    let text = stdout_of(&sound);
    bootproof::deployer::ClusterState::parse(&text, Path::new("cluster.json")).unwrap();
    assert_eq!(state["nodes"]["node01"]["role"], "control-plane");
    assert_eq!(state["deployer"]["nodes"]["node01"]["match"]["serial"], "node01");
    assert_eq!(state["deployer"]["nodes"]["node02"]["match"]["mac"], "52:54:00:00:00:02");
    assert_eq!(state["deployer"]["classes"]["control-plane"]["desired_system"], "v1");

    let wrong = evaluate(
        &nix,
        r#"(library.mkCluster {
            name = "demo"; subnet = "10.20.0.0/24"; colour = "red";
            classes.control-plane.desired_system = "v2";
            systems.v1.store_path = "/nix/store/system";
            nodes.node01 = { role = "control-plane"; address = "10.20.0.11"; match.serial = "one"; };
            nodes.node02 = { role = "boss"; address = "10.20.0.300"; match.serial = "one"; };
            nodes.node03 = { role = "control-plane"; address = "10.20.1.3"; };
            nodes."Node 4" = { address = "10.20.0.11"; class = "control-plane"; };
        }).json"#,
    );
    expect_status(&wrong, 1);
    let said = stderr_of(&wrong);
    for sentence in [
        "the cluster has the unknown key `colour`",
        "node `node02`: there is no role `boss`; roles are `control-plane`, `worker`, `client`",
        "node `node02`: `10.20.0.300` is not an IPv4 address",
        "node `node03`: `10.20.1.3` is no node's address in `10.20.0.0/24`",
        "node `Node 4`: a node's name has lower-case letters",
        "node `Node 4`: it has no `role`",
        "class `control-plane`: there is no system `v2`; systems are `v1`",
        "the nodes `Node 4`, `node01` have the same address",
        "the nodes `node01`, `node02` have the same serial number, `one`",
        "2 nodes have the role `control-plane`: an even number survives no more losses",
    ] {
        assert!(said.contains(sentence), "`{sentence}` is not in:\n{said}");
    }
}

#[test]
fn what_the_library_is_not_given_is_told() {
    let Some(nix) = Nix::new() else { return };
    for (expression, sentence) in [
        ("library.mkLane { }", "one of `file` and `document` has to be there"),
        ("(library.mkLane { document = { }; }).name", "the lane has no `lane.name`"),
        (
            r#"(library.mkRunner { lane = library.mkLane { document.lane.name = "x"; }; tools = { system = "x"; }; }).outPath"#,
            "`tools` lacks shell, path, bootproof",
        ),
    ] {
        let output = evaluate(&nix, expression);
        expect_status(&output, 1);
        assert!(stderr_of(&output).contains(sentence), "{}", stderr_of(&output));
    }
}

/// The library reads the same lanes as the program.
#[test]
fn the_lanes_of_the_flake_are_those_of_the_profiles() {
    let Some(nix) = Nix::new() else { return };
    let expression = format!("builtins.attrNames (library.lanesOf (library.readProfiles {}))", project().display());
    let output = evaluate(&nix, &expression);
    expect_status(&output, 0);
    let of_nix: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    let listed = support::bootproof().args(["lane", "list", "--json"]).output().unwrap();
    expect_status(&listed, 0);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let mut of_program: Vec<&str> =
        listed.as_array().unwrap().iter().map(|lane| lane["name"].as_str().unwrap()).collect();
    of_program.sort_unstable();
    assert_eq!(of_nix, of_program);
}

fn nix_files() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "*.nix"]).current_dir(project()).output().unwrap();
    expect_status(&listed, 0);
    let files: Vec<PathBuf> = stdout_of(&listed).lines().map(|name| project().join(name)).collect();
    assert!(files.len() > 20, "{files:?}");
    files
}

#[test]
fn nix_files_are_formatted_as_nixfmt_does() {
    for path in nix_files() {
        let text = fs::read_to_string(&path).unwrap();
        let formatted = nixfmt_rs::format(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text == formatted, "`{}` is not formatted: run `nixfmt` on it", path.display());
    }
}

#[test]
fn nix_files_parse() {
    let Some(nix) = Nix::new() else { return };
    for path in nix_files() {
        let mut command = Command::new("nix-instantiate");
        let parsed = nix.surround(command.arg("--parse").arg(&path)).output().unwrap();
        expect_status(&parsed, 0);
    }
}

/// With `BOOTPROOF_NIXPKGS=DIR`: every output, NixOS systems and images included, has a derivation.
#[test]
fn every_output_evaluates_against_a_given_nixpkgs() {
    let Some(nix) = Nix::new() else { return };
    let Some(nixpkgs) = std::env::var_os("BOOTPROOF_NIXPKGS").map(PathBuf::from) else {
        println!("skipped: BOOTPROOF_NIXPKGS names no folder with a nixpkgs");
        return;
    };
    let release = fs::read_to_string(nixpkgs.join(".version")).unwrap().trim().to_owned();
    let list: toml::Table =
        fs::read_to_string(project().join("tests/fixtures/skipped-outputs.toml")).unwrap().parse().unwrap();
    let mut skipped = Vec::new();
    for output in list["output"].as_array().unwrap() {
        if output["releases"].as_array().unwrap().iter().any(|known| known.as_str() == Some(&release)) {
            println!("skipped with {release}: {} ({})", output["attribute"], output["reason"].as_str().unwrap());
            skipped.push(output["attribute"].to_string());
        }
    }
    // What git has, as Nix itself would copy it.
    let flake = nix.path("project");
    let prefix = format!("--prefix={}/", flake.display());
    let copied = Command::new("git").args(["checkout-index", "-a", &prefix]).current_dir(project()).output().unwrap();
    expect_status(&copied, 0);
    let began = std::time::Instant::now();
    let mut command = Command::new("nix-instantiate");
    command.args(["--eval", "--strict", "--json"]).arg(flake.join("tests/fixtures/evaluate.nix"));
    command.arg("--arg").arg("flake").arg(&flake).arg("--arg").arg("nixpkgs").arg(&nixpkgs);
    command.args(["--arg", "skipped", &format!("[ {} ]", skipped.join(" "))]);
    let evaluated = nix.surround(&mut command).output().unwrap();
    expect_status(&evaluated, 0);
    let outputs: serde_json::Map<String, Value> = serde_json::from_slice(&evaluated.stdout).unwrap();
    println!(
        "{} outputs evaluated against nixpkgs {release}, {} skipped, in {:.0?}",
        outputs.len(),
        skipped.len(),
        began.elapsed()
    );
    let systems = outputs.keys().filter(|name| name.starts_with("nixosConfigurations.")).count();
    assert!(systems >= 6 && outputs.len() > 30, "{:?}", outputs.keys());
    for (name, path) in &outputs {
        assert!(path.as_str().unwrap().contains("/store/"), "{name}: {path}");
    }
}

#[test]
fn scripts_of_the_project_can_be_executed() {
    for name in [".ci/run", "scripts/install-prerequisites", "scripts/check-rust"] {
        let mode = fs::metadata(project().join(name)).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "`{name}` is not executable");
    }
}
