//! The folder that holds checkpoints.
//!
//!     <work root>/checkpoints/
//!       <key>/          a checkpoint: checkpoint.json, memory, state, disks, consoles
//!       <key>.making/   one that is being made
//!       <key>.lock      shared by those who use it; held alone by who makes or removes it

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use super::CheckpointKey;
use super::manifest::{FileDigest, MANIFEST_VERSION, Manifest, Standing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lane::units::Size;
use crate::proof::{digest, write_json_atomic};

const DESCRIPTION: &str = "checkpoint.json";
const STANDINGS: &str = "verified.json";
/// Its age is the time since the checkpoint was last used.
const USED: &str = "used";

/// What all checkpoints may take on the disk, where nothing else is said.
pub const DEFAULT_CAP: Size = Size::gibibytes(8);

/// `BOOTPROOF_CHECKPOINT_CAP`, or the default.
///
/// # Errors
/// Usage: the variable is no size.
pub fn cap() -> Result<Size> {
    match std::env::var("BOOTPROOF_CHECKPOINT_CAP") {
        Err(_) => Ok(DEFAULT_CAP),
        Ok(text) => text.parse().map_err(|reason: String| {
            Error::usage(format!("`BOOTPROOF_CHECKPOINT_CAP` is `{text}`: {reason}")).hint("write it like `8GiB`")
        }),
    }
}

/// The checkpoints below one work root.
pub struct CheckpointStore {
    root: PathBuf,
    cap: Size,
}

/// A checkpoint in use: it stays for as long as this lives.
#[derive(Debug)]
pub struct Checkpoint {
    pub folder: PathBuf,
    pub manifest: Manifest,
    /// `sha256:<hex>` of its description, which covers everything in it.
    pub digest: String,
    _used: File,
}

/// What was asked for.
pub enum Found {
    Checkpoint(Checkpoint),
    /// Nobody has it; who gets this is the one to make it. `damaged`: why the one that was there cannot be used.
    Nothing {
        making: Making,
        damaged: Option<String>,
    },
}

/// A checkpoint that is being made: gone when this is dropped, or at the next opening of the store.
pub struct Making {
    pub folder: PathBuf,
    place: PathBuf,
    key: CheckpointKey,
    lock: Option<File>,
}

/// One that is there, for listing.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCheckpoint {
    pub key: String,
    pub manifest: Option<Manifest>,
    /// Bytes on disk.
    pub disk_usage: u64,
    pub used: SystemTime,
    /// Some run holds it.
    pub in_use: bool,
}

impl CheckpointStore {
    /// Opens the store and removes what was left half made. `cap`: bytes on disk in all, beyond which those go that were
    /// not used for longest.
    pub fn open(work_root: &Path, cap: Size) -> Result<Self> {
        let root = work_root.join("checkpoints");
        let failed = |error| Error::storage(error, format!("failed to make the folder `{}`", root.display()));
        fs::create_dir_all(&root).map_err(failed)?;
        let root = fs::canonicalize(&root).map_err(failed)?;
        let store = Self { root, cap };
        store.sweep();
        Ok(store)
    }

    /// Gives it, or the turn to make it. Waits while somebody else does; `waiting` is called once then.
    pub async fn find(&self, key: &CheckpointKey, cancel: &CancellationToken, waiting: impl FnOnce()) -> Result<Found> {
        let place = self.root.join(key.digest());
        let lock = self.lock(&place)?;
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
            && let Ok(checkpoint) = Checkpoint::open(&place, key, &lock)
        {
            return Ok(Found::Checkpoint(checkpoint));
        }
        let lock = self.alone(lock, &place, cancel, waiting).await?;
        // Whoever had the lock before may have made it.
        let damaged = match Checkpoint::open(&place, key, &lock) {
            Ok(checkpoint) => {
                flock(&lock, FlockOperation::LockShared).infrastructure(|| "failed to share a checkpoint".into())?;
                return Ok(Found::Checkpoint(checkpoint));
            }
            Err(reason) => reason,
        };
        let folder = place.with_extension("making");
        let failed = |error| Error::storage(error, format!("failed to make the folder `{}`", folder.display()));
        let _ = fs::remove_dir_all(&place);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Found::Nothing { making: Making { folder, place, key: key.clone(), lock: Some(lock) }, damaged })
    }

    /// Makes room for one that is about to be made.
    ///
    /// # Errors
    /// Budget: it is larger than the cap, or than what is free on the disk.
    pub fn make_room(&self, wanted: Size) -> Result<()> {
        if wanted > self.cap {
            return Err(Error::budget(format!(
                "a checkpoint may take {wanted}, and all of them may take {}",
                self.cap
            ))
            .hint("set `BOOTPROOF_CHECKPOINT_CAP`, or give the machine less memory"));
        }
        let free = rustix::fs::statvfs(&self.root).map_or(u64::MAX, |facts| facts.f_bavail * facts.f_frsize);
        if wanted.bytes() > free {
            return Err(Error::budget(format!("a checkpoint may take {wanted}, and {} are free", Size(free))));
        }
        self.prune(Size(self.cap.bytes() - wanted.bytes())).map(drop)
    }

    /// Removes those that were not used for longest, until the others take no more than that; those in use stay. Gives what
    /// was removed.
    pub fn prune(&self, most: Size) -> Result<Vec<StoredCheckpoint>> {
        let mut there = self.list()?;
        there.sort_by_key(|checkpoint| checkpoint.used);
        let mut total: u64 = there.iter().map(|checkpoint| checkpoint.disk_usage).sum();
        let mut removed = Vec::new();
        for checkpoint in there {
            if total <= most.bytes() {
                break;
            }
            if self.remove(&checkpoint.key)? {
                total -= checkpoint.disk_usage;
                removed.push(checkpoint);
            }
        }
        Ok(removed)
    }

    /// All that are there.
    pub fn list(&self) -> Result<Vec<StoredCheckpoint>> {
        let failed = || format!("failed to read `{}`", self.root.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).infrastructure(failed)? {
            let folder = entry.infrastructure(failed)?.path();
            let Some(key) = folder.file_name().and_then(|name| name.to_str()).filter(|_| folder.is_dir()) else {
                continue;
            };
            if key.contains('.') {
                continue;
            }
            let in_use =
                self.lock(&folder).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
            let used = fs::metadata(folder.join(USED)).and_then(|facts| facts.modified());
            found.push(StoredCheckpoint {
                key: key.into(),
                manifest: read(&folder.join(DESCRIPTION)).ok(),
                disk_usage: disk_usage(&folder),
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
                in_use,
            });
        }
        found.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(found)
    }

    /// Removes one; false while somebody uses it.
    fn remove(&self, key: &str) -> Result<bool> {
        let place = self.root.join(key);
        let lock = self.lock(&place)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        fs::remove_dir_all(&place).infrastructure(|| format!("failed to remove `{}`", place.display()))?;
        Ok(true)
    }

    fn lock(&self, place: &Path) -> Result<File> {
        let path = place.with_extension("lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        opened.map_err(|error| Error::storage(error, format!("failed to open `{}`", path.display())))
    }

    async fn alone(
        &self,
        lock: File,
        place: &Path,
        cancel: &CancellationToken,
        waiting: impl FnOnce(),
    ) -> Result<File> {
        let failed = || format!("failed to lock `{}`", place.display());
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => waiting(),
            Err(error) => return Err(Error::infrastructure(failed()).with_source(error)),
        }
        // Not ours meanwhile: two who both share it would wait for each other.
        let _ = flock(&lock, FlockOperation::Unlock);
        // A blocking wait cannot be cancelled, so it gets a thread that nobody waits for.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = sender.send(flock(&lock, FlockOperation::LockExclusive).map(|()| lock));
        });
        tokio::select! {
            () = cancel.cancelled() => {
                Err(Error::new(ErrorKind::Interrupted, "interrupted while waiting for a checkpoint"))
            }
            outcome = receiver => match outcome {
                Ok(outcome) => outcome.infrastructure(failed),
                Err(_) => Err(Error::infrastructure(failed())),
            },
        }
    }

    /// Removes what nobody is making any more.
    fn sweep(&self) {
        self.abandoned(&mut |_| true);
    }

    /// Shows `take` what was left half made, and removes it where it says so.
    pub fn left_over(work_root: &Path, take: &mut dyn FnMut(&[PathBuf]) -> bool) {
        Self { root: work_root.join("checkpoints"), cap: DEFAULT_CAP }.abandoned(take);
    }

    fn abandoned(&self, take: &mut dyn FnMut(&[PathBuf]) -> bool) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "making")
                && let Ok(lock) = self.lock(&path)
                && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && take(std::slice::from_ref(&path))
            {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

impl Making {
    /// Everything is in the folder: from now on it can be found. The lock is shared from here on.
    pub fn finish(mut self, image: &str, command_line: &str) -> Result<Checkpoint> {
        let failed = || format!("failed to finish the checkpoint `{}`", self.folder.display());
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).infrastructure(failed)? {
            let path = entry.infrastructure(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // What is not on the disk now might be zeros after the host's next crash, and look as it should.
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| Error::storage(error, failed()))?;
            files.insert(name.to_owned(), FileDigest::of(&path).infrastructure(failed)?);
        }
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            key: self.key.clone(),
            image: image.into(),
            made: crate::event::wall_clock(),
            command_line: command_line.into(),
            files,
        };
        write_json_atomic(&self.folder.join(DESCRIPTION), &manifest)?;
        remember(&self.folder, &manifest).infrastructure(failed)?;
        fs::rename(&self.folder, &self.place).infrastructure(failed)?;
        let lock = self.lock.take().expect("it is there until the end");
        let checkpoint = Checkpoint::open(&self.place, &self.key, &lock).map_err(|reason| {
            Error::infrastructure(failed()).with_source(reason.unwrap_or_else(|| "it is not there".into()))
        })?;
        flock(&lock, FlockOperation::LockShared).infrastructure(failed)?;
        Ok(checkpoint)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Nothing is there any more once it is finished.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Checkpoint {
    /// `Err(None)`: there is none; `Err(Some)`: why it cannot be used.
    fn open(place: &Path, key: &CheckpointKey, lock: &File) -> Result<Self, Option<String>> {
        let description = place.join(DESCRIPTION);
        let bytes = match fs::read(&description) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !place.exists() => return Err(None),
            Err(error) => return Err(Some(format!("failed to read `{}`: {error}", description.display()))),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Some(format!("`{}` cannot be read: {error}", description.display())))?;
        if manifest.version != MANIFEST_VERSION || manifest.key != *key {
            return Err(Some("it was made for something else".into()));
        }
        verify(place, &manifest).map_err(Some)?;
        let used = lock.try_clone().map_err(|error| Some(error.to_string()))?;
        let _ = File::create(place.join(USED)).and_then(|file| file.set_modified(SystemTime::now()));
        let digest = format!("sha256:{}", digest::of_bytes(&bytes));
        Ok(Self { folder: place.into(), manifest, digest, _used: used })
    }

    /// A file of it, if it has one of that name.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.manifest.files.contains_key(name).then(|| self.folder.join(name))
    }
}

/// Whether everything is as it was made; files that were touched since are read again.
fn verify(place: &Path, manifest: &Manifest) -> Result<(), String> {
    let known: BTreeMap<String, Standing> = read(&place.join(STANDINGS)).unwrap_or_default();
    let mut reread = false;
    for (name, wanted) in &manifest.files {
        let path = place.join(name);
        let standing = Standing::of(&path).map_err(|error| format!("`{name}` cannot be read: {error}"))?;
        if known.get(name) == Some(&standing) {
            continue;
        }
        let found = FileDigest::of(&path).map_err(|error| format!("`{name}` cannot be read: {error}"))?;
        if found.bytes != wanted.bytes {
            return Err(format!("`{name}` has {} bytes, and had {}", found.bytes, wanted.bytes));
        }
        if found != *wanted {
            return Err(format!("`{name}` is not what it was"));
        }
        reread = true;
    }
    if reread {
        // Best effort: it is read again otherwise.
        let _ = remember(place, manifest);
    }
    Ok(())
}

/// Notes how the files stand that were just found right.
fn remember(place: &Path, manifest: &Manifest) -> io::Result<()> {
    let standings: io::Result<BTreeMap<&String, Standing>> =
        manifest.files.keys().map(|name| Ok((name, Standing::of(&place.join(name))?))).collect();
    fs::write(place.join(STANDINGS), serde_json::to_vec(&standings?)?)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Bytes on disk of everything below a folder, by what is allocated: memory has holes.
pub fn disk_usage(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(|file| file.ok()?.metadata().ok());
    files.filter(|facts| facts.is_file()).map(|facts| facts.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    fn key_of(image: &str) -> CheckpointKey {
        CheckpointKey { image: image.into(), ..key() }
    }

    async fn find(store: &CheckpointStore, image: &str) -> Found {
        store.find(&key_of(image), &CancellationToken::new(), || {}).await.unwrap()
    }

    /// One of so many MiB, last used so many seconds ago.
    async fn make(store: &CheckpointStore, image: &str, mebibytes: usize, ago: u64) -> Checkpoint {
        let Found::Nothing { making, damaged: None } = find(store, image).await else { panic!("nobody has made it") };
        fs::write(making.folder.join("memory"), vec![7; mebibytes << 20]).unwrap();
        let made = making.finish(image, "quiet").unwrap();
        let used = File::options().write(true).open(made.folder.join(USED)).unwrap();
        used.set_modified(SystemTime::now() - std::time::Duration::from_secs(ago)).unwrap();
        made
    }

    fn there(store: &CheckpointStore) -> Vec<String> {
        let mut images: Vec<String> =
            store.list().unwrap().into_iter().map(|checkpoint| checkpoint.manifest.unwrap().image).collect();
        images.sort();
        images
    }

    #[tokio::test]
    async fn who_was_not_used_for_longest_goes_first_and_nobody_who_is_used() {
        let work = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(work.path(), Size::mebibytes(4)).unwrap();
        drop(make(&store, "old", 1, 300).await);
        let oldest_in_use = make(&store, "oldest", 1, 900).await;
        drop(make(&store, "new", 1, 10).await);
        store.make_room(Size::mebibytes(1)).unwrap();
        assert_eq!(there(&store), ["new", "oldest"]);
        assert_eq!(store.make_room(Size::mebibytes(5)).unwrap_err().kind(), ErrorKind::Budget);
        store.prune(Size(0)).unwrap();
        assert_eq!(there(&store), ["oldest"]);
        drop(oldest_in_use);
        store.prune(Size(0)).unwrap();
        assert!(there(&store).is_empty());
    }

    #[tokio::test]
    async fn what_is_found_is_whole_and_what_was_begun_is_not_found() {
        let work = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(work.path(), DEFAULT_CAP).unwrap();
        let digest = make(&store, "a", 1, 0).await.digest;
        let Found::Checkpoint(found) = find(&store, "a").await else { panic!("it was made") };
        assert_eq!(found.digest, digest);
        let memory = found.folder.join("memory");
        drop(found);
        // Touched, and the same: read again, and good.
        // The kernel's clock for files ticks: two writes may come within one tick, so the time is set.
        let write = |byte: u8, ago: u64| {
            fs::write(&memory, vec![byte; 1 << 20]).unwrap();
            let at = SystemTime::now() - std::time::Duration::from_secs(ago);
            File::options().write(true).open(&memory).unwrap().set_modified(at).unwrap();
        };
        write(7, 60);
        assert!(matches!(find(&store, "a").await, Found::Checkpoint(_)));
        write(8, 30);
        let Found::Nothing { making, damaged: Some(reason) } = find(&store, "a").await else { panic!("it is damaged") };
        assert!(reason.contains("`memory` is not what it was"), "{reason}");
        let begun = making.folder.clone();
        fs::write(begun.join("memory"), "half").unwrap();
        // As if this process were killed: the lock goes, and the folder stays.
        let killed = begun.with_extension("kept");
        fs::rename(&begun, &killed).unwrap();
        drop(making);
        fs::rename(&killed, &begun).unwrap();
        let again = CheckpointStore::open(work.path(), DEFAULT_CAP).unwrap();
        assert!(!begun.exists() && there(&again).is_empty());
        assert!(matches!(find(&again, "a").await, Found::Nothing { damaged: None, .. }));
    }
}
