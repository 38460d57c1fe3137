//! The mark of an installation that is under way: in the disk's first sector, where a BIOS looks for a boot loader.
//!
//! What always holds: from before the first change until the boot loader is written (which takes the mark's place), the
//! sector holds a program that tells the BIOS to go on with its next device. So a machine whose power is cut boots the
//! medium again, and the installer knows the disk as its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// `int 0x18`, by which a boot program says that it cannot boot; and a stop, should a BIOS come back.
const PROGRAM: &[u8] = &[0xcd, 0x18, 0xf4, 0xeb, 0xfd];
const TEXT: &[u8] = b"bootproof: installing";
/// Behind the parameters of a DOS file system (`0x03` to `0x5a`), which GRUB leaves as it finds them when it takes the
/// sector over: there, the text would outlive the installation, and a finished one would look unfinished.
const TEXT_AT: usize = 0x80;
/// Behind it a partition table may begin.
const ROOM: usize = 440;

/// Writes the mark. It is on the disk when this comes back.
pub fn set(device: &Path) -> io::Result<()> {
    let mut room = [0; ROOM];
    room[..PROGRAM.len()].copy_from_slice(PROGRAM);
    room[TEXT_AT..TEXT_AT + TEXT.len()].copy_from_slice(TEXT);
    let mut disk = OpenOptions::new().read(true).write(true).open(device)?;
    // Whole sectors: the rest of the first one stays as it is.
    let mut sector = [0; 512];
    disk.read_exact(&mut sector)?;
    sector[..ROOM].copy_from_slice(&room);
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&sector)?;
    disk.sync_all()
}

/// Whether the disk carries the mark; a disk that cannot be read does not.
pub fn is_there(device: &Path) -> bool {
    let mut start = [0; ROOM];
    File::open(device).and_then(|mut disk| disk.read_exact(&mut start)).is_ok()
        && start.starts_with(&PROGRAM[..3])
        && start[TEXT_AT..].starts_with(TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_leaves_the_partition_table_alone() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(disk.path(), [7; 1024]).unwrap();
        assert!(!is_there(disk.path()));
        set(disk.path()).unwrap();
        assert!(is_there(disk.path()));
        let bytes = std::fs::read(disk.path()).unwrap();
        assert!(bytes[440..].iter().all(|byte| *byte == 7) && bytes.len() == 1024);
    }

    #[test]
    fn a_boot_loader_takes_the_marks_place() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(disk.path(), [0; 1024]).unwrap();
        set(disk.path()).unwrap();
        // As grub-install does: its code, but for the parameters of a DOS file system and the partition table.
        let mut sector = std::fs::read(disk.path()).unwrap();
        sector[..3].copy_from_slice(&[0xeb, 0x63, 0x90]);
        sector[0x5a..ROOM].fill(0xfa);
        std::fs::write(disk.path(), sector).unwrap();
        assert!(!is_there(disk.path()));
    }
}
