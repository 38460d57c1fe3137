//! The folder that holds images, and the order in which they come to be.
//!
//!     <work root>/images/
//!       built/<digest>/       an image: disk.raw, kernel, initramfs
//!       layers/<key>/         a package layer: root.tar, kernel, packages.json
//!       kernels/<name>/       a distribution's kernel, unpacked
//!       index/<key>.json      request -> the newest image made of it
//!       files/<key>.json      digests of files that exist elsewhere
//!       archive/              apt's own state, where the host's does not do
//!       logs/<key>.log        what Nix said when it last built the request
//!       links/<key>           to what Nix has built, so that it stays in Nix's store
//!       locks/                one lock per thing that can be made
//!       temporary/            what is being made

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use super::command::interrupted;
use super::index::{self, ImageRecord};
use super::lock::{Asked, ImageLock};
use super::recipe::Resolved;
use super::request::{BuiltImage, ImageProgress, ImageRequest};
use super::{PackageVersion, debian, disk, iso, nix, provenance, tiny};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::model::{ImageSource, LockState};

/// The store of images below one work root.
pub struct ImageStore {
    root: PathBuf,
    project_root: PathBuf,
}

/// An image that is in the store, for listing.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredImage {
    pub record: ImageRecord,
    /// Bytes on disk.
    pub disk_usage: u64,
}

impl ImageStore {
    /// Opens the store, makes its folders, and removes what builds that were killed left behind.
    pub fn open(work_root: &Path, project_root: &Path) -> Result<Self> {
        let root = work_root.join("images");
        for folder in ["built", "layers", "kernels", "index", "files", "archive", "locks", "temporary"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|error| {
                Error::blocked(format!("failed to make the folder `{}`", path.display()))
                    .with_source(error)
                    .hint("name a folder that can be written with `--work-root` or `BOOTPROOF_WORK_ROOT`")
            })?;
        }
        let store = Self::at(work_root, project_root);
        store.remove_abandoned()?;
        Ok(store)
    }

    /// The store as it is, without touching it: for looking. Tools run elsewhere, so its paths are absolute.
    pub(super) fn at(work_root: &Path, project_root: &Path) -> Self {
        let absolute = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let root = work_root.join("images");
        Self {
            root: absolute(&root).unwrap_or(root),
            project_root: absolute(project_root).unwrap_or_else(|_| project_root.to_path_buf()),
        }
    }

    /// Resolves the newest versions for this image, without building it, for the image lock. `None` where nothing comes
    /// from an archive.
    pub async fn resolve_versions(
        &self,
        request: &ImageRequest,
        progress: &dyn ImageProgress,
        cancel: CancellationToken,
    ) -> Result<Option<(Asked, Vec<PackageVersion>)>> {
        let resolved = Resolved::without_agent(self, request, &ImageLock::default())?;
        let Some(asked) = resolved.asked.clone() else { return Ok(None) };
        let work = Work { store: self, request, resolved: &resolved, progress, cancel: &cancel };
        let packages = match asked.source {
            ImageSource::Debian | ImageSource::Iso => debian::resolve(&work).await?,
            ImageSource::Tiny => tiny::resolve(&work).await?,
            ImageSource::Nix | ImageSource::Disk => return Ok(None),
        };
        Ok(Some((asked, packages)))
    }

    /// Gives the image, building it first where it is not there yet. What lies in the Nix store is checked against it.
    ///
    /// Errors: `usage` for a recipe that cannot work, `blocked` for missing tools or an archive that cannot be reached,
    /// `budget` for a full disk, `infrastructure` for a damaged store path, `interrupted` when cancelled.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        progress: &dyn ImageProgress,
        cancel: CancellationToken,
    ) -> Result<BuiltImage> {
        let mut image = self.find_or_build(request, progress, cancel.clone()).await?;
        image.provenance = provenance::of_image(self, &image, request, progress, &cancel).await?;
        Ok(image)
    }

    async fn find_or_build(
        &self,
        request: &ImageRequest,
        progress: &dyn ImageProgress,
        cancel: CancellationToken,
    ) -> Result<BuiltImage> {
        let lock = ImageLock::load(&self.project_root)?;
        let resolved = Resolved::new(self, request, &lock)?;
        if let Some(found) = self.find(&resolved) {
            return self.deliver(request, found, false, progress, &resolved);
        }
        let name = format!("image-{}", resolved.key);
        let _turn = self.turn(&name, &request.name, progress, &cancel).await?;
        // Whoever had the lock before may have built it.
        if let Some(found) = self.find(&resolved) {
            return self.deliver(request, found, false, progress, &resolved);
        }
        let work = Work { store: self, request, resolved: &resolved, progress, cancel: &cancel };
        let record = match request.source {
            ImageSource::Tiny => tiny::build(&work).await?,
            ImageSource::Debian => debian::build(&work).await?,
            ImageSource::Disk => disk::build(&work).await?,
            ImageSource::Iso => iso::build(&work).await?,
            ImageSource::Nix => nix::build(&work).await?,
        };
        index::write(&self.index_file(&resolved.key), &record)?;
        self.deliver(request, record, true, progress, &resolved)
    }

    /// Everything that is in the store, newest last.
    pub fn list(&self) -> Result<Vec<StoredImage>> {
        let folder = self.root.join("index");
        let entries = fs::read_dir(&folder).infrastructure(|| format!("failed to read `{}`", folder.display()))?;
        let mut images: Vec<StoredImage> = entries
            .flatten()
            .filter_map(|entry| index::read::<ImageRecord>(&entry.path()))
            .filter(ImageRecord::is_whole)
            .map(|record| StoredImage { disk_usage: self.disk_usage(&record), record })
            .collect();
        images.sort_by(|one, other| one.record.built_at.cmp(&other.record.built_at));
        Ok(images)
    }

    fn disk_usage(&self, record: &ImageRecord) -> u64 {
        use std::os::unix::fs::MetadataExt;
        walkdir::WalkDir::new(self.built_folder(&record.digest))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum()
    }

    pub(super) fn find(&self, resolved: &Resolved) -> Option<ImageRecord> {
        if resolved.recipe.is_found_by_building() {
            return None;
        }
        index::read::<ImageRecord>(&self.index_file(&resolved.key)).filter(ImageRecord::is_whole)
    }

    fn deliver(
        &self,
        request: &ImageRequest,
        record: ImageRecord,
        built: bool,
        progress: &dyn ImageProgress,
        resolved: &Resolved,
    ) -> Result<BuiltImage> {
        if record.lock == LockState::Drifted {
            let differences = resolved.differences(&record.packages);
            let told = format!(
                "{} of its packages are not the image lock's: {}",
                differences.len(),
                differences.iter().take(3).cloned().collect::<Vec<_>>().join("; ")
            );
            if request.locked {
                return Err(Error::new(ErrorKind::Blocked, format!("image `{}` has drifted: {told}", request.name))
                    .hint("`bootproof image lock` renews the lock; without `--locked` a drifted image is used"));
            }
            progress.warning(&request.name, &told);
        }
        if request.locked && record.lock == LockState::Unlocked {
            return Err(Error::blocked(format!("the image lock knows nothing of image `{}`", request.name))
                .hint("`bootproof image lock` adds it"));
        }
        Ok(BuiltImage {
            source: record.source,
            digest: record.digest,
            lock: record.lock,
            built,
            boot: record.boot,
            disk: record.disk,
            shares: record.shares,
            packages: record.packages,
            provenance: None,
        })
    }

    pub(super) fn project_root(&self) -> &Path {
        &self.project_root
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn built_folder(&self, digest: &str) -> PathBuf {
        self.root.join("built").join(digest.trim_start_matches("sha256:"))
    }

    fn index_file(&self, key: &str) -> PathBuf {
        self.root.join("index").join(format!("{key}.json"))
    }

    /// Waits for the turn to make the thing of this name; it lasts until the file is dropped.
    pub(super) async fn turn(
        &self,
        name: &str,
        image: &str,
        progress: &dyn ImageProgress,
        cancel: &CancellationToken,
    ) -> Result<File> {
        let path = self.root.join("locks").join(name);
        let context = || format!("failed to lock `{}`", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path).infrastructure(context)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => progress.stage(image, "waiting for another bootproof that builds it"),
            Err(error) => return Err(Error::infrastructure(context()).with_source(error)),
        }
        // A blocking wait cannot be cancelled, so it gets a thread that nobody waits for; should it succeed after the
        // receiver has gone, the file is dropped with the message and the lock with it.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let outcome = flock(&file, FlockOperation::LockExclusive).map(|()| file);
            let _ = sender.send(outcome);
        });
        tokio::select! {
            () = cancel.cancelled() => Err(interrupted()),
            outcome = receiver => match outcome {
                Ok(outcome) => outcome.infrastructure(context),
                Err(_) => Err(Error::infrastructure(context())),
            },
        }
    }

    /// A folder to make something in: gone when it is dropped, and gone at the next opening of the store if this process
    /// is killed.
    pub(super) fn temporary(&self) -> Result<Temporary> {
        let parent = self.root.join("temporary");
        let context = || format!("failed to make a temporary folder in `{}`", parent.display());
        // Held only for this moment: nobody may look for abandoned folders between the making and the locking of ours.
        let _moment = self.temporary_moment()?;
        let lock = tempfile::Builder::new().suffix(".lock").tempfile_in(&parent).infrastructure(context)?;
        flock(lock.as_file(), FlockOperation::NonBlockingLockExclusive).infrastructure(context)?;
        let path = lock.path().with_extension("folder");
        fs::create_dir(&path).infrastructure(context)?;
        Ok(Temporary { path, lock })
    }

    /// Moves a finished folder to its final place; one that is there already is replaced only if it is broken.
    pub(super) fn publish(&self, temporary: &Path, place: &Path) -> Result<()> {
        let context = || format!("failed to move a finished image to `{}`", place.display());
        if place.exists() {
            fs::remove_dir_all(place).infrastructure(context)?;
        }
        fs::rename(temporary, place).infrastructure(context)
    }

    fn temporary_moment(&self) -> Result<File> {
        let path = self.root.join("locks").join("temporary");
        let context = || format!("failed to lock `{}`", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path).infrastructure(context)?;
        flock(&file, FlockOperation::LockExclusive).infrastructure(context)?;
        Ok(file)
    }

    fn remove_abandoned(&self) -> Result<()> {
        self.abandoned(&mut |_| true)
    }

    /// Shows `take` what was left half made by builds that were killed, and removes it where it says so.
    ///
    /// # Errors
    /// Infrastructure: the store cannot be read or locked.
    pub fn left_over(work_root: &Path, take: &mut dyn FnMut(&[PathBuf]) -> bool) -> Result<()> {
        let store = Self::at(work_root, work_root);
        let there = ["temporary", "locks"].iter().all(|name| store.folder(name).is_dir());
        if there { store.abandoned(take) } else { Ok(()) }
    }

    fn abandoned(&self, take: &mut dyn FnMut(&[PathBuf]) -> bool) -> Result<()> {
        let _moment = self.temporary_moment()?;
        let parent = self.root.join("temporary");
        let entries = fs::read_dir(&parent).infrastructure(|| format!("failed to read `{}`", parent.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "lock") {
                let Ok(lock) = File::open(&path) else { continue };
                if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                    continue;
                }
                let folder = path.with_extension("folder");
                if take(&[folder.clone(), path.clone()]) && remove_tree(&folder) {
                    let _ = fs::remove_file(&path);
                }
            } else if path.is_dir() && !path.with_extension("lock").exists() && take(std::slice::from_ref(&path)) {
                remove_tree(&path);
            }
        }
        Ok(())
    }
}

/// Removes a folder, unless anything is mounted below it; says whether it is gone. What is left is tried again next time.
///
/// A builder that was killed can leave the host's own file systems mounted inside its root: `/dev/shm`, `/proc`, `/sys`.
/// Removing a tree follows no links, but it does follow mounts.
fn remove_tree(path: &Path) -> bool {
    if !is_free_of_mounts(path) {
        return false;
    }
    match fs::remove_dir_all(path) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "failed to remove a temporary folder");
            false
        }
    }
}

/// Whether nothing is mounted at or below a folder, as far as that can be told; says so where it is not.
pub fn is_free_of_mounts(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    match mounts.map(|mounts| mounted_below(&mounts, path)) {
        Ok(None) => true,
        Ok(Some(mount)) => {
            tracing::warn!(path = %path.display(), %mount, "left a temporary folder alone: something is mounted in it");
            false
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "left a temporary folder alone: the mounts cannot be read");
            false
        }
    }
}

/// The first mount at or below a folder, by the kernel's table of mounts (blanks in it are written `\040`).
fn mounted_below(mounts: &str, folder: &Path) -> Option<String> {
    let plain = |escaped: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(escaped.to_string(), |text, (code, character)| text.replace(code, character))
    };
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(plain))
        .find(|mount| Path::new(mount).starts_with(folder))
}

/// A folder in the store that holds what is being made.
pub(super) struct Temporary {
    path: PathBuf,
    lock: tempfile::NamedTempFile,
}

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Held by whoever works in the folder.
    pub fn lock(&self) -> &File {
        self.lock.as_file()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// What the builders get to work with.
pub(super) struct Work<'a> {
    pub store: &'a ImageStore,
    pub request: &'a ImageRequest,
    pub resolved: &'a Resolved,
    pub progress: &'a dyn ImageProgress,
    pub cancel: &'a CancellationToken,
}

impl Work<'_> {
    pub fn stage(&self, what: &str) {
        self.progress.stage(&self.request.name, what);
    }

    /// The memory of what was just made.
    pub fn record(
        &self,
        digest: String,
        lock: LockState,
        boot: super::Boot,
        disk: Option<super::BaseDisk>,
        packages: Vec<PackageVersion>,
    ) -> ImageRecord {
        ImageRecord {
            version: ImageRecord::VERSION,
            name: self.request.name.clone(),
            source: self.request.source,
            recipe_digest: self.resolved.recipe_digest.clone(),
            digest,
            lock,
            boot,
            disk,
            shares: Vec::new(),
            packages,
            built_at: jiff::Timestamp::now().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_temporary_folders_go_and_those_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let in_use = store.temporary().unwrap();
        fs::write(in_use.path().join("half"), "x").unwrap();
        let abandoned = folder.path().join("images/temporary/old.folder");
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.with_extension("lock"), "").unwrap();
        ImageStore::open(folder.path(), folder.path()).unwrap();
        assert!(!abandoned.exists() && !abandoned.with_extension("lock").exists());
        assert!(in_use.path().join("half").exists());
        let path = in_use.path().to_path_buf();
        drop(in_use);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_mounted_in_an_abandoned_folder_is_seen() {
        let mounts = "27 1 0:27 / /dev/shm rw - tmpfs tmpfs rw\n\
                      43 27 0:27 / /s/temporary/a.folder/root/dev/shm rw - tmpfs tmpfs rw\n\
                      44 27 0:22 / /s/temporary/with\\040blank.folder/sys ro - sysfs sys rw\n";
        let below = |folder: &str| mounted_below(mounts, Path::new(folder));
        assert_eq!(below("/s/temporary/a.folder").as_deref(), Some("/s/temporary/a.folder/root/dev/shm"));
        assert_eq!(below("/s/temporary/with blank.folder").as_deref(), Some("/s/temporary/with blank.folder/sys"));
        assert_eq!(below("/s/temporary/a"), None, "a name that only begins alike is another folder");
        assert_eq!(below("/s/temporary/b.folder"), None);
    }

    #[test]
    fn a_work_root_that_cannot_be_written_blocks_with_a_hint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ImageStore::open(file.path(), Path::new("/")).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Blocked);
        assert!(error.hints()[0].contains("--work-root"));
    }

    #[tokio::test]
    async fn a_turn_is_waited_for_and_waiting_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let cancel = CancellationToken::new();
        let first = store.turn("x", "x", &super::super::Silent, &cancel).await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let error = store.turn("x", "x", &super::super::Silent, &stop).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        drop(first);
        store.turn("x", "x", &super::super::Silent, &cancel).await.unwrap();
    }
}
