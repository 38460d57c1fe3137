//! What a debian image gets from us beside its packages: the configuration that the recipe owns, the agent as a service,
//! the lane's overlay. All of it is laid out in one folder first, and laid over the root file system in one go.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Where the agent stands in the guest.
const AGENT: &str = "usr/lib/bootproof/bootproof-agent";
const HOSTNAME: &str = "bootproof";

/// The recipe owns these: what the host has in their place says nothing about a machine under test.
const CONFIGURATION: &[(&str, &str)] = &[
    ("etc/hostname", "bootproof\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 bootproof\n::1 localhost ip6-localhost ip6-loopback\n"),
    // QEMU's user network answers here, where a lane lets it; a closed network must not cost a lookup many seconds.
    ("etc/resolv.conf", "nameserver 10.0.2.3\noptions timeout:1 attempts:1\n"),
    // Empty, so that each machine gives itself an identity at its first boot; not absent, which would also apply presets.
    ("etc/machine-id", ""),
    ("etc/locale.conf", "LANG=C.UTF-8\n"),
    ("etc/default/locale", "LANG=C.UTF-8\n"),
    ("etc/timezone", "UTC\n"),
    ("etc/fstab", "# Stage 1 mounts the root file system by its label, writable.\n"),
    (
        "etc/systemd/network/80-bootproof.network",
        "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    ),
    ("etc/systemd/system/bootproof-agent.service", include_str!("guest/bootproof-agent.service")),
    (
        // Announcing every terminal, memory block and processor anew costs seconds: among others it loads a hypervisor
        // and a dozen ciphers for the features of an emulated processor.
        "etc/systemd/system/systemd-udev-trigger.service.d/bootproof.conf",
        include_str!("guest/systemd-udev-trigger.conf"),
    ),
    ("etc/systemd/system/bootproof-boot.service", include_str!("guest/bootproof-boot.service")),
    ("etc/systemd/system/bootproof-converge.service", include_str!("guest/bootproof-converge.service")),
    ("etc/systemd/system/bootproof-marker@.service", include_str!("guest/bootproof-marker@.service")),
];

const LINKS: &[(&str, &str)] = &[
    ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ("usr/bin/bootproof-agent", "../lib/bootproof/bootproof-agent"),
    ("etc/systemd/system/sysinit.target.wants/bootproof-agent.service", "../bootproof-agent.service"),
    ("etc/systemd/system/sysinit.target.wants/bootproof-boot.service", "../bootproof-boot.service"),
    ("etc/systemd/system/multi-user.target.wants/bootproof-converge.service", "../bootproof-converge.service"),
    (
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    ),
    ("etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target"),
];

/// Units that do nothing for a machine under test but take time, write to its console, or reach for the network. An emulated
/// processor needs about a tenth of a second for each of the mounts and modules. An overlay can bring any of them back.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "logrotate.timer",
    "man-db.timer",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "serial-getty@hvc0.service",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
    "systemd-networkd-wait-online.service",
    // Stage 1 has mounted the root file system as it stays.
    "systemd-remount-fs.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// Lays everything out in `folder`, which must be empty.
pub(super) fn lay_out(folder: &Path, agent: &Path, files: Option<&Path>) -> Result<()> {
    debug_assert!(CONFIGURATION[0].1.trim() == HOSTNAME);
    for (path, text) in CONFIGURATION {
        write(folder, path, text.as_bytes(), 0o644)?;
    }
    for (path, target) in LINKS {
        link(folder, path, target)?;
    }
    for unit in MASKED {
        link(folder, &format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    let bytes = fs::read(agent).infrastructure(|| format!("failed to read the agent `{}`", agent.display()))?;
    write(folder, AGENT, &bytes, 0o755)?;
    match files {
        Some(files) => copy_folder(files, folder),
        None => Ok(()),
    }
}

fn write(folder: &Path, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = folder.join(path);
    let context = || format!("failed to write `{}`", path.display());
    make_parents(&path).infrastructure(context)?;
    fs::write(&path, content).infrastructure(context)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).infrastructure(context)
}

fn link(folder: &Path, path: &str, target: &str) -> Result<()> {
    let path = folder.join(path);
    let context = || format!("failed to make the link `{}`", path.display());
    make_parents(&path).infrastructure(context)?;
    symlink(target, &path).infrastructure(context)
}

fn make_parents(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Copies an overlay over what is there, with the modes that git can keep: 0755 for what can be executed, else 0644.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from).min_depth(1).sort_by_file_name() {
        let entry = entry.infrastructure(|| format!("failed to read the overlay `{}`", from.display()))?;
        let path = entry.path();
        let target = to.join(path.strip_prefix(from).unwrap_or(path));
        let context = || format!("failed to copy `{}` into the image", path.display());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).infrastructure(context)?;
            continue;
        }
        // An overlay may replace what we put there, a mask by a unit, say.
        if fs::symlink_metadata(&target).is_ok_and(|metadata| !metadata.is_dir()) {
            fs::remove_file(&target).infrastructure(context)?;
        }
        if entry.file_type().is_symlink() {
            symlink(fs::read_link(path).infrastructure(context)?, &target).infrastructure(context)?;
        } else if entry.file_type().is_file() {
            fs::copy(path, &target).infrastructure(context)?;
            let executable = entry.metadata().infrastructure(context)?.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).infrastructure(context)?;
        } else {
            return Err(Error::usage(format!("`{}` is neither a file, a folder nor a link", path.display()))
                .hint("an overlay can hold nothing else"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_agent_configuration_and_overlay_and_the_overlay_wins() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        fs::write(&agent, "AGENT").unwrap();
        let files = folder.path().join("files");
        fs::create_dir_all(files.join("etc/systemd/system")).unwrap();
        fs::write(files.join("etc/hosts"), "mine").unwrap();
        fs::write(files.join("etc/systemd/system/apt-daily.timer"), "[Timer]").unwrap();
        symlink("hosts", files.join("etc/names")).unwrap();
        let laid = folder.path().join("laid");
        fs::create_dir(&laid).unwrap();
        lay_out(&laid, &agent, Some(&files)).unwrap();
        let read = |path: &str| fs::read_to_string(laid.join(path)).unwrap();
        assert_eq!(read(AGENT), "AGENT");
        assert_eq!(read("usr/bin/bootproof-agent"), "AGENT");
        assert_eq!(read("etc/hosts"), "mine");
        assert_eq!(read("etc/names"), "mine");
        assert_eq!(read("etc/machine-id"), "");
        assert_eq!(read("etc/systemd/system/apt-daily.timer"), "[Timer]");
        let masked = fs::read_link(laid.join("etc/systemd/system/serial-getty@ttyS0.service")).unwrap();
        assert_eq!(masked, Path::new("/dev/null"));
        let agent_mode = fs::metadata(laid.join(AGENT)).unwrap().permissions().mode();
        assert_eq!(agent_mode & 0o777, 0o755);
    }
}
