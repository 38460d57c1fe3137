//! The first stage of a disk image's boot: find its root, move there, become its init.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};

use super::mounts::take_console;
use super::network::Declared;
use crate::agent::kernel_parameters::KernelParameters;
use crate::agent::say;
use crate::agent::uevent::Uevents;

const NEW_ROOT: &str = "/newroot";

/// How long a disk may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(30);

/// Comes back only with the reason why it did not work.
pub fn switch(wanted: &str, parameters: &KernelParameters) -> String {
    match try_switch(wanted, parameters) {
        Err(reason) => reason,
        Ok(never) => match never {},
    }
}

fn try_switch(wanted: &str, parameters: &KernelParameters) -> Result<Infallible, String> {
    let label = wanted
        .strip_prefix("LABEL=")
        .filter(|label| !label.is_empty())
        .ok_or_else(|| format!("`bootproof.root={wanted}` is not of the form `LABEL=<label>`"))?;
    let device = find(label)?;
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("failed to make `{NEW_ROOT}`: {error}"))?;
    let flags = if parameters.has("ro") { MountFlags::RDONLY } else { MountFlags::empty() };
    mount(&device, NEW_ROOT, "ext4", flags, c"")
        .map_err(|error| format!("failed to mount `{}`, labelled `{label}`, as root: {error}", device.display()))?;
    let init = parameters.value("init").unwrap_or("/sbin/init");
    // Not followed: the link's target is below the new root.
    let inside = Path::new(NEW_ROOT).join(init.trim_start_matches('/'));
    fs::symlink_metadata(&inside).map_err(|error| format!("failed to find `{init}` in the root: {error}"))?;
    for target in ["/proc", "/sys", "/dev", "/run"] {
        let moved = format!("{NEW_ROOT}{target}");
        mount_move(target, &moved).map_err(|error| format!("failed to move `{target}` to the root: {error}"))?;
    }
    Declared::of(parameters).leave_files(Path::new(NEW_ROOT));
    let _ = unmount("/tmp", UnmountFlags::DETACH);
    free_initramfs();
    enter().map_err(|error| format!("failed to enter the root: {error}"))?;
    take_console();
    // The kernel gave us what it did not understand of its command line, for init.
    let error = Command::new(init).args(std::env::args_os().skip(1)).exec();
    Err(format!("failed to start `{init}`: {error}"))
}

/// Waits for the kernel's announcements until a disk with that label is there.
fn find(label: &str) -> Result<PathBuf, String> {
    let uevents = Uevents::subscribe().map_err(|error| format!("failed to listen for devices: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let disks = labelled_disks();
        if let Some((device, _)) = disks.iter().find(|(_, found)| found.as_deref() == Some(label)) {
            return Ok(device.clone());
        }
        let announced =
            uevents.wait("block", Some(deadline)).map_err(|error| format!("failed to wait for a disk: {error}"))?;
        if !announced {
            let seen: Vec<String> = disks
                .iter()
                .map(|(device, label)| match label {
                    Some(label) => format!("{} (ext4, `{label}`)", device.display()),
                    None => format!("{} (no ext4)", device.display()),
                })
                .collect();
            let seen = if seen.is_empty() { "there is no disk at all".into() } else { seen.join(", ") };
            let seconds = PATIENCE.as_secs();
            return Err(format!("no file system labelled `{label}` within {seconds} s: {seen}"));
        }
    }
}

/// Every block device, with the label of the ext4 file system on it.
fn labelled_disks() -> Vec<(PathBuf, Option<String>)> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut disks: Vec<_> = entries
        .flatten()
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .map(|device| {
            let label = File::open(&device).and_then(label_of).ok().flatten();
            (device, label)
        })
        .collect();
    disks.sort();
    disks
}

/// The label in an ext4 superblock, which begins 1024 bytes into the device.
fn label_of(mut device: impl Read + Seek) -> io::Result<Option<String>> {
    let mut superblock = [0u8; 136];
    device.seek(SeekFrom::Start(1024))?;
    device.read_exact(&mut superblock)?;
    if superblock[56..58] != 0xef53u16.to_le_bytes() {
        return Ok(None);
    }
    let label = &superblock[120..136];
    let length = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
    Ok(Some(String::from_utf8_lossy(&label[..length]).into_owned()))
}

/// Gives the initramfs's memory back: its files would stay for ever below the new root.
fn free_initramfs() {
    if let Ok(root) = fs::metadata("/") {
        remove_below(Path::new("/"), root.dev());
    }
}

fn remove_below(directory: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        // Of the directory entry itself: links are not followed, and mounted file systems are not entered.
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        let removed = if metadata.is_dir() {
            remove_below(&path, device);
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        // A directory stays when something is mounted in it.
        if let Err(error) = removed
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            say(&format!("failed to remove `{}`: {error}", path.display()));
        }
    }
}

fn enter() -> io::Result<()> {
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::label_of;

    #[test]
    fn a_label_is_read_from_a_superblock_and_from_nothing_else() {
        let mut disk = vec![0u8; 4096];
        assert_eq!(label_of(Cursor::new(&disk)).unwrap(), None);
        disk[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        disk[1024 + 120..1024 + 124].copy_from_slice(b"root");
        assert_eq!(label_of(Cursor::new(&disk)).unwrap().as_deref(), Some("root"));
        disk[1024 + 120..1024 + 136].copy_from_slice(b"sixteen-letters!");
        assert_eq!(label_of(Cursor::new(&disk)).unwrap().as_deref(), Some("sixteen-letters!"));
        assert!(label_of(Cursor::new(&disk[..1100])).is_err());
    }
}
