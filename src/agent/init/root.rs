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

use super::coldplug::Drivers;
use super::mounts::take_console;
use super::network::Declared;
use crate::agent::kernel_parameters::KernelParameters;
use crate::agent::say;
use crate::agent::uevent::Uevents;

pub(super) const NEW_ROOT: &str = "/newroot";

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
    let wanted = Name::parse(wanted)
        .ok_or_else(|| format!("`bootproof.root={wanted}` is not of the form `LABEL=<label>` or `UUID=<uuid>`"))?;
    let device = find(&wanted)?;
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("failed to make `{NEW_ROOT}`: {error}"))?;
    let flags = if parameters.has("ro") { MountFlags::RDONLY } else { MountFlags::empty() };
    mount(&device, NEW_ROOT, "ext4", flags, c"")
        .map_err(|error| format!("failed to mount `{}`, {wanted}, as root: {error}", device.display()))?;
    let init = parameters.value("init").unwrap_or("/sbin/init");
    // Not followed: the link's target is below the new root.
    let inside = Path::new(NEW_ROOT).join(init.trim_start_matches('/'));
    fs::symlink_metadata(&inside).map_err(|error| format!("failed to find `{init}` in the root: {error}"))?;
    move_mounts(&["/proc", "/sys", "/dev", "/run"])?;
    Declared::of(parameters).leave_files(Path::new(NEW_ROOT));
    let _ = unmount("/tmp", UnmountFlags::DETACH);
    free_initramfs();
    enter().map_err(|error| format!("failed to enter the root: {error}"))?;
    take_console();
    // The kernel gave us what it did not understand of its command line, for init.
    let error = Command::new(init).args(std::env::args_os().skip(1)).exec();
    Err(format!("failed to start `{init}`: {error}"))
}

/// Takes the kernel's file systems along to the new root.
pub(super) fn move_mounts(targets: &[&str]) -> Result<(), String> {
    for target in targets {
        let moved = format!("{NEW_ROOT}{target}");
        mount_move(*target, &moved).map_err(|error| format!("failed to move `{target}` to the root: {error}"))?;
    }
    Ok(())
}

/// By what a file system is found.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Label(String),
    /// Lower case.
    Uuid(String),
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('=')? {
            (_, "") => None,
            ("LABEL", label) => Some(Self::Label(label.into())),
            ("UUID", uuid) => Some(Self::Uuid(uuid.to_ascii_lowercase())),
            _ => None,
        }
    }

    fn is(&self, disk: &FileSystem) -> bool {
        match self {
            Self::Label(label) => disk.label == *label,
            Self::Uuid(uuid) => disk.uuid == *uuid,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => write!(formatter, "labelled `{label}`"),
            Self::Uuid(uuid) => write!(formatter, "with the UUID `{uuid}`"),
        }
    }
}

/// What an ext4 superblock says of itself.
#[derive(Debug, PartialEq, Eq)]
struct FileSystem {
    label: String,
    uuid: String,
}

/// Waits for the kernel's announcements, loading drivers for what appears, until a disk with that name is there.
fn find(wanted: &Name) -> Result<PathBuf, String> {
    let uevents = Uevents::subscribe().map_err(|error| format!("failed to listen for devices: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    let mut drivers = Drivers::listed();
    loop {
        drivers.load_for_devices();
        let disks = disks();
        if let Some((device, _)) = disks.iter().find(|(_, found)| found.as_ref().is_some_and(|found| wanted.is(found)))
        {
            return Ok(device.clone());
        }
        let announced =
            uevents.wait_any(Some(deadline)).map_err(|error| format!("failed to wait for a disk: {error}"))?;
        if !announced {
            let seen: Vec<String> = disks
                .iter()
                .map(|(device, found)| match found {
                    Some(found) => format!("{} (ext4, `{}`)", device.display(), found.label),
                    None => format!("{} (no ext4)", device.display()),
                })
                .collect();
            let seen = if seen.is_empty() { "there is no disk at all".into() } else { seen.join(", ") };
            let seconds = PATIENCE.as_secs();
            return Err(format!("no file system {wanted} within {seconds} s: {seen}"));
        }
    }
}

/// Every block device, with the ext4 file system on it.
fn disks() -> Vec<(PathBuf, Option<FileSystem>)> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut disks: Vec<_> = entries
        .flatten()
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .map(|device| {
            let found = File::open(&device).and_then(read_superblock).ok().flatten();
            (device, found)
        })
        .collect();
    disks.sort_by(|one, other| one.0.cmp(&other.0));
    disks
}

/// Reads an ext4 superblock, which begins 1024 bytes into the device.
fn read_superblock(mut device: impl Read + Seek) -> io::Result<Option<FileSystem>> {
    let mut superblock = [0u8; 136];
    device.seek(SeekFrom::Start(1024))?;
    device.read_exact(&mut superblock)?;
    if superblock[56..58] != 0xef53u16.to_le_bytes() {
        return Ok(None);
    }
    let label = &superblock[120..136];
    let length = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
    let mut uuid = String::new();
    for (index, byte) in superblock[104..120].iter().enumerate() {
        let hyphen = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        uuid.push_str(&format!("{hyphen}{byte:02x}"));
    }
    Ok(Some(FileSystem { label: String::from_utf8_lossy(&label[..length]).into_owned(), uuid }))
}

/// Gives the initramfs's memory back: its files would stay for ever below the new root.
pub(super) fn free_initramfs() {
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

pub(super) fn enter() -> io::Result<()> {
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::{Name, read_superblock};

    #[test]
    fn a_label_is_read_from_a_superblock_and_from_nothing_else() {
        let mut disk = vec![0u8; 4096];
        assert_eq!(read_superblock(Cursor::new(&disk)).unwrap(), None);
        disk[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        disk[1024 + 120..1024 + 124].copy_from_slice(b"root");
        assert_eq!(read_superblock(Cursor::new(&disk)).unwrap().unwrap().label, "root");
        disk[1024 + 120..1024 + 136].copy_from_slice(b"sixteen-letters!");
        assert_eq!(read_superblock(Cursor::new(&disk)).unwrap().unwrap().label, "sixteen-letters!");
        assert!(read_superblock(Cursor::new(&disk[..1100])).is_err());
        disk[1024 + 104..1024 + 108].copy_from_slice(&[0xab, 0xcd, 0xef, 0x01]);
        let found = read_superblock(Cursor::new(&disk)).unwrap().unwrap();
        assert!(Name::parse("UUID=ABCDEF01-0000-0000-0000-000000000000").unwrap().is(&found));
        assert!(!Name::parse("LABEL=other").unwrap().is(&found));
        assert_eq!(Name::parse("/dev/sda1"), None);
        assert_eq!(Name::parse("LABEL="), None);
    }
}
