//! Where an image that lies in the Nix store comes from, checked each time that it is used.
//!
//! The content is read through once; then it is remembered under a fingerprint of the whole tree, which tells every change
//! that went through the file system. The database is asked each time.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix_derivation::NixHash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::command::interrupted;
use super::digest::hex;
use super::index;
use super::request::{Boot, BuiltImage, ImageProgress, ImageRequest};
use super::store::ImageStore;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::nix_store::{self, NixStore, Provenance};
use crate::plan::model::ImageSource;

/// What a store path's NAR hash was when it was read through.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NarRecord {
    version: u32,
    /// `sha256:<hex>`, of the tree's paths and of what the file system says of each.
    fingerprint: String,
    /// `sha256-<base64>`.
    nar_hash: String,
}

impl NarRecord {
    const VERSION: u32 = 1;
}

/// `None` for an image that is of another source or lies elsewhere; also, with a warning, where there is no `nix` to ask.
///
/// # Errors
/// Infrastructure: the store path is damaged or unknown to the store's database. Interrupted.
pub(super) async fn of_image(
    images: &ImageStore,
    image: &BuiltImage,
    request: &ImageRequest,
    progress: &dyn ImageProgress,
    cancel: &CancellationToken,
) -> Result<Option<Provenance>> {
    if image.source != ImageSource::Nix {
        return Ok(None);
    }
    // The root disk of a NixOS VM is made here: its kernel tells then where the image comes from.
    let kernel = match &image.boot {
        Boot::Kernel { kernel: file, .. } | Boot::Medium { path: file, .. } => Some(file),
        Boot::Firmware => None,
    };
    let files: Vec<&PathBuf> = image.disk.as_ref().map(|disk| &disk.path).into_iter().chain(kernel).collect();
    let untold = |error: Error| {
        progress.warning(&request.name, &format!("its origin in the Nix store is not recorded: {}", error.chain()));
        Ok(None)
    };
    let store = match NixStore::open(None) {
        Ok(store) => store,
        Err(error) => return untold(error),
    };
    let in_store = |file: &&PathBuf| {
        let resolved = || fs::canonicalize(file).ok().and_then(|file| store.store_path_of(&file));
        store.store_path_of(file).or_else(resolved)
    };
    let Some(path) = files.iter().find_map(in_store) else { return Ok(None) };
    let real = store.real_path(&path);
    let context = || format!("failed to read the store path `{}`", real.display());
    let fingerprint = fingerprint(&real).infrastructure(context)?;
    let memory = images.folder("files").join(format!("nar-{}.json", path.to_basename()));
    let remembered = index::read::<NarRecord>(&memory)
        .filter(|record| record.version == NarRecord::VERSION && record.fingerprint == fingerprint)
        .and_then(|record| NixHash::parse(&record.nar_hash).ok());
    let content = match remembered {
        Some(hash) => hash,
        None => {
            progress.stage(&request.name, &format!("checking {} against the Nix store's database", store.name(&path)));
            let (reading, stopped) = (real.clone(), cancel.clone());
            let read = tokio::task::spawn_blocking(move || nix_store::nar_hash(&reading, || !stopped.is_cancelled()));
            let (hash, _) = match read.await.infrastructure(context)? {
                Err(_) if cancel.is_cancelled() => return Err(interrupted()),
                read => read.infrastructure(context)?,
            };
            hash
        }
    };
    let provenance = tokio::select! {
        () = cancel.cancelled() => return Err(interrupted()),
        outcome = nix_store::provenance(&store, &path, &content) => outcome,
    };
    match provenance {
        Ok(provenance) => {
            let nar_hash = content.to_sri_string();
            index::write(&memory, &NarRecord { version: NarRecord::VERSION, fingerprint, nar_hash })?;
            Ok(Some(provenance))
        }
        Err(error) if error.kind() == ErrorKind::Blocked => untold(error),
        Err(error) => Err(error),
    }
}

/// Of everything below a path, itself included; no file is opened.
fn fingerprint(path: &Path) -> Result<String, walkdir::Error> {
    let mut hasher = Sha256::new();
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.path().as_os_str().as_bytes();
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        for number in [metadata.dev(), metadata.ino(), u64::from(metadata.mode()), metadata.size()] {
            hasher.update(number.to_le_bytes());
        }
        for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
            hasher.update(number.to_le_bytes());
        }
    }
    Ok(format!("sha256:{}", hex(&hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_every_change_of_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("path");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "one").unwrap();
        let mut seen = vec![fingerprint(&root).unwrap()];
        assert_eq!(fingerprint(&root).unwrap(), seen[0]);
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(root.join("file"), "two").unwrap(),
            // The same bytes and, as in a store, the same time of modification: the time of the change tells.
            &|| {
                let times = fs::metadata(root.join("file")).unwrap().modified().unwrap();
                fs::write(root.join("file"), "six").unwrap();
                fs::File::options().write(true).open(root.join("file")).unwrap().set_modified(times).unwrap();
            },
            &|| fs::rename(root.join("file"), root.join("other")).unwrap(),
            &|| std::os::unix::fs::symlink("x", root.join("link")).unwrap(),
        ];
        for change in changes {
            change();
            let now = fingerprint(&root).unwrap();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
        assert!(fingerprint(&folder.path().join("missing")).is_err());
    }
}
