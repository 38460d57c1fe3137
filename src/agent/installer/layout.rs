//! Laying out the disk: partitions, file systems, where they are mounted while the system is put there.

use std::path::{Path, PathBuf};

use super::disks::{FoundDisk, partition};
use super::mark;
use super::runner::Runner;
use crate::provisioning::{DiskLayout, InstallPlan};

/// Where the new system's root is mounted.
pub const TARGET: &str = "/mnt";
pub const ROOT_LABEL: &str = "bootproof-root";
/// Less than this no system fits into.
const LEAST_ROOT: u64 = 512 << 20;
const MEBIBYTE: u64 = 1 << 20;

/// GPT's types of partitions (and the one of Linux file systems by its name with `sfdisk`).
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX_ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaidOut {
    pub disk: PathBuf,
    pub efi: PathBuf,
    pub root: PathBuf,
    /// The root file system's.
    pub root_uuid: String,
    /// FAT's serial number, as `blkid` writes it: `1234-ABCD`.
    pub efi_uuid: String,
    /// Device, label, place, of the plan's own.
    pub others: Vec<(PathBuf, String, String)>,
}

/// Marks the disk as ours to write, once it is known that the plan fits it. From here on the disk is written.
pub fn begin(found: &FoundDisk, plan: &InstallPlan) -> Result<(), String> {
    check(&plan.layout, found.disk.size)?;
    set_mark(&found.device)
}

fn set_mark(disk: &Path) -> Result<(), String> {
    mark::set(disk).map_err(|error| format!("failed to mark `{}` as being written: {error}", disk.display()))
}

/// Partitions and file systems, on a disk that was begun with.
pub fn lay_out(runner: &dyn Runner, found: &FoundDisk, plan: &InstallPlan, uuid: String) -> Result<LaidOut, String> {
    let disk = found.device.as_path();
    let name = disk.to_string_lossy();
    if !found.disk.signatures.is_empty() {
        // What boots goes first, so that no half of an old system is ever started.
        for number in (1..=8).map(|number| partition(disk, number)).filter(|path| path.exists()) {
            runner.run("wipefs", &["--all", "--force", "--quiet", &number.to_string_lossy()], None)?;
        }
        runner.run("wipefs", &["--all", "--force", "--quiet", &name], None)?;
    }
    runner.run(
        "sfdisk",
        &["--quiet", "--wipe", "always", "--wipe-partitions", "always", &name],
        Some(&script(&plan.layout)),
    )?;
    // Whatever wrote the table may have cleared what stands before it.
    set_mark(disk)?;
    let others: Vec<(PathBuf, String, String)> = plan
        .layout
        .partitions
        .iter()
        .enumerate()
        .map(|(index, wanted)| (partition(disk, 3 + index), wanted.name.clone(), wanted.mount.clone()))
        .collect();
    let serial: String = uuid.chars().filter(char::is_ascii_hexdigit).take(8).collect::<String>().to_ascii_uppercase();
    let laid_out = LaidOut {
        disk: disk.into(),
        efi: partition(disk, 2),
        root: partition(disk, 3 + others.len()),
        efi_uuid: format!("{}-{}", &serial[..4], &serial[4..]),
        root_uuid: uuid,
        others,
    };
    let efi = laid_out.efi.to_string_lossy();
    runner.run("mkfs.vfat", &["-F", "32", "-n", "BOOTPROOF", "-i", &serial, &efi], None)?;
    for (device, label, _) in &laid_out.others {
        make_ext4(runner, device, label, None)?;
    }
    make_ext4(runner, &laid_out.root, ROOT_LABEL, Some(&laid_out.root_uuid))?;
    Ok(laid_out)
}

/// GRUB of the same suite has to read it: no features that came later.
fn make_ext4(runner: &dyn Runner, device: &Path, label: &str, uuid: Option<&str>) -> Result<(), String> {
    let device = device.to_string_lossy();
    let mut arguments = vec!["-q", "-F", "-L", label, "-E", "nodiscard", "-O", "^metadata_csum_seed,^orphan_file"];
    if let Some(uuid) = uuid {
        arguments.extend(["-U", uuid]);
    }
    arguments.push(&device);
    runner.run("mkfs.ext4", &arguments, None).map(drop)
}

/// That it fits, and that no name or place is nonsense.
fn check(layout: &DiskLayout, size: u64) -> Result<(), String> {
    let others: u64 = layout.partitions.iter().fold(0, |sum, partition| sum.saturating_add(partition.size));
    let needed = layout.efi_size.saturating_add(others).saturating_add(LEAST_ROOT + 4 * MEBIBYTE);
    if size < needed {
        return Err(format!(
            "the disk is too small: it has {} MiB, and at least {} MiB are needed",
            size >> 20,
            needed >> 20
        ));
    }
    for partition in &layout.partitions {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        let good = (1..=16).contains(&partition.name.len()) && plain(&partition.name) && !partition.name.contains('/');
        let mounted = partition.mount.starts_with('/') && partition.mount.len() > 1 && plain(&partition.mount);
        if !good || !mounted || partition.mount.split('/').any(|part| part == "..") {
            return Err(format!("the plan's partition `{}` on `{}` makes no sense", partition.name, partition.mount));
        }
    }
    Ok(())
}

/// What `sfdisk` reads.
fn script(layout: &DiskLayout) -> String {
    let mebibytes = |bytes: u64| bytes.div_ceil(MEBIBYTE);
    let mut text = String::from("label: gpt\n");
    text.push_str(&format!("size=1MiB, type={BIOS_BOOT}, name=\"bootproof-bios\"\n"));
    text.push_str(&format!("size={}MiB, type={EFI_SYSTEM}, name=\"bootproof-efi\"\n", mebibytes(layout.efi_size)));
    for partition in &layout.partitions {
        text.push_str(&format!("size={}MiB, type=linux, name=\"{}\"\n", mebibytes(partition.size), partition.name));
    }
    text.push_str(&format!("type={LINUX_ROOT}, name=\"{ROOT_LABEL}\"\n"));
    text
}

/// Mounts all of it below [`TARGET`].
pub fn mount(runner: &dyn Runner, laid_out: &LaidOut) -> Result<(), String> {
    let mount = |device: &Path, place: &str| {
        runner.run("mkdir", &["-p", place], None)?;
        runner.run("mount", &[&device.to_string_lossy(), place], None).map(drop)
    };
    mount(&laid_out.root, TARGET)?;
    mount(&laid_out.efi, &format!("{TARGET}/boot/efi"))?;
    for (device, _, place) in &laid_out.others {
        mount(device, &format!("{TARGET}{place}"))?;
    }
    Ok(())
}

/// Takes all of it down again; everything is on the disk then.
pub fn unmount(runner: &dyn Runner) -> Result<(), String> {
    runner.run("sync", &[], None)?;
    runner.run("umount", &["--recursive", TARGET], None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::runner::Noted;
    use super::*;
    use crate::provisioning::{Bundle, Disk, DiskSelector, InstallMethod, Partition};

    fn plan(partitions: Vec<Partition>) -> InstallPlan {
        InstallPlan {
            class: "c".into(),
            hostname: "h".into(),
            disk: DiskSelector::default(),
            wipe: false,
            layout: DiskLayout { partitions, ..DiskLayout::default() },
            method: InstallMethod::Tree { system: Bundle { digest: "sha256:00".into(), size: 1 } },
            kernel_parameters: Vec::new(),
            files: Default::default(),
            binary_cache: None,
        }
    }

    fn found(device: &Path, size: u64, signatures: &[&str]) -> FoundDisk {
        FoundDisk {
            device: device.into(),
            disk: Disk {
                by_id: Vec::new(),
                size,
                model: None,
                serial: None,
                rotational: false,
                removable: false,
                signatures: signatures.iter().map(|kind| kind.to_string()).collect(),
            },
            read_only: false,
            unfinished: false,
        }
    }

    const UUID: &str = "0a1b2c3d-0000-4000-8000-000000000000";

    #[test]
    fn the_commands_are_these_and_name_no_other_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 1024]).unwrap();
        let disk = file.path().to_string_lossy().into_owned();
        let runner = Noted::default();
        let data = Partition { name: "data".into(), size: (100 << 20) + 1, mount: "/var/lib/data".into() };
        let (disk_found, plan) = (found(file.path(), 4 << 30, &["dos"]), plan(vec![data]));
        begin(&disk_found, &plan).unwrap();
        assert!(mark::is_there(file.path()) && runner.calls.borrow().is_empty(), "the mark comes before anything else");
        let laid_out = lay_out(&runner, &disk_found, &plan, UUID.into()).unwrap();
        assert!(mark::is_there(file.path()), "the mark is there until a boot loader takes its place");
        let calls = runner.calls.borrow();
        assert_eq!(calls[0], format!("wipefs --all --force --quiet {disk}"));
        assert!(calls.iter().all(|call| call.contains(&disk)), "{calls:?}");
        let script = &runner.inputs.borrow()[0];
        assert!(
            script.contains("size=64MiB, type=C12A7328") && script.contains("size=101MiB, type=linux, name=\"data\"")
        );
        assert_eq!(laid_out.efi_uuid, "0A1B-2C3D");
        assert_eq!(laid_out.root, partition(file.path(), 4));
        assert_eq!(laid_out.others[0].0, partition(file.path(), 3));
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 1024]).unwrap();
        let refuse = |size: u64, partitions: Vec<Partition>| {
            begin(&found(file.path(), size, &[]), &plan(partitions)).unwrap_err()
        };
        assert!(refuse(100 << 20, Vec::new()).contains("too small"));
        let outside = Partition { name: "x".into(), size: 1, mount: "/../x".into() };
        assert!(refuse(4 << 30, vec![outside]).contains("makes no sense"));
        assert_eq!(std::fs::read(file.path()).unwrap(), [0; 1024]);
    }

    #[test]
    fn sfdisk_takes_the_script_and_the_mark_survives_it() {
        if std::process::Command::new("sfdisk").arg("--version").output().is_err() {
            eprintln!("skipped: there is no `sfdisk` here");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        mark::set(file.path()).unwrap();
        let disk = file.path().to_string_lossy();
        let runner = super::super::runner::System;
        runner.run("sfdisk", &["--quiet", "--wipe", "always", &disk], Some(&script(&DiskLayout::default()))).unwrap();
        assert!(mark::is_there(file.path()));
        let dump = runner.run("sfdisk", &["--dump", &disk], None).unwrap();
        assert!(dump.contains("name=\"bootproof-bios\"") && dump.contains("name=\"bootproof-root\""), "{dump}");
    }
}
