//! Bundles: the files that machines fetch, by what they are.
//!
//! Digests are taken once, at the start. A file that was changed since is not served: what a machine would get is not
//! what it was told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::configuration::wrong;
use crate::error::{Context, Error, Result};
use crate::proof::digest;
use crate::provisioning::Bundle;

#[derive(Debug, Default)]
pub struct Bundles {
    packed: PathBuf,
    by_digest: BTreeMap<String, BundleFile>,
    by_path: BTreeMap<PathBuf, Bundle>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFile {
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    stamp: Stamp,
}

/// What changes when a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl BundleFile {
    /// Whether an opened file is still what the digest was taken of.
    pub fn is_unchanged(&self, metadata: &fs::Metadata) -> bool {
        Stamp::of(metadata) == self.stamp
    }
}

impl Bundles {
    /// `packed`: the folder that folders are packed into.
    pub fn new(packed: &Path) -> Self {
        Self { packed: packed.into(), ..Self::default() }
    }

    /// `sha256:` and 64 digits.
    pub fn get(&self, digest: &str) -> Option<&BundleFile> {
        self.by_digest.get(digest)
    }

    /// `key`: of the configuration, for errors.
    pub fn add_file(&mut self, key: &str, path: &Path) -> Result<Bundle> {
        let failed = |error: std::io::Error| {
            Error::usage(format!("failed to read the deployer's bundle: `{key}` is `{}`", path.display()))
                .with_source(error)
        };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(wrong(key, path.display(), "it is no file"));
        }
        if let Some(bundle) = self.by_path.get(path)
            && self.by_digest.get(&bundle.digest).is_some_and(|file| file.is_unchanged(&metadata))
        {
            return Ok(bundle.clone());
        }
        let (digest, size) = digest::of_file(&mut file).map_err(failed)?;
        // One that was written meanwhile is noticed when it is served: the stamp is older than the digest.
        let bundle = Bundle { digest: format!("sha256:{digest}"), size };
        let file = BundleFile { path: path.into(), size, stamp: Stamp::of(&metadata) };
        self.by_digest.insert(bundle.digest.clone(), file);
        self.by_path.insert(path.into(), bundle.clone());
        Ok(bundle)
    }

    /// Packs a folder, the same always for the same content.
    pub fn add_folder(&mut self, key: &str, folder: &Path) -> Result<Bundle> {
        if !folder.is_dir() {
            return Err(wrong(key, folder.display(), "there is no such folder"));
        }
        fs::create_dir_all(&self.packed)
            .infrastructure(|| format!("failed to create the folder `{}`", self.packed.display()))?;
        let partial = tempfile::NamedTempFile::new_in(&self.packed)
            .infrastructure(|| format!("failed to write to `{}`", self.packed.display()))?;
        pack(folder, partial.as_file())
            .map_err(|error| Error::storage(error, format!("failed to pack: `{key}` is `{}`", folder.display())))?;
        let digest = File::open(partial.path())
            .and_then(|mut file| digest::of_file(&mut file))
            .infrastructure(|| format!("failed to read `{}`", partial.path().display()))?
            .0;
        let path = self.packed.join(format!("{digest}.tar.zst"));
        partial.persist(&path).infrastructure(|| format!("failed to write `{}`", path.display()))?;
        self.add_file(key, &path)
    }
}

/// `tar` compressed with zstd: sorted, of root's, without times; of the mode only what git keeps. Folders, files and
/// links, and nothing else.
pub fn pack(folder: &Path, into: impl Write) -> std::io::Result<()> {
    let encoder = zstd::Encoder::new(BufWriter::new(into), 3)?;
    let mut archive = tar::Builder::new(encoder);
    archive.mode(tar::HeaderMode::Deterministic);
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name().min_depth(1) {
        let entry = entry?;
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let kind = entry.file_type();
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            archive.append_data(&mut header, relative, std::io::empty())?;
        } else if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, relative, fs::read_link(entry.path())?)?;
        } else if kind.is_file() {
            let file = File::open(entry.path())?;
            let metadata = file.metadata()?;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if executable { 0o755 } else { 0o644 });
            header.set_size(metadata.len());
            archive.append_data(&mut header, relative, file)?;
        } else {
            let message = format!("`{}` is neither a file, a folder nor a link", entry.path().display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
        }
    }
    archive.into_inner()?.finish()?.into_inner().map_err(|error| error.into_error())?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(folder: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(folder, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_folder_is_packed_the_same_and_another_differently() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (folder, names) in [(&one, ["a", "b"]), (&two, ["b", "a"])] {
            for name in names {
                fs::write(folder.path().join(name), name).unwrap();
            }
            fs::create_dir(folder.path().join("units")).unwrap();
            std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        }
        fs::set_permissions(two.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        let first = packed(one.path());
        assert_eq!(first, packed(two.path()));
        fs::set_permissions(two.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(first, packed(two.path()));
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(zstd::Decoder::new(&first[..]).unwrap());
        for entry in archive.entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names, ["a", "b", "link", "units"]);
    }

    #[test]
    fn a_file_that_was_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("system.tar.zst");
        fs::write(&path, "abc").unwrap();
        let mut bundles = Bundles::new(folder.path());
        let bundle = bundles.add_file("classes.worker.bundle", &path).unwrap();
        assert_eq!(bundle.digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let file = bundles.get(&bundle.digest).unwrap();
        assert!(file.is_unchanged(&path.metadata().unwrap()));
        fs::write(&path, "abd").unwrap();
        assert!(!file.is_unchanged(&path.metadata().unwrap()));
        let error = bundles.add_file("classes.worker.bundle", &folder.path().join("none")).unwrap_err();
        assert!(
            error.to_string().contains("`classes.worker.bundle`") && error.to_string().contains("none`"),
            "{error}"
        );
    }
}
