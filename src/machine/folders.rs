//! The folders of a run outside its proof: sockets in a short runtime folder, disks in the work root.
//!
//! A run and each of its keepers hold a lock on `runs/<run>/` for as long as they live. What nobody holds is left over,
//! from a run or a keeper that was killed, and goes when the next run starts; so that is certain, with no guess about
//! process numbers or ages. The runtime folder is found by a link in `runs/<run>/` that is made before it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{FlockOperation, flock};

use super::registry;
use crate::error::{Context, Error, Result};

/// Begins the name of every runtime folder; nothing else is ever removed through a link.
const PREFIX: &str = "bootproof-";
/// The link to the runtime folder. No machine is called so: their names have no dots.
const LINK: &str = ".runtime";

/// A run's folders: removed with the run, unless its machines are kept.
pub struct RunFolders {
    runtime: PathBuf,
    scratch: PathBuf,
    lock: Arc<File>,
}

impl RunFolders {
    /// Removes what killed runs have left, then makes `runs/<run>/` and a runtime folder.
    ///
    /// # Errors
    /// `infrastructure`, or `budget` when the disk is full.
    pub fn create(work_root: &Path, run: &str) -> Result<Self> {
        let runs = work_root.join("runs");
        let failed = |error| Error::storage(error, format!("failed to create a folder in `{}`", runs.display()));
        fs::create_dir_all(&runs).map_err(failed)?;
        // Between its making and its locking a folder is nobody's: nobody may sweep then.
        let all = File::open(&runs).map_err(failed)?;
        flock(&all, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        sweep(&runs);
        let _ = registry::live(work_root);
        let scratch = runs.join(run);
        fs::create_dir(&scratch).map_err(failed)?;
        let lock = hold(&scratch).map_err(failed)?;
        drop(all);
        match make_runtime(&scratch) {
            Ok(runtime) => {
                let lock = Arc::new(lock);
                *in_use() = Some((scratch.clone(), Arc::downgrade(&lock)));
                Ok(Self { runtime, scratch, lock })
            }
            Err(error) => {
                remove(&scratch);
                Err(error)
            }
        }
    }

    /// Short (unix socket paths end at 108 bytes), and nobody else's.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// For disks and other bulk.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The end of the run: both go, unless a machine is kept; its keeper removes them then.
    pub fn remove(self, kept: bool) {
        drop(in_use().take_if(|(scratch, _)| *scratch == self.scratch));
        if kept {
            // That machine may have been stopped already.
            give_up(&self.scratch, &self.lock);
        } else {
            remove(&self.scratch);
        }
    }
}

/// The folders of the run that this process is, for one that has to end at once.
static IN_USE: Mutex<Option<(PathBuf, Weak<File>)>> = Mutex::new(None);

fn in_use() -> MutexGuard<'static, Option<(PathBuf, Weak<File>)>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process that ends at once: removes its run's folders, unless a machine is still there, whose keeper does it.
pub fn abandon() {
    let left = in_use().take();
    if let Some((scratch, lock)) = left.and_then(|(scratch, lock)| Some((scratch, lock.upgrade()?))) {
        give_up(&scratch, &lock);
    }
}

/// Marks a run's folder as in use for as long as the answer lives.
pub fn hold(scratch: &Path) -> io::Result<File> {
    let folder = File::open(scratch)?;
    flock(&folder, FlockOperation::LockShared)?;
    Ok(folder)
}

/// Removes a run's folders if nobody but the caller uses them.
pub fn give_up(scratch: &Path, held: &File) {
    // Of several that give up at once the last one gets the lock.
    if flock(held, FlockOperation::NonBlockingLockExclusive).is_ok() {
        remove(scratch);
    }
}

fn make_runtime(scratch: &Path) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    let base = base.unwrap_or_else(std::env::temp_dir);
    let link = scratch.join(LINK);
    let make = |path: &Path| {
        let _ = fs::remove_file(&link);
        symlink(path, &link)?;
        DirBuilder::new().mode(0o700).create(path)
    };
    let runtime = tempfile::Builder::new().prefix(PREFIX).make_in(&base, make);
    let runtime = runtime.infrastructure(|| format!("failed to create a runtime folder in `{}`", base.display()))?;
    // What removes it is `remove`, not the drop of this.
    runtime.into_temp_path().keep().infrastructure(|| "failed to keep the runtime folder".into())
}

/// Removes every run's folders that nobody holds.
fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let scratch = entry.path();
        let Ok(folder) = File::open(&scratch) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&scratch);
        }
    }
}

/// Shows `take` the folders of each run that nobody holds, and removes them where it says so. Meanwhile no run begins.
///
/// # Errors
/// `infrastructure`: the folder of runs cannot be read.
pub fn left_over(work_root: &Path, take: &mut dyn FnMut(&[PathBuf]) -> bool) -> Result<()> {
    let runs = work_root.join("runs");
    let failed = || format!("failed to read `{}`", runs.display());
    let all = match File::open(&runs) {
        Ok(all) => all,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).infrastructure(failed),
    };
    flock(&all, FlockOperation::LockExclusive).infrastructure(failed)?;
    for entry in fs::read_dir(&runs).infrastructure(failed)?.flatten() {
        let scratch = entry.path();
        let Ok(folder) = File::open(&scratch) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let mut both = vec![scratch.clone()];
        both.extend(runtime_of(&scratch).filter(|runtime| runtime.is_dir()));
        if take(&both) {
            remove(&scratch);
        }
    }
    Ok(())
}

/// The runtime folder of a run, where the link to it leads to one of ours.
fn runtime_of(scratch: &Path) -> Option<PathBuf> {
    let runtime = fs::read_link(scratch.join(LINK)).ok()?;
    runtime.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())).then_some(runtime)
}

/// Best effort: what cannot be removed now is tried again by the next run.
fn remove(scratch: &Path) {
    if let Some(runtime) = runtime_of(scratch)
        && fs::remove_dir_all(&runtime).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    {
        // Found again through the link.
        return;
    }
    let _ = fs::remove_dir_all(scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(folders: &RunFolders) -> (bool, bool) {
        (folders.runtime.is_dir(), folders.scratch.is_dir())
    }

    #[test]
    fn what_a_killed_run_has_left_goes_when_the_next_one_starts() {
        let work = tempfile::tempdir().unwrap();
        let killed = RunFolders::create(work.path(), "killed").unwrap();
        fs::write(killed.runtime().join("socket"), "").unwrap();
        let RunFolders { runtime, scratch, lock } = killed;
        drop(lock);
        let next = RunFolders::create(work.path(), "next").unwrap();
        assert!(!runtime.exists() && !scratch.exists());
        assert_eq!(exists(&next), (true, true));
        next.remove(false);
        assert_eq!(fs::read_dir(work.path().join("runs")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_run_or_a_keeper_uses_stays() {
        let work = tempfile::tempdir().unwrap();
        let first = RunFolders::create(work.path(), "first").unwrap();
        let second = RunFolders::create(work.path(), "second").unwrap();
        assert_eq!((exists(&first), exists(&second)), ((true, true), (true, true)));
        let keeper = hold(first.scratch()).unwrap();
        let (runtime, scratch) = (first.runtime.clone(), first.scratch.clone());
        first.remove(true);
        let third = RunFolders::create(work.path(), "third").unwrap();
        assert!(runtime.exists() && scratch.exists(), "its machine is kept");
        give_up(&scratch, &keeper);
        assert!(!runtime.exists() && !scratch.exists(), "the keeper was the last");
        second.remove(false);
        third.remove(false);
    }

    #[test]
    fn a_link_to_elsewhere_is_not_followed() {
        let work = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::Builder::new().prefix("precious-").tempdir().unwrap();
        let forged = work.path().join("runs/forged");
        fs::create_dir_all(&forged).unwrap();
        symlink(elsewhere.path(), forged.join(LINK)).unwrap();
        RunFolders::create(work.path(), "next").unwrap().remove(false);
        assert!(elsewhere.path().is_dir() && !forged.exists());
    }
}
