//! The guards find what is planted for each of their rules, allow what the list allows and no longer, and find nothing in
//! this project.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use support::{expect_status, stderr_of, stdout_of};
use tempfile::TempDir;

const PROFILE: &str = r#"version = 1
[profile]
name = "one"
summary = "one of them"
entry_points = ["bootproof run first", "make quick"]
lanes = ["first"]
[components.agent]
required = true
executable = "/init"
"#;

const LANE: &str = "version = 1\n[lane]\nname = \"first\"\nprofile = \"one\"\nsummary = \"one\"\n\
                    [machines.m]\n[[steps]]\nexpect = [\"boot\"]\n";

/// A project that no guard has anything against.
struct Project(TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.write("profiles/one/profile.toml", PROFILE);
        project.write("profiles/one/lanes/first.toml", LANE);
        project.write("Makefile", "quick:\n\ttrue\n");
        project.write("src/lib.rs", "pub fn one() -> u8 {\n    1\n}\n");
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn profile(&self, from: &str, to: &str) {
        assert!(PROFILE.contains(from));
        self.write("profiles/one/profile.toml", &PROFILE.replace(from, to));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
        command.arg("guard").args(arguments).current_dir(self.0.path());
        for name in ["BOOTPROOF_PROJECT_ROOT", "BOOTPROOF_WORK_ROOT", "GITHUB_ACTIONS"] {
            command.env_remove(name);
        }
        command
    }

    fn guard(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The guard finds something, and its lines on standard output say all of this.
    #[track_caller]
    fn finds(&self, guard: &str, told: &[&str]) {
        let output = self.guard(&[guard]);
        expect_status(&output, 1);
        for told in told {
            assert!(stdout_of(&output).contains(told), "`{told}` is not in:\n{}", stdout_of(&output));
        }
    }

    #[track_caller]
    fn is_clean(&self, guard: &str) {
        expect_status(&self.guard(&[guard]), 0);
    }
}

/// Text that this file itself must not hold in one piece is written with a `~` in it.
fn planted(text: &str) -> String {
    text.replace('~', "")
}

#[test]
fn a_project_without_fault_is_clean() {
    let project = Project::new();
    for guard in ["surface", "eval", "build"] {
        project.is_clean(guard);
    }
    let output = project.guard(&["eval"]);
    let last = stdout_of(&output);
    assert_eq!(last, "guard eval: nothing found in 1 components, 2 entry points, 1 lanes, 1 profiles\n");
}

#[test]
fn everything_unfinished_is_found_with_its_place() {
    for (file, text, told) in [
        ("src/lib.rs", "fn a() {\n    to~do!()\n}\n", "src/lib.rs:2:5: unfinished-code: code is missing: `todo!`"),
        ("src/lib.rs", "fn a() { un~implemented!(\"x\") }\n", "src/lib.rs:1:10: unfinished-code:"),
        ("src/lib.rs", "fn a() { \"open\n", "src/lib.rs:1:1: unfinished-code: this cannot be read as Rust"),
        ("nix/a.nix", "{\n  a = 1; # TO~DO: two\n}\n", "nix/a.nix:2:12: open-task: an open task: `TODO`"),
        ("scripts/a", "#!/bin/sh\necho 'é FIX~ME'\n", "scripts/a:2:9: open-task:"),
        (".github/workflows/a.yml", "# TB~D\n", ".github/workflows/a.yml:1:3: open-task:"),
        ("README.md", "x\n\nA release is\ncoming~\nsoon.\n", "README.md:4:1: unfinished-wording:"),
        ("docs/a.md", "This is not yet\nimple~mented.\n", "docs/a.md:1:9: unfinished-wording:"),
        ("templates/a/flake.nix", "\"lorem~ ipsum\"", "templates/a/flake.nix:1:2: unfinished-wording:"),
        ("src/a.rs", "// gives a dummy~ answer\n", "src/a.rs:1:12: stub-answer:"),
        ("nix/b.nix", "hash = lib.fake~Hash;", "nix/b.nix:1:8: stub-answer:"),
    ] {
        let project = Project::new();
        project.write(file, &planted(text));
        project.finds("surface", &[&planted(told), "guard surface: 1 finding in"]);
        // What is not shipped is nobody's business, and what is ignored is not the project's.
        project.write("profiles/guards.toml", &format!("version = 1\n[surface]\ninternal = [\"{file}\"]\n"));
        project.is_clean("surface");
        fs::remove_file(project.0.path().join("profiles/guards.toml")).unwrap();
        project.write(".gitignore", file);
        project.is_clean("surface");
    }
}

#[test]
fn archived_helpers_do_not_come_back() {
    let archived = format!(
        "{PROFILE}\n[archived_helpers.\"scripts/run-*.sh\"]\nreason = \"it slept\"\nreplaced_by = \"make quick\"\n\
         [archived_helpers.\"make slow\"]\nreason = \"slow\"\nreplaced_by = \"make quick\"\npattern = \"SLOW_[A-Z]+\"\n\
         [archived_helpers.\"old-tool\"]\nreason = \"old\"\nreplaced_by = \"make quick\"\n"
    );
    for (file, text, told) in [
        ("scripts/run-it.sh", "", "scripts/run-it.sh:1:1: archived-helper:"),
        ("tests/old-tool", "", "tests/old-tool:1:1: archived-helper:"),
        ("Makefile", "quick:\n\ttrue\nslow:\n", "Makefile:3:1: archived-helper:"),
        ("README.md", "First `make\nslow`.\n", "README.md:1:8: archived-helper:"),
        ("nix/a.nix", "x = \"${./old-tool}\"", "nix/a.nix:1:10: archived-helper:"),
        ("src/a.rs", "const X: &str = \"SLOW_DOWN\";", "src/a.rs:1:18: archived-helper:"),
    ] {
        let project = Project::new();
        project.write("profiles/one/profile.toml", &archived);
        project.write("docs/a.md", "A bold-tool, an old-tool-like thing, scripts/run.sh and make slower are others.");
        project.is_clean("surface");
        project.write(file, text);
        project.finds("surface", &[told, "hint: use `make quick`", "guard surface: 1 finding in"]);
    }
}

#[test]
fn exceptions_need_a_reason_run_out_and_must_be_needed() {
    let project = Project::new();
    project.write("docs/a.md", &planted("x\nlorem~ ipsum\n"));
    let entry = |rule: &str, expires: &str| {
        format!(
            "version = 1\n[[allow]]\nrule = \"{rule}\"\nfile = \"docs/a.md\"\nreason = \"an example of the printers'\"\n\
             expires = \"{expires}\"\n"
        )
    };
    project.write("profiles/guards.toml", &entry("unfinished-wording", "2999-12-31"));
    let output = project.guard(&["surface"]);
    expect_status(&output, 0);
    assert!(stdout_of(&output).ends_with("; 1 allowed\n"), "{}", stdout_of(&output));
    project.write("profiles/guards.toml", &entry("unfinished-wording", "2020-12-31"));
    project.finds("surface", &["profiles/guards.toml:3:8: expired-allowance:", "docs/a.md:2:1: unfinished-wording:"]);
    project.write("profiles/guards.toml", &entry("open-task", "2999-12-31"));
    project.finds("surface", &["profiles/guards.toml:3:8: unused-allowance:"]);
    project.write("profiles/guards.toml", &entry("unfinished-wording", "2999-12-31").replace("an example", ""));
    project.write("profiles/guards.toml", &entry("unfinished-wording", "never"));
    let output = project.guard(&["surface"]);
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("is not a date"), "{}", stderr_of(&output));
}

#[test]
fn broken_profiles_lanes_entry_points_and_components_are_all_found() {
    let project = Project::new();
    project.write("profiles/one/lanes/first.toml", &LANE.replace("[machines.m]", "[machines.m]\nmemroy = \"1GiB\""));
    project.write("profiles/two/lanes/other.toml", &LANE.replace("first", "other"));
    project
        .profile("[\"bootproof run first\", \"make quick\"]", "[\"bootproof run frist\", \"make quack\", \"./no.sh\"]");
    let surface =
        "{ \"version\": 1, \"components\": [\n{ \"name\": \"clock\", \"required\": true, \"unit\": \"c.service\" }] }";
    project.write("profiles/one/files/etc/bootproof/product-surface.json", surface);
    project.finds(
        "eval",
        &[
            "profiles/one/lanes/first.toml:7:1: lane: ",
            "did you mean `memory`",
            "profiles/two/lanes/other.toml:1:1: lane: the lane in `profiles/two/lanes/other.toml` says that its profile is",
            "profiles/two/profile.toml:1:1: profile: failed to read the profile",
            "profiles/one/profile.toml:5:17: entry-point: `bootproof run frist` does not work: there is no lane `frist`; \
             did you mean `first`?",
            "profiles/one/profile.toml:5:40: entry-point: `make quack` does not work",
            "profiles/one/profile.toml:5:54: entry-point: `./no.sh` does not work",
            "profiles/one/profile.toml:7:13: component: the component `agent`",
            "product-surface.json:2:11: component: the component `clock` is not the profile's",
            "guard eval: 8 findings in ",
        ],
    );
}

#[test]
fn a_report_is_for_programs_too() {
    let project = Project::new();
    project.write("docs/a.md", &planted("TO~DO\n"));
    let output = project.guard(&["surface", "--format", "json"]);
    expect_status(&output, 1);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["version"], &report["guard"]), (&1.into(), &"surface".into()));
    let finding = &report["findings"][0];
    assert_eq!((&finding["file"], &finding["line"], &finding["column"]), (&"docs/a.md".into(), &1.into(), &1.into()));
    assert_eq!(finding["rule"], "open-task");
    let output = project.command(&["surface"]).env("GITHUB_ACTIONS", "true").output().unwrap();
    let first = "::error file=docs/a.md,line=1,col=1,title=open-task::an open task";
    assert!(stdout_of(&output).starts_with(first), "{}", stdout_of(&output));
}

const NIX: &str = "\n[nix]\nevaluate = [\"packages.x86_64-linux.good\"]\nbuild = [\"packages.x86_64-linux.built\"]\n";

/// A path without Nix.
fn without_nix(project: &Project) -> std::path::PathBuf {
    let folder = project.0.path().join("target");
    project.write(".gitignore", "/target\n");
    fs::create_dir_all(&folder).unwrap();
    let shell = folder.join("sh");
    let _ = fs::copy("/bin/sh", &shell);
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn without_nix_the_flake_is_skipped_aloud_or_blocked() {
    let project = Project::new();
    project.write("profiles/one/profile.toml", &format!("{PROFILE}{NIX}"));
    project.finds("eval", &["profiles/one/profile.toml:12:13: nix-attribute: ", "the project has no `flake.nix`"]);
    project.write("flake.nix", "{ }");
    let path = without_nix(&project);
    for guard in ["eval", "build"] {
        let output = project.command(&[guard]).env("PATH", &path).output().unwrap();
        if Path::new("/usr/sbin/nix").exists() {
            eprintln!("skipped: Nix is in `/usr/sbin`, which is always searched");
            return;
        }
        expect_status(&output, 0);
        assert!(stdout_of(&output).contains("skipped: "), "{}", stdout_of(&output));
        assert!(stdout_of(&output).ends_with("; 1 skipped\n"), "{}", stdout_of(&output));
        let output = project.command(&[guard, "--require-nix"]).env("PATH", &path).output().unwrap();
        expect_status(&output, 3);
    }
}

#[test]
fn broken_outputs_of_the_flake_are_found_and_each_is_tried() {
    let Some(nix) = support::nix::Nix::new() else { return };
    let project = Project::new();
    let flake = "{
  outputs = { self }: {
    packages.x86_64-linux = {
      good = derivation { name = \"good\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" \"echo > $out\" ]; };
      built = derivation { name = \"built\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" \"exit 3\" ]; };
      broken = 1 + \"one\";
    };
  };
}
";
    project.write("flake.nix", flake);
    let profile =
        format!("{PROFILE}{NIX}").replace("\"make quick\"", "\"make quick\", \"nix run .#good\", \"nix run .#none\"");
    project
        .write("profiles/one/profile.toml", &profile.replace(".good\"]", ".good\", \"packages.x86_64-linux.broken\"]"));
    let run = |guard: &str| nix.surround(&mut project.command(&[guard])).output().unwrap();
    let output = run("eval");
    expect_status(&output, 1);
    let said = stdout_of(&output);
    assert!(said.contains("flake.nix:6:"), "{said}");
    assert!(said.contains("nix-attribute: `.#packages.x86_64-linux.broken` does not evaluate: "), "{said}");
    assert!(said.contains("profiles/one/profile.toml:5:72: nix-attribute: `.#apps.x86_64-linux.none`"), "{said}");
    assert!(said.contains("guard eval: 2 findings in") && said.contains("5 nix attributes"), "{said}");
    let output = run("build");
    expect_status(&output, 1);
    let said = stdout_of(&output);
    assert!(said.contains("profiles/one/profile.toml:13:10: nix-build: `.#packages.x86_64-linux.built`"), "{said}");
    project.write("flake.nix", &flake.replace("1 + ", "").replace("exit 3", "echo > $out"));
    project.write("profiles/one/profile.toml", &profile.replace(", \"nix run .#none\"", ""));
    for guard in ["eval", "build"] {
        expect_status(&run(guard), 0);
    }
}

#[test]
fn this_project_is_clean() {
    let output = support::bootproof().args(["guard", "surface"]).env_remove("GITHUB_ACTIONS").output().unwrap();
    expect_status(&output, 0);
    // What is of the flake is tried in a test of its own.
    let output = support::bootproof().args(["guard", "eval"]).env("PATH", "/nowhere").output().unwrap();
    expect_status(&output, 0);
}
