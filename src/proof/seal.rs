//! The last thing that happens to a proof root.

use std::fs;
use std::io;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::atomic::{sync_directory, write_atomic};
use super::sums::{self, SUMS_FILE, Sum};
use super::{digest, tree};
use crate::error::{Context, Error, Result};
use crate::event::Verdict;
use crate::report::json;

pub const SEAL_FILE: &str = "seal.json";
pub const SEAL_VERSION: u32 = 1;

const NOTE: &str = "unsigned digests detect damage, not forgery";

/// `seal.json`: says that the run is finished, and pins every file by way of `SHA256SUMS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    pub version: u32,
    pub run: String,
    pub lane: String,
    pub verdict: Verdict,
    pub tool_version: String,
    /// RFC 3339 with offset.
    pub sealed_at: String,
    /// `sha256:<hex>` of `SHA256SUMS`.
    pub sums_digest: String,
    /// Files that `SHA256SUMS` names.
    pub files: u64,
    pub note: String,
}

/// What the seal says beside the digests.
#[derive(Clone, Copy, Debug)]
pub struct SealRequest<'a> {
    pub run: &'a str,
    pub lane: &'a str,
    pub verdict: Verdict,
}

impl Seal {
    /// The seal of a proof root; `None` where there is none, which means that the run is not finished.
    ///
    /// # Errors
    /// `infrastructure` when it is there and cannot be read, or is of a version that this bootproof does not know.
    pub fn read(root: &Path) -> Result<Option<Self>> {
        let path = root.join(SEAL_FILE);
        let failed = || format!("failed to read the seal `{}`", path.display());
        let mut file = match tree::open_plain(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::infrastructure(failed()).with_source(error)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).infrastructure(failed)?;
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        let header: Header = serde_json::from_slice(&bytes).infrastructure(failed)?;
        if header.version != SEAL_VERSION {
            return Err(Error::infrastructure(failed())
                .with_source(format!("it has version {}, and this bootproof knows {SEAL_VERSION}", header.version))
                .hint("use the bootproof that wrote it"));
        }
        serde_json::from_slice(&bytes).infrastructure(failed).map(Some)
    }
}

/// Seals a proof root: every file to the disk, their digests to `SHA256SUMS`, and `seal.json` last.
///
/// Nothing may write below `root` any more. Until this has returned the root has no `seal.json` and counts as
/// unfinished, whenever power is lost.
///
/// # Errors
/// `infrastructure` when the root is sealed already or holds anything but plain files and directories; `budget` when
/// the disk is full.
pub fn seal(root: &Path, request: SealRequest<'_>) -> Result<Seal> {
    let path = root.join(SEAL_FILE);
    if fs::symlink_metadata(&path).is_ok() {
        return Err(Error::infrastructure(format!("failed to seal `{}`: it is sealed already", root.display())));
    }
    let sums = digest_all(root)?;
    let bytes = sums::write(&sums);
    write_atomic(&root.join(SUMS_FILE), &bytes)?;
    let seal = Seal {
        version: SEAL_VERSION,
        run: request.run.to_owned(),
        lane: request.lane.to_owned(),
        verdict: request.verdict,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        sealed_at: jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        sums_digest: sums::digest_of(&bytes),
        files: sums.len() as u64,
        note: NOTE.to_owned(),
    };
    write_atomic(&path, &json::bytes(&seal).infrastructure(|| "failed to express the seal as JSON".into())?)?;
    Ok(seal)
}

/// Syncs and digests every file but `SHA256SUMS` (one of an attempt that failed is written anew), sorted by name.
fn digest_all(root: &Path) -> Result<Vec<Sum>> {
    let mut sums = Vec::new();
    for entry in tree::entries(root)? {
        if entry.name == SUMS_FILE.as_bytes() {
            continue;
        }
        tree::refuse_special(&entry)?;
        let path = tree::path_of(root, &entry.name);
        let failed = |error| Error::storage(error, format!("failed to seal `{}`", path.display()));
        let mut file = tree::open_plain(&path).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        let (digest, _) = digest::of_file(&mut file).map_err(failed)?;
        sums.push(Sum { digest, name: entry.name });
    }
    for directory in walkdir::WalkDir::new(root).follow_links(false) {
        let directory = directory.infrastructure(|| format!("failed to read the proof root `{}`", root.display()))?;
        if directory.file_type().is_dir() {
            sync_directory(directory.path())
                .map_err(|error| Error::storage(error, format!("failed to seal `{}`", directory.path().display())))?;
        }
    }
    Ok(sums)
}
