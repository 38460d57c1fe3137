//! Disks of which a power cut leaves a part of what was not flushed: QEMU logs every write (`blklogwrites`), and after the
//! cut the disk is made anew from what it was at power-on: everything up to the last flush, and of what came after it
//! each block that chance keeps.
//!
//! The log has the format of Linux's dm-log-writes: a superblock, then for each request one sector that describes it and
//! its data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::lane::units::Share;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
/// A disk writes so much in one go or not at all.
const BLOCK: u64 = 4096;

const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;

/// What is read of the log at once.
const CHUNK: u64 = 1 << 20;

/// A disk whose writes are logged.
#[derive(Clone, Debug)]
pub struct WriteLog {
    /// The disk's content.
    pub file: PathBuf,
    /// The share of unflushed blocks that survive.
    pub survives: Share,
    /// What chance follows from, besides how often the power was cut.
    pub seed: String,
}

/// What became of the unflushed blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survivors {
    pub kept: u64,
    pub lost: u64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// In bytes, on the disk.
    offset: u64,
    length: u64,
    flags: u64,
    /// In bytes, in the log.
    data: u64,
}

impl WriteLog {
    pub fn log(&self) -> PathBuf {
        self.beside("writes")
    }

    fn base(&self) -> PathBuf {
        self.beside("base")
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut path = self.file.clone().into_os_string();
        path.push(format!(".{extension}"));
        path.into()
    }

    /// Before QEMU starts: remembers what the disk is now, and makes an empty log.
    pub async fn prepare(&self) -> Result<()> {
        let failed = || format!("failed to prepare the log of the disk `{}`", self.file.display());
        let copied = tokio::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", "--"])
            .arg(&self.file)
            .arg(self.base())
            .stdin(Stdio::null())
            .output()
            .await
            .infrastructure(failed)?;
        if !copied.status.success() {
            let said = String::from_utf8_lossy(&copied.stderr).trim().to_owned();
            return Err(Error::infrastructure(failed()).with_source(said));
        }
        let size = std::fs::metadata(&self.file).infrastructure(failed)?.len();
        let log = File::create(self.log()).map_err(|error| Error::storage(error, failed()))?;
        // Sparse: room for the disk to be written sixteen times over, and QEMU does not make it longer.
        log.set_len(size.saturating_mul(16).saturating_add(64 << 20)).map_err(|error| Error::storage(error, failed()))
    }

    /// After a power cut: makes the disk what the cut has left of it. `cut` counts the power cuts.
    pub fn replay(&self, cut: u32) -> Result<Survivors> {
        let failed = || format!("failed to make the disk `{}` what the power cut left of it", self.file.display());
        let log = File::open(self.log()).infrastructure(failed)?;
        let entries = entries(&log).infrastructure(failed)?;
        let disk = File::options().write(true).open(self.base()).infrastructure(failed)?;
        let survivors = self.apply(&log, &entries, &disk, cut).map_err(|error| Error::storage(error, failed()))?;
        std::fs::rename(self.base(), &self.file).infrastructure(failed)?;
        Ok(survivors)
    }

    fn apply(&self, log: &File, entries: &[Entry], disk: &File, cut: u32) -> io::Result<Survivors> {
        // A flush makes everything before it durable.
        let flushed = entries.iter().rposition(|entry| entry.flags & FLUSH != 0).unwrap_or(0);
        let mut random = ChaCha8Rng::from_seed(
            Sha256::new_with_prefix("bootproof unflushed writes 1\0")
                .chain_update(&self.seed)
                .chain_update(cut.to_be_bytes())
                .finalize()
                .into(),
        );
        let mut survivors = Survivors::default();
        for (index, entry) in entries.iter().enumerate() {
            if index < flushed || entry.flags & FORCED != 0 {
                copy(log, disk, *entry)?;
                continue;
            }
            let end = entry.offset + entry.length;
            let mut at = entry.offset;
            while at < end {
                let next = ((at / BLOCK + 1) * BLOCK).min(end);
                let keep = (u64::from(random.next_u32()) * 1_000_000) >> 32 < u64::from(self.survives.millionths);
                if keep {
                    let data = entry.data + (at - entry.offset);
                    copy(log, disk, Entry { offset: at, length: next - at, data, ..*entry })?;
                    survivors.kept += 1;
                } else {
                    survivors.lost += 1;
                }
                at = next;
            }
        }
        Ok(survivors)
    }
}

/// Does what the request did.
fn copy(log: &File, disk: &File, entry: Entry) -> io::Result<()> {
    let mut done = 0;
    while done < entry.length {
        let size = (entry.length - done).min(CHUNK);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        // What was discarded reads as zeros.
        if entry.flags & DISCARD == 0 {
            log.read_exact_at(&mut bytes, entry.data + done)?;
        }
        disk.write_all_at(&bytes, entry.offset + done)?;
        done += size;
    }
    Ok(())
}

/// Everything that was logged whole.
fn entries(log: &File) -> io::Result<Vec<Entry>> {
    let mut superblock = [0; 28];
    log.read_exact_at(&mut superblock, 0)?;
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if number(&superblock, 0) == 0 {
        // Nothing was ever written.
        return Ok(Vec::new());
    }
    let sector = u64::from(u32::from_le_bytes(superblock[24..28].try_into().expect("four bytes")));
    if number(&superblock, 0) != MAGIC || number(&superblock, 8) != 1 || sector != SECTOR {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no log of writes"));
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log of writes is damaged");
    let end = log.metadata()?.len();
    let mut at = SECTOR;
    let mut entries = Vec::new();
    for _ in 0..number(&superblock, 16) {
        let mut head = [0; 32];
        log.read_exact_at(&mut head, at)?;
        let (offset, length) = (number(&head, 0).checked_mul(SECTOR), number(&head, 8).checked_mul(SECTOR));
        let (Some(offset), Some(length)) = (offset, length) else { return Err(damaged()) };
        let flags = number(&head, 16);
        let data = at + SECTOR;
        entries.push(Entry { offset, length, flags, data });
        let logged = if flags & DISCARD == 0 { length } else { 0 };
        at = data.checked_add(logged).filter(|next| *next <= end).ok_or_else(damaged)?;
    }
    Ok(entries)
}

/// The part of a QEMU block device that writes the log.
pub(super) fn log_options(log: &Path) -> String {
    let log = log.to_string_lossy().replace(',', ",,");
    // The superblock counts the entries: it has to be right whenever the power is cut. The host does not go down.
    format!("log.driver=file,log.filename={log},log.cache.no-flush=on,log-super-update-interval=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of eight blocks, and a log of these requests: block, byte that fills it, flags.
    fn logged(folder: &Path, survives: &str, requests: &[(u64, u8, u64)]) -> WriteLog {
        let write_log =
            WriteLog { file: folder.join("disk.raw"), survives: survives.parse().unwrap(), seed: "seed".into() };
        std::fs::write(&write_log.file, vec![b'.'; 8 * BLOCK as usize]).unwrap();
        std::fs::copy(&write_log.file, write_log.base()).unwrap();
        let mut log = vec![0; SECTOR as usize];
        log[..8].copy_from_slice(&MAGIC.to_le_bytes());
        log[8..16].copy_from_slice(&1u64.to_le_bytes());
        log[16..24].copy_from_slice(&(requests.len() as u64).to_le_bytes());
        log[24..28].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        for (block, byte, flags) in requests {
            let length = if *byte == 0 && flags & DISCARD == 0 { 0 } else { BLOCK / SECTOR };
            let mut head = vec![0; SECTOR as usize];
            head[..8].copy_from_slice(&(block * BLOCK / SECTOR).to_le_bytes());
            head[8..16].copy_from_slice(&length.to_le_bytes());
            head[16..24].copy_from_slice(&flags.to_le_bytes());
            log.extend(head);
            if flags & DISCARD == 0 {
                log.extend(vec![*byte; (length * SECTOR) as usize]);
            }
        }
        std::fs::write(write_log.log(), log).unwrap();
        write_log
    }

    fn blocks(write_log: &WriteLog) -> String {
        let disk = std::fs::read(&write_log.file).unwrap();
        disk.chunks(BLOCK as usize)
            .map(|block| {
                assert!(block.iter().all(|byte| *byte == block[0]), "a block is whole");
                if block[0] == 0 { '0' } else { char::from(block[0]) }
            })
            .collect()
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_what_chance_keeps() {
        let requests = [(0, b'a', 0), (1, b'b', 0), (1, 0, DISCARD), (0, 0, FLUSH), (2, b'c', 0), (3, b'd', FORCED)];
        for (survives, wanted, kept, lost) in [("0%", "a0.d....", 0, 1), ("100%", "a0cd....", 1, 0)] {
            let folder = tempfile::tempdir().unwrap();
            let write_log = logged(folder.path(), survives, &requests);
            assert_eq!(write_log.replay(1).unwrap(), Survivors { kept, lost });
            assert_eq!(blocks(&write_log), wanted);
        }
    }

    #[test]
    fn the_same_seed_keeps_the_same_and_each_cut_is_another() {
        let requests: Vec<(u64, u8, u64)> = (0..8).map(|block| (block, b'a' + block as u8, 0)).collect();
        let left = |cut| {
            let folder = tempfile::tempdir().unwrap();
            let write_log = logged(folder.path(), "50%", &requests);
            write_log.replay(cut).unwrap();
            blocks(&write_log)
        };
        assert_eq!(left(1), left(1));
        let different: std::collections::BTreeSet<String> = (1..6).map(left).collect();
        assert!(different.len() > 2, "{different:?}");
    }

    #[test]
    fn a_damaged_log_is_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let write_log = logged(folder.path(), "50%", &[(0, b'a', 0)]);
        let mut log = std::fs::read(write_log.log()).unwrap();
        log.truncate(700);
        std::fs::write(write_log.log(), &log).unwrap();
        assert!(write_log.replay(1).is_err());
        log[0] = 1;
        std::fs::write(write_log.log(), &log).unwrap();
        assert!(write_log.replay(1).is_err());
        assert_eq!(blocks(&write_log), "........", "the disk is not touched");
    }
}
