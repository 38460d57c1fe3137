//! Which paths are served: found by the hash in their name, or by the hash of their NAR.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix_derivation::{StorePath, nixbase32};

use crate::error::{Context, Result};
use crate::nix_store::{NixStore, PathInfo};

/// What a path's name begins with: 32 characters of Nix's base 32.
pub(super) const HASH_PART: usize = 32;

/// A folder's time of change is no finer than a tick of the kernel's clock: a listing of a folder that has just changed may
/// lack what comes next, with the same time.
const SETTLED: Duration = Duration::from_secs(1);

/// The paths of a store that are given out. What was asked once is remembered.
pub struct Catalog {
    store: NixStore,
    /// Only what is known from the beginning is served.
    closed: bool,
    known: Mutex<Known>,
    /// Held while the database is asked: a closure that ten clients want is asked for once.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    by_hash_part: HashMap<String, Arc<PathInfo>>,
    by_nar_hash: HashMap<String, Arc<PathInfo>>,
    /// Names by hash part, of all that lies in the store's folder, and when the folder had changed last.
    listing: Option<(SystemTime, Arc<HashMap<String, StorePath>>)>,
}

impl Catalog {
    /// All that is in the store, also what comes into it later.
    pub fn of_store(store: NixStore) -> Self {
        Self { store, closed: false, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The closures of these installables (store paths, links to them, built flake outputs), and nothing else.
    ///
    /// # Errors
    /// As [`NixStore::closure_of_installables`].
    pub async fn of_closures(store: NixStore, installables: &[String]) -> Result<Self> {
        let paths = store.closure_of_installables(installables).await?;
        let catalog = Self { closed: true, ..Self::of_store(store) };
        catalog.known().remember(paths);
        Ok(catalog)
    }

    pub fn store(&self) -> &NixStore {
        &self.store
    }

    /// How many paths are known by now: with closures, all that are served.
    pub fn known_paths(&self) -> usize {
        self.known().by_hash_part.len()
    }

    /// The path whose name begins with this.
    pub(super) async fn find(&self, hash_part: &str) -> Result<Option<Arc<PathInfo>>> {
        if !is_hash_part(hash_part) {
            return Ok(None);
        }
        if let Some(found) = self.remembered(hash_part) {
            return Ok(Some(found));
        }
        if self.closed {
            return Ok(None);
        }
        let Some(path) = self.listed(hash_part).await? else { return Ok(None) };
        let _turn = self.asking.lock().await;
        if let Some(found) = self.remembered(hash_part) {
            return Ok(Some(found));
        }
        // A client that wants a path will want what it refers to: one question for all.
        let Some(closure) = self.store.closure_of(&path).await? else { return Ok(None) };
        self.known().remember(closure);
        Ok(self.remembered(hash_part))
    }

    /// A path with a NAR of this hash (in base 32), among those that were asked for or served by closure.
    pub(super) fn find_nar(&self, nar_hash: &str) -> Option<Arc<PathInfo>> {
        let found = self.known().by_nar_hash.get(nar_hash).cloned()?;
        self.is_there(&found).then_some(found)
    }

    /// What was known of a path proved wrong: the database is asked again.
    pub(super) fn forget(&self, info: &PathInfo) {
        if !self.closed {
            self.known().forget(info);
        }
    }

    fn remembered(&self, hash_part: &str) -> Option<Arc<PathInfo>> {
        let found = self.known().by_hash_part.get(hash_part).cloned()?;
        if self.is_there(&found) {
            return Some(found);
        }
        // Garbage collection took it. Should it come back, it may be another build of the same.
        self.forget(&found);
        None
    }

    fn is_there(&self, info: &PathInfo) -> bool {
        fs::symlink_metadata(self.store.real_path(&info.path)).is_ok()
    }

    /// What lies in the store's folder under this hash. The folder is read again only when it has changed.
    async fn listed(&self, hash_part: &str) -> Result<Option<StorePath>> {
        let folder = self.store.real_directory();
        let context = || format!("failed to read the Nix store `{}`", folder.display());
        let began = SystemTime::now();
        let modified = fs::metadata(folder).and_then(|metadata| metadata.modified()).infrastructure(context)?;
        let kept = self.known().listing.clone().filter(|(then, _)| *then == modified);
        let names = match kept {
            Some((_, names)) => names,
            None => {
                let read = folder.to_owned();
                let names = tokio::task::spawn_blocking(move || list(&read)).await.infrastructure(context)?;
                let names = Arc::new(names.infrastructure(context)?);
                let settled = began.duration_since(modified).is_ok_and(|age| age > SETTLED);
                self.known().listing = settled.then(|| (modified, names.clone()));
                names
            }
        };
        Ok(names.get(hash_part).cloned())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn remember(&mut self, paths: Vec<PathInfo>) {
        for info in paths {
            let info = Arc::new(info);
            self.by_nar_hash.insert(nar_hash_text(&info), info.clone());
            self.by_hash_part.insert(hash_part(&info.path), info);
        }
    }

    fn forget(&mut self, info: &PathInfo) {
        self.by_hash_part.remove(&hash_part(&info.path));
        let nar_hash = nar_hash_text(info);
        if self.by_nar_hash.get(&nar_hash).is_some_and(|other| other.path == info.path) {
            self.by_nar_hash.remove(&nar_hash);
        }
    }
}

fn list(folder: &std::path::Path) -> std::io::Result<HashMap<String, StorePath>> {
    let mut names = HashMap::new();
    for entry in fs::read_dir(folder)? {
        // Locks, links and what else is in the folder have no name of a path.
        if let Ok(path) = StorePath::from_basename(entry?.file_name().as_encoded_bytes()) {
            names.insert(hash_part(&path), path);
        }
    }
    Ok(names)
}

fn is_hash_part(text: &str) -> bool {
    text.len() == HASH_PART && nixbase32::decode(text.as_bytes()).is_ok()
}

pub(super) fn hash_part(path: &StorePath) -> String {
    nixbase32::encode(path.digest())
}

/// The hash of the path's NAR in Nix's base 32.
pub(super) fn nar_hash_text(info: &PathInfo) -> String {
    nixbase32::encode(info.nar_hash.digest_as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hash_is_looked_up() {
        assert!(is_hash_part("0lcsqzqis2jrv6hm00a8nihgcd4rjvwf"));
        let long = "0".repeat(33);
        for text in [
            "",
            "../../../../../../../../etc/passw",
            "0lcsqzqis2jrv6hm00a8nihgcd4rjvwe",
            "0LCSQZQIS2JRV6HM00A8NIHGCD4RJVWF",
            &long,
        ] {
            assert!(!is_hash_part(text), "{text}");
        }
    }
}
