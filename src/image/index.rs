//! What the store remembers: for each request, the newest image that was made of it; for each file, its digest.
//!
//! Each memory is a small JSON file of its own, replaced in one rename, so that no two processes overwrite each other's. A
//! memory that cannot be read is as good as none: all of it can be made anew.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PackageVersion;
use super::request::{BaseDisk, Boot, HostShare};
use crate::error::{Context, Result};
use crate::plan::model::{ImageSource, LockState};

/// Version of the files that the store writes; other versions are not read.
const RECORD_VERSION: u32 = 1;

/// An image as the store remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    pub version: u32,
    /// Names that lanes use for it, newest last.
    pub name: String,
    pub source: ImageSource,
    /// `sha256:<hex>` of recipe and overlay, without the agent.
    pub recipe_digest: String,
    pub digest: String,
    pub lock: LockState,
    pub boot: Boot,
    pub disk: Option<BaseDisk>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<HostShare>,
    pub packages: Vec<PackageVersion>,
    /// RFC 3339.
    pub built_at: String,
}

impl ImageRecord {
    pub(super) const VERSION: u32 = RECORD_VERSION;

    /// Whether the files it speaks of are all there.
    pub(super) fn is_whole(&self) -> bool {
        let boot = match &self.boot {
            Boot::Kernel { kernel, uncompressed_kernel, initramfs, .. } => {
                kernel.is_file()
                    && initramfs.is_file()
                    && uncompressed_kernel.as_ref().is_none_or(|path| path.is_file())
            }
            Boot::Firmware => true,
            Boot::Medium { path, network } => {
                let beside = network.iter().flat_map(|files| files.initrds.iter().chain([&files.kernel]));
                path.is_file() && beside.into_iter().all(|path| path.is_file())
            }
        };
        self.version == RECORD_VERSION && boot && self.disk.as_ref().is_none_or(|disk| disk.path.is_file())
    }
}

/// What a file was when it was read through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    pub version: u32,
    pub fingerprint: Fingerprint,
    pub sha256: String,
    pub sha512: String,
}

impl FileRecord {
    pub const VERSION: u32 = RECORD_VERSION;
}

/// Tells a changed file without reading it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    path: String,
    size: u64,
    device: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Fingerprint {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Self {
            path: path.to_string_lossy().into_owned(),
            size: metadata.size(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Reads a memory; `None` when there is none that this version understands.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a memory in one rename.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let context = || format!("failed to write `{}`", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).infrastructure(context)?;
    serde_json::to_writer_pretty(&mut file, value).infrastructure(context)?;
    file.write_all(b"\n").infrastructure(context)?;
    file.persist(path).infrastructure(context)?;
    Ok(())
}
