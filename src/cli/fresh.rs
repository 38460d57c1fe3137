//! Caches for one run alone: `<work root>/fresh/<id>/`, gone with the run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context as _, Error, Result};

/// Removed when this is dropped.
pub struct Fresh {
    path: PathBuf,
    /// Held, so that nobody takes it for left over.
    _held: File,
}

impl Fresh {
    pub fn make(work_root: &Path) -> Result<Self> {
        let path = folder(work_root).join(crate::proof::random_id()?);
        let failed = |error| Error::storage(error, format!("failed to make the folder `{}`", path.display()));
        fs::create_dir_all(&path).map_err(failed)?;
        let held = File::open(&path).map_err(failed)?;
        flock(&held, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Self { _held: held, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // What a builder may have left mounted in it is not ours to remove: `clean` looks again.
        if crate::image::is_free_of_mounts(&self.path) {
            let _ = fs::remove_dir_all(&self.path);
        }
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

fn folder(work_root: &Path) -> PathBuf {
    work_root.join("fresh")
}

/// Shows `take` those of runs that were killed, and removes them where it says so.
pub fn left_over(work_root: &Path, take: &mut dyn FnMut(&[PathBuf]) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder(work_root)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(held) = File::open(&path) else { continue };
        let is_free = flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_free && take(std::slice::from_ref(&path)) && crate::image::is_free_of_mounts(&path) {
            fs::remove_dir_all(&path).infrastructure(|| format!("failed to remove `{}`", path.display()))?;
        }
    }
    let _ = fs::remove_dir(folder(work_root));
    Ok(())
}
