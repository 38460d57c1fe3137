//! Images that Nix builds, with the real Nix, in a store of the test's own.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::process::Signal;
use support::nix::Nix;
use support::own_lane::{OwnLane, Running};
use support::{OwnWorkRoot, bootproof, expect_status, processes_mentioning, stderr_of, work_root};
use tempfile::TempDir;

/// A project with a flake, a Nix file, and one lane whose image is `bare`.
struct Project {
    folder: TempDir,
    nix: Nix,
}

const DERIVATIONS: &str = r#"
let
  run = name: outputs: script: derivation {
    inherit name outputs;
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ "-c" "PATH=/bin:/usr/bin; ${script}" ];
  };
in {
  disk = run "disk" [ "out" ] "echo making a disk; mkdir $out; head -c 1048576 /dev/zero > $out/nixos.img";
  parts = run "parts" [ "out" "image" ] "echo nothing > $out; mkdir -p $image/images; head -c 2097152 /dev/zero > $image/images/a.raw";
  bad = run "bad" [ "out" ] "echo first; echo the last words >&2; exit 4";
  slow = run "slow" [ "out" ] "echo up > FIFO; exec sleep 98765.4321";
  iso = run "iso" [ "out" ] "mkdir -p $out/iso; cp ${./medium.iso} $out/iso/nixos.iso";
}
"#;

/// The least that a BIOS boots as a CD (El Torito, no emulation): a program that prints a line on the serial port.
fn medium() -> Vec<u8> {
    // xor ax,ax; mov ds,ax; mov dx,0x3f8; mov si,0x7c15; next: lodsb; test al,al; jz end; out dx,al; jmp next; end: hlt; jmp end
    const PROGRAM: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0xba, 0xf8, 0x03, 0xbe, 0x15, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8,
        0xf4, 0xeb, 0xfd,
    ];
    const SECTOR: usize = 2048;
    let mut bytes = vec![0; 24 * SECTOR];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(16 * SECTOR, b"\x01CD001\x01");
    // The boot record leads to the catalogue in sector 19, and that to the program in sector 20.
    put(17 * SECTOR, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17 * SECTOR + 0x47, &[19]);
    put(18 * SECTOR, b"\xffCD001\x01");
    put(19 * SECTOR, &[1]);
    put(19 * SECTOR + 0x1e, &[0x55, 0xaa, 0x88]);
    put(19 * SECTOR + 0x26, &[4, 0, 20]);
    put(20 * SECTOR, PROGRAM);
    put(20 * SECTOR + PROGRAM.len(), b"\r\nthe medium boots\r\n\0");
    bytes
}

impl Project {
    /// `None` where the host has no Nix, which is told.
    fn new(image: &str) -> Option<Self> {
        let project = Self { nix: Nix::new()?, folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(project.path("profiles/one/lanes")).unwrap();
        let fifo = project.path("fifo");
        fs::write(project.path("images.nix"), DERIVATIONS.replace("FIFO", &fifo.display().to_string())).unwrap();
        fs::write(project.path("medium.iso"), medium()).unwrap();
        let flake = "{ outputs = { self }: { packages.x86_64-linux = import ./images.nix; }; }";
        fs::write(project.path("flake.nix"), flake).unwrap();
        project.set(image);
        Some(project)
    }

    fn set(&self, image: &str) {
        let lane = format!(
            "version = 1\n[lane]\nname = \"one\"\nsummary = \"one\"\n[images.bare]\nnix = {image}\n\
             [machines.m]\nimage = \"bare\"\n[[steps]]\nexpect = [\"boot\"]\n"
        );
        fs::write(self.path("profiles/one/lanes/one.toml"), lane).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bootproof();
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("BOOTPROOF_PROJECT_ROOT", self.folder.path())
            .env("BOOTPROOF_WORK_ROOT", self.path("work"));
        self.nix.surround(&mut command);
        command
    }

    fn build(&self) -> Output {
        self.command(&["image", "build", "bare"]).output().unwrap()
    }

    /// The record of the image that was built last.
    fn record(&self) -> serde_json::Value {
        let records = fs::read_dir(self.path("work/images/index")).unwrap().map(|entry| entry.unwrap().path());
        let newest = records.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
        serde_json::from_slice(&fs::read(newest).unwrap()).unwrap()
    }

    fn logs(&self) -> String {
        let logs = fs::read_dir(self.path("work/images/logs")).unwrap().map(|entry| entry.unwrap().path());
        logs.map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

#[test]
fn flakes_files_and_store_paths_are_built_and_kept() {
    let Some(project) = Project::new("\".#disk\"") else { return };
    let output = project.build();
    expect_status(&output, 0);
    assert!(stderr_of(&output).contains("bare: building disk (1 of 1)"), "{}", stderr_of(&output));
    assert_eq!(project.logs(), "disk> building\ndisk> making a disk\n");
    let first = project.record();
    assert_eq!(first["disk"]["virtual_size"], 1 << 20);
    let disk = PathBuf::from(first["disk"]["path"].as_str().unwrap());
    // What a work root uses stays in the store.
    let mut collect = Command::new("nix-store");
    expect_status(&project.nix.surround(collect.arg("--gc")).output().unwrap(), 0);
    assert!(disk.is_file());
    // The same derivation is the same image, by whatever it is named.
    for image in [
        "{ file = \"../../../images.nix\", attribute = \"disk\", jobs = 1, cores = 2 }",
        &format!("\"{}\"", disk.display()),
    ] {
        project.set(image);
        expect_status(&project.build(), 0);
        assert_eq!(project.record()["disk"], first["disk"], "{image}");
    }
    // A flake that has changed is another image: nothing old is taken for it.
    project.set("\".#disk\"");
    let changed = DERIVATIONS.replace("1048576", "3145728");
    fs::write(project.path("images.nix"), &changed).unwrap();
    expect_status(&project.build(), 0);
    assert_eq!(project.record()["disk"]["virtual_size"], 3 << 20);
}

#[test]
fn of_several_outputs_the_one_that_boots_or_is_named_is_taken() {
    let Some(project) = Project::new("{ file = \"../../../images.nix\", attribute = \"parts\" }") else { return };
    // Nix builds the first output unless it is asked for another, and that is no disk.
    let output = project.build();
    expect_status(&output, 2);
    for source in ["file = \"../../../images.nix\", attribute = \"parts\"", "reference = \".#parts\""] {
        project.set(&format!("{{ {source}, output = \"image\" }}"));
        expect_status(&project.build(), 0);
        assert_eq!(project.record()["disk"]["virtual_size"], 2 << 20);
        project.set(&format!("{{ {source}, output = \"none\" }}"));
        let output = project.build();
        expect_status(&output, 2);
        assert!(stderr_of(&output).contains("none"), "{}", stderr_of(&output));
    }
}

#[test]
fn a_build_that_fails_shows_its_end_and_names_its_log() {
    let Some(project) = Project::new("\".#bad\"") else { return };
    let output = project.build();
    expect_status(&output, 2);
    let said = stderr_of(&output);
    assert!(said.contains("error: failed to build `.#bad` with Nix: builder for '"), "{said}");
    assert!(said.contains("bad> the last words") && said.contains("hint: the whole log is in `"), "{said}");
    assert!(project.logs().contains("bad> first\nbad> the last words\n"), "{}", project.logs());
    for (image, told) in [
        ("\".#nothing\"", "does not provide attribute"),
        ("{ file = \"../../../images.nix\", attribute = \"nothing\" }", "attribute 'nothing'"),
        ("{ file = \"none.nix\" }", "`profiles/one/lanes/none.nix` does not exist"),
    ] {
        project.set(image);
        let output = project.build();
        expect_status(&output, 2);
        assert!(stderr_of(&output).contains(told), "{}", stderr_of(&output));
    }
    project.set("\".#disk\"");
    let output = project.command(&["image", "build", "bare"]).env("BOOTPROOF_NIX_JOBS", "many").output().unwrap();
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("`BOOTPROOF_NIX_JOBS` is no positive number"), "{}", stderr_of(&output));
}

#[test]
fn a_nix_that_cannot_work_is_blocked_with_the_remedy() {
    let Some(project) = Project::new("\".#disk\"") else { return };
    let without_users = "sandbox = false\nbuild-users-group = nobody-has-this-group\n";
    let output = project.command(&["image", "build", "bare"]).env("NIX_CONFIG", without_users).output().unwrap();
    if rustix::process::geteuid().is_root() {
        expect_status(&output, 3);
        assert!(stderr_of(&output).contains("`build-users-group =`"), "{}", stderr_of(&output));
    }
    let output = project.command(&["image", "build", "bare"]).env("PATH", "/nowhere").output().unwrap();
    expect_status(&output, 3);
    assert!(stderr_of(&output).contains("hint: install Nix"), "{}", stderr_of(&output));
}

#[test]
fn an_interrupt_ends_nix_and_its_builders() {
    let Some(project) = Project::new("\".#slow\"") else { return };
    let fifo = project.path("fifo");
    // Nothing but a regular file can be part of a flake.
    project.set("{ file = \"../../../images.nix\", attribute = \"slow\" }");
    expect_status(&Command::new("mkfifo").arg(&fifo).output().unwrap(), 0);
    let mut build = Running::start(&mut project.command(&["image", "build", "bare"]));
    build.until("building slow");
    // The builder says so itself.
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "up\n");
    let builders = || processes_mentioning("sleep", std::path::Path::new("98765.4321"));
    build.signal(Signal::INT);
    build.expect(130);
    for builder in builders() {
        if let Some(process) = support::process::Process::open(builder) {
            assert!(process.ends_within(support::process::END), "a builder is left");
        }
    }
    assert!(builders().is_empty());
    support::process::expect_none_left(&project.path("work"));
}

/// A kernel and an initramfs as `tiny` has them, which an output of Nix is then made of.
fn kernel_and_initramfs() -> (String, String) {
    expect_status(&bootproof().args(["image", "build", "tiny"]).output().unwrap(), 0);
    let records = fs::read_dir(work_root().join("images/index")).unwrap();
    let records = records.filter_map(|entry| {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).ok()?;
        let built_at = record["built_at"].as_str()?.to_owned();
        let file = |name: &str| record["boot"][name].as_str().map(str::to_owned);
        (record["source"] == "tiny").then_some(())?;
        Some((built_at, (file("kernel")?, file("initramfs")?)))
    });
    records.filter(|(_, (_, initramfs))| PathBuf::from(initramfs).is_file()).max().unwrap().1
}

#[test]
fn what_nix_has_built_boots_also_as_the_script_of_a_vm() {
    let Some(nix) = Nix::new() else { return };
    let (kernel, initramfs) = kernel_and_initramfs();
    // The script is one of nixpkgs' as far as it is read; run by itself it would only fail.
    let runner = r#"#! /bin/sh\nif ! test -e \"$NIX_DISK_IMAGE\"; then\n  qemu-img create -f qcow2 \"$NIX_DISK_IMAGE\" 64M\nfi\nexec qemu-kvm -m 1 \\\n  -virtfs local,path=STORE,security_model=none,mount_tag=store \\\n  -virtfs local,path=$TMPDIR/xchg,security_model=none,mount_tag=xchg \\\n  -kernel @system@/bzImage -initrd @system@/initrd -append \"$(cat @system@/kernel-params) told=yes console=tty0 $QEMU_KERNEL_PARAMS\" \\\n  $QEMU_OPTS\n"#;
    let own = OwnLane::with_work_root(
        "[images.bare]\nnix = { file = \"image.nix\" }\n[machines.m]\nimage = \"bare\"\nkernel_parameters = [\"more=yes\"]\n\
         [[steps]]\nexpect = [\"boot\"]\n\
         [[steps]]\nexec = { argv = [\"cat\", \"/proc/cmdline\"], stdout = { contains = \"from=nix told=yes\" } }\n\
         [[steps]]\nexec = { argv = [\"cat\", \"/sys/block/vda/size\"], stdout = { equals = \"131072\" } }\n",
        OwnWorkRoot::new(),
    );
    let system = format!(
        "mkdir $out; cp {kernel} $out/bzImage; cp {initramfs} $out/initrd; echo 'from=nix console=tty0' > $out/kernel-params"
    );
    let image = format!(
        "let run = name: script: derivation {{ inherit name; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"PATH=/bin:/usr/bin; ${{script}}\" ]; }};\n\
         system = run \"system\" \"{system}\";\n\
         script = builtins.toFile \"script\" (builtins.replaceStrings [ \"STORE\" ] [ \"${{builtins.storeDir}}\" ] ''{}'');\n\
         in run \"vm\" \"mkdir -p $out/bin; sed 's,@system@,${{system}},g' ${{script}} > $out/bin/run-m-vm\"\n",
        runner.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\").replace("${", "''${")
    );
    fs::write(own.folder.path().join("image.nix"), image).unwrap();
    let output = nix.surround(&mut own.command(&[])).output().unwrap();
    expect_status(&output, 0);
    let command_line = fs::read_to_string(own.proof().join("machines/m/cmdline.txt")).unwrap();
    assert!(command_line.contains("mount_tag=store") && command_line.contains("readonly=on"), "{command_line}");
    let environment = fs::read_to_string(own.proof().join("environment.json")).unwrap();
    let environment: serde_json::Value = serde_json::from_str(&environment).unwrap();
    let origin = environment["images"]["bare"]["provenance"]["store_path"].as_str().unwrap();
    assert!(origin.ends_with("-system"), "{origin}");
    own.expect_nothing_left();
}

#[test]
fn a_medium_that_nix_built_is_booted() {
    let Some(project) = Project::new("\".#iso\"") else { return };
    let expect = r#"steps.0.expect=[{ console = "^the medium boots", within = "30s" }]"#;
    let output = project.command(&["run", "one", "--set", expect]).output().unwrap();
    expect_status(&output, 0);
}

/// As `nix/netboot.nix` makes it: links to a kernel and an initrd, and a script that says what belongs on the command line.
#[test]
fn a_netboot_folder_that_nix_built_is_booted_directly_and_over_the_network() {
    let Some(nix) = Nix::new() else { return };
    let (kernel, initramfs) = kernel_and_initramfs();
    let script = format!(
        "mkdir $out; cp {kernel} $out/bzImage; cp {initramfs} $out/initramfs; ln -s $out/bzImage $out/kernel; \
         ln -s $out/initramfs $out/initrd; \
         printf '#!ipxe\\nkernel bzImage from=nix initrd=initrd\\ninitrd initrd\\nboot\\n' > $out/netboot.ipxe"
    );
    let image = format!(
        "derivation {{ name = \"netboot\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"PATH=/bin:/usr/bin; {script}\" ]; }}"
    );
    let told = "[[steps]]\nexpect = [\"boot\"]\n\
         [[steps]]\nexec = { argv = [\"cat\", \"/proc/cmdline\"], stdout = { contains = \" from=nix \" } }\n";
    let directly = "[machines.m]\nimage = \"companion\"\n";
    let over_the_network = "[networks.lan]\ndhcp = true\ncapture = false\n\
         [deployer]\nnetboot = \"companion\"\nallow_unauthenticated = true\n\
         [machines.m]\nnetwork_boot = \"first\"\nnetworks = [\"lan\"]\n";
    for machine in [directly, over_the_network] {
        let own = OwnLane::new(&format!("[images.companion]\nnix = {{ file = \"image.nix\" }}\n{machine}{told}"));
        fs::write(own.folder.path().join("image.nix"), &image).unwrap();
        expect_status(&nix.surround(&mut own.command(&[])).output().unwrap(), 0);
        let environment = fs::read_to_string(own.proof().join("environment.json")).unwrap();
        let environment: serde_json::Value = serde_json::from_str(&environment).unwrap();
        let origin = environment["images"]["companion"]["provenance"]["store_path"].as_str().unwrap();
        assert!(origin.ends_with("-netboot"), "{origin}");
        own.expect_nothing_left();
    }
}
