//! The first stage of a live medium's boot: find the medium, lay a file system in memory over what it holds, move there, and
//! become init again.
//!
//! The live system's root is `/live.squashfs`: of the initramfs (a machine that was booted over the network has all of it in
//! memory), or of the medium with the wanted label: a CD, a USB stick, a disk.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use super::coldplug::Drivers;
use super::mounts::take_console;
use super::root::{NEW_ROOT, enter, free_initramfs, move_mounts};
use crate::agent::uevent::Uevents;

/// What the agent is told as init of the live system: not to look for it once more.
pub const STAGE: &str = "live";

const SQUASHFS: &str = "live.squashfs";
/// Below `/run`, which moves to the live system: the medium stays reachable there.
const MEDIUM: &str = "/run/bootproof/medium";
const LOWER: &str = "/run/bootproof/live/lower";
const UPPER: &str = "/run/bootproof/live/upper";
/// The first loop device: nobody else uses one so early.
const LOOP: &str = "/dev/loop0";

/// How long a medium may take to appear: a USB stick behind a slow hub, a drive that spins up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Comes back only with the reason why it did not work.
pub fn switch(wanted: &str) -> String {
    match try_switch(wanted) {
        Err(reason) => reason,
        Ok(never) => match never {},
    }
}

fn try_switch(wanted: &str) -> Result<Infallible, String> {
    let label = wanted
        .strip_prefix("LABEL=")
        .filter(|label| !label.is_empty())
        .ok_or_else(|| format!("`bootproof.root=live:{wanted}` is not of the form `live:LABEL=<label>`"))?;
    let in_memory = Path::new("/").join(SQUASHFS);
    let squashfs = if in_memory.is_file() { in_memory } else { on_medium(label)? };
    mount_live(&squashfs)?;
    move_mounts(&["/proc", "/sys", "/dev", "/run"])?;
    let _ = rustix::mount::unmount("/tmp", rustix::mount::UnmountFlags::DETACH);
    free_initramfs();
    enter().map_err(|error| format!("failed to enter the live system: {error}"))?;
    take_console();
    let init = "/usr/sbin/init";
    let error = Command::new(init).arg0("init").arg(STAGE).exec();
    Err(format!("failed to start `{init}`: {error}"))
}

/// Mounts the medium; answers the squashfs on it.
fn on_medium(label: &str) -> Result<PathBuf, String> {
    let device = find(label)?;
    make_folder(MEDIUM)?;
    mount(&device, MEDIUM, "iso9660", MountFlags::RDONLY, c"")
        .map_err(|error| format!("failed to mount the medium `{}`: {error}", device.display()))?;
    Ok(Path::new(MEDIUM).join(SQUASHFS))
}

fn mount_live(squashfs: &Path) -> Result<(), String> {
    set_up_loop(squashfs).map_err(|error| format!("failed to make a disk of `{}`: {error}", squashfs.display()))?;
    for folder in [LOWER, UPPER, NEW_ROOT] {
        make_folder(folder)?;
    }
    mount(LOOP, LOWER, "squashfs", MountFlags::RDONLY, c"")
        .map_err(|error| format!("failed to mount `{}`: {error}", squashfs.display()))?;
    mount("tmpfs", UPPER, "tmpfs", MountFlags::empty(), c"mode=0755,size=75%")
        .map_err(|error| format!("failed to mount memory on `{UPPER}`: {error}"))?;
    let (files, work) = (format!("{UPPER}/files"), format!("{UPPER}/work"));
    make_folder(&files)?;
    make_folder(&work)?;
    let options = std::ffi::CString::new(format!("lowerdir={LOWER},upperdir={files},workdir={work}"))
        .map_err(|error| error.to_string())?;
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|error| format!("failed to lay memory over the medium: {error}"))?;
    for folder in ["proc", "sys", "dev", "run", "tmp", "mnt"] {
        make_folder(&format!("{NEW_ROOT}/{folder}"))?;
    }
    Ok(())
}

fn make_folder(path: &str) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("failed to make `{path}`: {error}"))
}

/// Ties the file to the first loop device, for reading only.
fn set_up_loop(file: &Path) -> io::Result<()> {
    /// `LOOP_SET_FD` of the kernel's `linux/loop.h`.
    const LOOP_SET_FD: rustix::ioctl::Opcode = 0x4c00;
    let file = File::open(file)?;
    let device = File::open(LOOP)?;
    // Safety: the kernel takes the descriptor's number by value, and a reference of its own to the file behind it.
    unsafe {
        let request = rustix::ioctl::IntegerSetter::<LOOP_SET_FD>::new_usize(file.as_raw_fd() as usize);
        rustix::ioctl::ioctl(&device, request)?;
    }
    Ok(())
}

/// Waits for the kernel's announcements, loading drivers for what appears, until a medium with that label is there.
fn find(label: &str) -> Result<PathBuf, String> {
    let uevents = Uevents::subscribe().map_err(|error| format!("failed to listen for devices: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    let mut drivers = Drivers::listed();
    loop {
        drivers.load_for_devices();
        let media = media();
        if let Some((device, _)) = media.iter().find(|(_, found)| found.as_deref() == Some(label)) {
            return Ok(device.clone());
        }
        // Any device may be what the medium is behind: a hub, a controller, a drive.
        let announced =
            uevents.wait_any(Some(deadline)).map_err(|error| format!("failed to wait for devices: {error}"))?;
        if !announced {
            let seen: Vec<String> = media
                .iter()
                .map(|(device, label)| match label {
                    Some(label) => format!("{} (`{label}`)", device.display()),
                    None => device.display().to_string(),
                })
                .collect();
            let seen = if seen.is_empty() { "there is no disk at all".into() } else { seen.join(", ") };
            return Err(format!("no medium labelled `{label}` within {} s: {seen}", PATIENCE.as_secs()));
        }
    }
}

/// Every block device, with the label of the ISO 9660 file system on it.
fn media() -> Vec<(PathBuf, Option<String>)> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut media: Vec<_> = entries
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("loop"))
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .map(|device| {
            let label = File::open(&device).and_then(label_of).ok().flatten();
            (device, label)
        })
        .collect();
    media.sort();
    media
}

/// The volume's name in a primary volume descriptor, which is the 17th sector of 2048 bytes.
fn label_of(mut device: impl Read + Seek) -> io::Result<Option<String>> {
    let mut descriptor = [0u8; 72];
    device.seek(SeekFrom::Start(16 * 2048))?;
    device.read_exact(&mut descriptor)?;
    if descriptor[..6] != *b"\x01CD001" {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&descriptor[40..]).trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::label_of;

    #[test]
    fn a_volumes_name_is_read_from_its_descriptor_and_from_nothing_else() {
        let mut medium = vec![0u8; 40 << 10];
        assert_eq!(label_of(Cursor::new(&medium)).unwrap(), None);
        medium[32768..32774].copy_from_slice(b"\x01CD001");
        medium[32768 + 40..32768 + 72].copy_from_slice(b"BOOTPROOF_LIVE                  ");
        assert_eq!(label_of(Cursor::new(&medium)).unwrap().as_deref(), Some("BOOTPROOF_LIVE"));
        assert!(label_of(Cursor::new(&medium[..1000])).is_err());
    }
}
