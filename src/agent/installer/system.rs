//! Putting the system on the disk: what the bundle holds, then what is this machine's own, then the boot loader.
//!
//! What always holds: the boot loader comes last, and that of BIOS last of all, in the place of the mark. Until then the
//! disk does not boot, and the machine boots the medium again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{LaidOut, TARGET};
use super::root::Root;
use super::runner::Runner;
use crate::agent::configuration::{AgentConfiguration, CONFIGURATION};
use crate::provisioning::InstallPlan;

/// Unpacks the bundle.
pub fn unpack(runner: &dyn Runner, bundle: &Path) -> Result<(), String> {
    let bundle = bundle.to_string_lossy();
    let arguments = [
        "--extract",
        "--zstd",
        "--file",
        &bundle,
        "--directory",
        TARGET,
        "--numeric-owner",
        "--preserve-permissions",
        "--xattrs",
        "--xattrs-include=*",
        "--keep-directory-symlink",
    ];
    runner.run("tar", &arguments, None).map(drop).map_err(|reason| {
        if reason.contains("No space left on device") { format!("the disk is full: {reason}") } else { reason }
    })
}

/// Writes what makes the system this machine's.
pub fn configure(
    target: &Path,
    plan: &InstallPlan,
    laid_out: &LaidOut,
    configuration: &AgentConfiguration,
) -> Result<(), String> {
    let root = Root::open(target)?;
    let hostname = &plan.hostname;
    root.write("/etc/hostname", format!("{hostname}\n").as_bytes(), 0o644)?;
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n");
    root.write("/etc/hosts", hosts.as_bytes(), 0o644)?;
    root.write("/etc/fstab", fstab(laid_out).as_bytes(), 0o644)?;
    for (path, text) in &plan.files {
        root.write(path, text.as_bytes(), 0o644)?;
    }
    let text = serde_json::to_string_pretty(configuration).map_err(|error| error.to_string())?;
    root.write(CONFIGURATION, text.as_bytes(), 0o600)
}

/// Stage 1 has mounted the root when this is read; the EFI system partition is there for boot loaders alone.
fn fstab(laid_out: &LaidOut) -> String {
    let mut text = format!("UUID={} / ext4 defaults,errors=remount-ro 0 0\n", laid_out.root_uuid);
    text.push_str(&format!("UUID={} /boot/efi vfat noauto,umask=0077 0 0\n", laid_out.efi_uuid));
    for (_, label, place) in &laid_out.others {
        text.push_str(&format!("LABEL={label} {place} ext4 defaults 0 2\n"));
    }
    text
}

/// GRUB's configuration, then GRUB for UEFI at the place where every firmware looks, then GRUB for BIOS.
pub fn make_bootable(
    runner: &dyn Runner,
    target: &Path,
    plan: &InstallPlan,
    laid_out: &LaidOut,
    parameters: &[String],
) -> Result<(), String> {
    let kernels = kernels(target)?;
    let text = grub_configuration(&kernels, &laid_out.root_uuid, parameters, &plan.kernel_parameters)?;
    let root = Root::open(target)?;
    root.write("/boot/grub/grub.cfg", text.as_bytes(), 0o600)?;
    let boot = target.join("boot");
    let efi = boot.join("efi");
    let directory = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let both = ["--no-floppy", "--recheck", "--locales=", "--themes=", "--fonts="];
    let install = |own: &[&str]| {
        let arguments: Vec<&str> = both.iter().chain(own).copied().collect();
        runner.run("grub-install", &arguments, None).map(drop)
    };
    let boot_directory = directory("boot-directory", &boot);
    install(&[
        "--target=x86_64-efi",
        &boot_directory,
        &directory("efi-directory", &efi),
        "--bootloader-id=bootproof",
        "--no-nvram",
    ])?;
    // All of it is on the disk before the firmware finds it: the rename is what makes the disk bootable.
    runner.run("sync", &[], None)?;
    let fallback = efi.join("EFI/BOOT");
    fs::create_dir_all(&fallback).map_err(|error| format!("failed to make `{}`: {error}", fallback.display()))?;
    let (from, to) = (efi.join("EFI/bootproof/grubx64.efi"), fallback.join("BOOTX64.EFI"));
    fs::rename(&from, &to).map_err(|error| format!("failed to put GRUB at `{}`: {error}", to.display()))?;
    runner.run("sync", &[], None)?;
    install(&["--target=i386-pc", &boot_directory, &laid_out.disk.to_string_lossy()])?;
    runner.run("sync", &[], None).map(drop)
}

/// A kernel and its initramfs, by their names in `/boot`.
type Kernel = (String, String);

/// The newest first.
fn kernels(target: &Path) -> Result<Vec<Kernel>, String> {
    let boot = target.join("boot");
    let entries = fs::read_dir(&boot).map_err(|error| format!("the bundle has no `/boot`: {error}"))?;
    let mut found: BTreeMap<Vec<u64>, Kernel> = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(release) = name.strip_prefix("vmlinuz-") else { continue };
        let initramfs = format!("initrd.img-{release}");
        if boot.join(&initramfs).is_file() {
            let numbers = release.split(|character: char| !character.is_ascii_digit());
            found.insert(numbers.filter_map(|part| part.parse().ok()).collect(), (name.clone(), initramfs));
        }
    }
    let kernels: Vec<Kernel> = found.into_values().rev().collect();
    if kernels.is_empty() {
        return Err("the bundle has no kernel with an initramfs (`/boot/vmlinuz-X` and `/boot/initrd.img-X`)".into());
    }
    Ok(kernels)
}

fn grub_configuration(
    kernels: &[Kernel],
    root_uuid: &str,
    inherited: &[String],
    own: &[String],
) -> Result<String, String> {
    let mut line = format!("bootproof.root=UUID={root_uuid} rw loglevel=4");
    for parameter in inherited.iter().chain(own) {
        // GRUB reads its file as a shell does.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=.,:_-/+@%".contains(&byte);
        if parameter.is_empty() || !parameter.bytes().all(plain) {
            return Err(format!("the kernel parameter `{parameter}` cannot stand in GRUB's configuration"));
        }
        line.push(' ');
        line.push_str(parameter);
    }
    let mut text = format!(
        "if [ \"$grub_platform\" = pc ]; then\n  serial --unit=0 --speed=115200\n  terminal_input --append serial\n  \
         terminal_output --append serial\nfi\nset default=0\nset timeout=0\nsearch --no-floppy --fs-uuid --set root {root_uuid}\n"
    );
    for (kernel, initramfs) in kernels {
        text.push_str(&format!(
            "menuentry \"{kernel}\" {{\n  linux /boot/{kernel} {line}\n  initrd /boot/{initramfs}\n}}\n"
        ));
    }
    Ok(text)
}

/// Where the bundle is while it is needed: in memory.
pub fn bundle_path() -> PathBuf {
    Path::new("/run/bootproof/bundle.tar.zst").into()
}

#[cfg(test)]
mod tests {
    use super::super::runner::Noted;
    use super::*;

    fn laid_out() -> LaidOut {
        LaidOut {
            disk: "/dev/vda".into(),
            efi: "/dev/vda2".into(),
            root: "/dev/vda4".into(),
            root_uuid: "aa-bb".into(),
            efi_uuid: "1234-ABCD".into(),
            others: vec![("/dev/vda3".into(), "data".into(), "/data".into())],
        }
    }

    fn plan() -> InstallPlan {
        serde_json::from_value(serde_json::json!({
            "class": "c", "hostname": "node01", "disk": {}, "method": { "method": "tree", "system": { "digest": "d", "size": 1 } },
            "kernel_parameters": ["quiet"], "files": { "/etc/deep/er/motd": "hello\n" },
        }))
        .unwrap()
    }

    #[test]
    fn the_machines_own_files_are_written_and_the_credential_is_for_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let target = tempfile::tempdir().unwrap();
        fs::create_dir(target.path().join("etc")).unwrap();
        let configuration = AgentConfiguration {
            version: 1,
            deployer_url: "http://x".into(),
            ca_certificate: None,
            credential: "hunter2".into(),
            node: "node01".into(),
            binary_cache: None,
        };
        configure(target.path(), &plan(), &laid_out(), &configuration).unwrap();
        let read = |path: &str| fs::read_to_string(target.path().join(path)).unwrap();
        assert_eq!(read("etc/hostname"), "node01\n");
        assert!(read("etc/hosts").contains("127.0.1.1 node01"));
        assert_eq!(read("etc/deep/er/motd"), "hello\n");
        let fstab = read("etc/fstab");
        assert!(fstab.contains("UUID=aa-bb / ext4") && fstab.contains("LABEL=data /data ext4"), "{fstab}");
        let mode = fs::metadata(target.path().join("etc/bootproof/agent.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn boot_loaders_are_written_after_everything_else_and_the_bios_one_last() {
        let target = tempfile::tempdir().unwrap();
        let boot = target.path().join("boot");
        fs::create_dir_all(boot.join("efi/EFI/bootproof")).unwrap();
        fs::write(boot.join("efi/EFI/bootproof/grubx64.efi"), "GRUB").unwrap();
        for release in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"] {
            fs::write(boot.join(format!("vmlinuz-{release}")), "").unwrap();
            fs::write(boot.join(format!("initrd.img-{release}")), "").unwrap();
        }
        let runner = Noted::default();
        make_bootable(&runner, target.path(), &plan(), &laid_out(), &["console=ttyS0,115200".into()]).unwrap();
        let text = fs::read_to_string(boot.join("grub/grub.cfg")).unwrap();
        let first = text.lines().find(|line| line.starts_with("  linux")).unwrap();
        let line =
            "/boot/vmlinuz-6.1.0-56-cloud-amd64 bootproof.root=UUID=aa-bb rw loglevel=4 console=ttyS0,115200 quiet";
        assert_eq!(first, format!("  linux {line}"));
        assert_eq!(fs::read_to_string(boot.join("efi/EFI/BOOT/BOOTX64.EFI")).unwrap(), "GRUB");
        let calls = runner.calls.borrow();
        let installs: Vec<_> = calls.iter().filter(|call| call.starts_with("grub-install")).collect();
        assert!(installs[0].contains("--target=x86_64-efi") && installs[0].contains("--no-nvram"));
        assert!(installs[1].contains("--target=i386-pc") && installs[1].ends_with(" /dev/vda"));
        assert_eq!(installs.len(), 2);
    }

    #[test]
    fn a_bundle_without_a_kernel_and_a_parameter_that_is_a_program_are_refused() {
        let target = tempfile::tempdir().unwrap();
        assert!(kernels(target.path()).unwrap_err().contains("no `/boot`"));
        fs::create_dir(target.path().join("boot")).unwrap();
        fs::write(target.path().join("boot/vmlinuz-1"), "").unwrap();
        assert!(kernels(target.path()).unwrap_err().contains("no kernel"));
        let kernel = ("k".to_owned(), "i".to_owned());
        assert!(grub_configuration(&[kernel], "u", &[], &["a;reboot".into()]).is_err());
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let full = "`tar` ended with 2: ./x: Cannot write: No space left on device".to_owned();
        let runner = Noted { answers: vec![("tar".into(), Err(full))], ..Noted::default() };
        assert!(unpack(&runner, Path::new("/b")).unwrap_err().starts_with("the disk is full"));
    }
}
