//! Images through the command: `tiny` built from the distribution's kernel for real, what exists used as it stands, and
//! what must never happen to the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A project with one lane, whose machine is made from the image `bare`.
struct Project {
    folder: TempDir,
}

impl Project {
    fn new(image: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lanes = folder.path().join("profiles/one/lanes");
        fs::create_dir_all(&lanes).unwrap();
        let lane = format!(
            "version = 1\n[lane]\nname = \"one\"\nsummary = \"one\"\ntier = \"single\"\ndeadline = \"1m\"\n\
             [images.bare]\n{image}\n[machines.m]\nimage = \"bare\"\n\
             [[steps]]\nexpect = [{{ marker = \"boot\", within = \"30s\" }}]\n"
        );
        fs::write(lanes.join("one.toml"), lane).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
        // Nothing here starts the agent, so the dynamic build that cargo has made will do.
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("BOOTPROOF_AGENT", env!("CARGO_BIN_EXE_bootproof-agent"))
            .env("BOOTPROOF_PROJECT_ROOT", self.folder.path())
            .env("BOOTPROOF_WORK_ROOT", self.path("work"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn images(&self) -> Vec<serde_json::Value> {
        let output = self.run(&["image", "list", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    /// What of the store is not whole yet, or no longer.
    fn left_over(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("work/images/temporary")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Names, modes and contents of an initramfs.
fn entries(path: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut input = File::open(path).unwrap();
    let mut entries = BTreeMap::new();
    loop {
        let mut reader = cpio::NewcReader::new(input).unwrap();
        if reader.entry().is_trailer() {
            return entries;
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        entries.insert(reader.entry().name().to_string(), (reader.entry().mode(), content));
        input = reader.finish().unwrap();
    }
}

fn find(folder: &Path, name: &str) -> PathBuf {
    let found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().join(name))
        .filter(|path| path.exists())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn tiny_is_built_once_from_the_distributions_kernel() {
    let project = Project::new("tiny = {}");
    // Two at once: one builds, the other waits for it.
    let build = || project.command(&["image", "build", "tiny"]).output().unwrap();
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(build);
        (build(), other.join().unwrap())
    });
    for output in [&first, &second] {
        assert!(output.status.success(), "{}", said(output));
    }
    let built = [&first, &second].iter().filter(|output| said(output).contains(" built, ")).count();
    assert_eq!(built, 1, "{}{}", said(&first), said(&second));
    assert_eq!(project.left_over(), Vec::<PathBuf>::new());

    let initramfs = entries(&find(&project.path("work/images/built"), "initramfs"));
    assert_eq!(initramfs["init"].0, 0o100755);
    assert_eq!(initramfs["init"].1, fs::read(env!("CARGO_BIN_EXE_bootproof-agent")).unwrap());
    for applet in bootproof::agent::APPLETS {
        assert_eq!(initramfs[&format!("bin/{applet}")], (0o120777, b"/init".to_vec()));
    }
    let listed = String::from_utf8(initramfs["etc/bootproof/modules"].1.clone()).unwrap();
    for path in listed.lines() {
        assert!(initramfs.contains_key(path.trim_start_matches('/')), "`{path}` is listed and not there");
    }
    let position = |name: &str| listed.lines().position(|path| path.ends_with(&format!("/{name}.ko")));
    // A kernel may have any of them built in; one that has not must have its parts before the whole.
    if let (Some(part), Some(whole)) = (position("virtio_ring"), position("virtio_console")) {
        assert!(part < whole, "{listed}");
    }
    let kernel = fs::read(find(&project.path("work/images/built"), "vmlinuz")).unwrap();
    assert_eq!(&kernel[0x202..0x206], b"HdrS", "a bzImage");

    // No network, no apt, nothing: what is there is found.
    let bad = project.path("bad.list");
    fs::write(&bad, "deb http://mirror.invalid/debian bookworm main\n").unwrap();
    let again = project.command(&["image", "build", "tiny"]).env("BOOTPROOF_APT_SOURCES", &bad).output().unwrap();
    assert!(again.status.success() && said(&again).contains("there already"), "{}", said(&again));
    let image = &project.images()[0];
    assert_eq!((image["present"].as_bool(), image["lock"].as_str()), (Some(true), Some("unlocked")));
}

#[test]
fn an_archive_that_cannot_be_reached_blocks_and_leaves_nothing() {
    let project = Project::new("debian = { suite = \"bookworm\" }");
    let bad = project.path("bad.list");
    fs::write(&bad, "deb http://mirror.invalid/debian bookworm main\n").unwrap();
    for arguments in [["image", "build", "bare"], ["image", "lock", "bare"]] {
        let output = project.command(&arguments).env("BOOTPROOF_APT_SOURCES", &bad).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains("packages come from http://mirror.invalid/debian"), "{}", said(&output));
    }
    assert_eq!(project.left_over(), Vec::<PathBuf>::new());
    assert!(!project.path("profiles/images.lock").exists());
}

#[test]
fn a_disk_that_exists_is_checked_and_used_where_it_stands() {
    let project = Project::new("disk = { path = \"../../../disk.raw\" }");
    let missing = project.run(&["image", "build", "bare"]);
    assert!(said(&missing).contains("does not exist"), "{}", said(&missing));
    fs::write(project.path("disk.raw"), vec![7; 1 << 20]).unwrap();
    let output = project.run(&["image", "build", "bare"]);
    assert!(output.status.success(), "{}", said(&output));
    let first = project.images()[1]["digest"].clone();
    fs::write(project.path("disk.raw"), vec![8; 1 << 20]).unwrap();
    assert_ne!(project.images()[1]["digest"], first, "another file is another image");
}

#[test]
fn a_disk_that_draws_on_another_file_is_refused() {
    let project = Project::new("disk = { path = \"../../../top.qcow2\" }");
    fs::write(project.path("base.raw"), vec![0; 1 << 20]).unwrap();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "top.qcow2"])
        .current_dir(project.folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    let output = project.run(&["image", "build", "bare"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("needs another file: `base.raw`"), "{}", said(&output));
}

#[test]
fn a_nix_output_that_is_there_needs_no_nix() {
    let project = Project::new("nix = \"result\"");
    let output = project.command(&["image", "build", "bare"]).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("`nix` is not installed"), "{}", said(&output));
    fs::create_dir(project.path("result")).unwrap();
    for name in ["kernel", "initrd"] {
        fs::write(project.path("result").join(name), name).unwrap();
    }
    let output = project.run(&["image", "build", "bare"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A builder that was killed can leave file systems of the host mounted in its folder. Tried in a mount namespace of its
/// own, so that the host sees nothing of it whatever happens.
#[test]
fn cleaning_up_after_a_killed_build_never_follows_a_mount() {
    let project = Project::new("tiny = {}");
    assert!(project.run(&["image", "list"]).status.success());
    let precious = project.path("precious");
    let mounted = project.path("work/images/temporary/dead.folder/root/dev/shm");
    for folder in [&precious, &mounted] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(precious.join("file"), "keep me").unwrap();
    let script = "mount --bind \"$1\" \"$2\" && [ -e \"$2/file\" ] && \"$3\" image list";
    let mut command = project.command(&[]);
    let mut isolated = Command::new("unshare");
    isolated.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    isolated.current_dir(project.folder.path()).args([
        "--user",
        "--map-root-user",
        "--mount",
        "--propagation",
        "private",
    ]);
    isolated.args(["sh", "-ec", script, "sh"]).args([&precious, &mounted]).arg(command.get_program());
    let output = isolated.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "keep me");
    // Once nothing is mounted there, the folder goes.
    command.args(["image", "list"]);
    assert!(command.status().unwrap().success());
    assert_eq!(project.left_over(), Vec::<PathBuf>::new());
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "keep me");
}
