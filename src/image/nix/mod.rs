//! `nix`: what the `nix` command builds, or what is in its store already, and what of it boots.
//!
//! `build` runs Nix and keeps its log, `log` reads what Nix says while it works, `output` looks for what boots, `runner`
//! reads the scripts that start a NixOS VM, `command` knows how Nix is called and what its complaints mean.
//!
//! What always holds: nothing that a build has made is executed on the host; a script is read and never run. What Nix
//! builds for us stays in its store for as long as the work root has the image's link to it.

mod build;
pub(crate) mod command;
mod log;
mod output;
mod runner;

use std::fs;
use std::path::{Path, PathBuf};

use super::command::Tool;
use super::index::ImageRecord;
use super::recipe::Recipe;
use super::store::Work;
use super::{BaseDisk, Boot, DiskFormat, digest, disk, tools};
use crate::error::{Error, Result};
use crate::plan::model::LockState;
use output::Found;

/// What an image is to be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NixSource {
    /// There already: a store path, or a folder or file that somebody made. Its links are followed.
    Path(PathBuf),
    /// A flake and an attribute in it: `.#node`.
    Flake(String),
    /// A Nix file and an attribute in it, which may be empty.
    File { file: PathBuf, attribute: String },
}

impl NixSource {
    /// Whether the same words can stand for something else tomorrow: only what is in a store stays what it is.
    pub fn may_change(&self) -> bool {
        match self {
            NixSource::Path(path) => store_path(path).is_none(),
            NixSource::Flake(_) | NixSource::File { .. } => true,
        }
    }

    pub fn shown(&self) -> String {
        match self {
            NixSource::Path(path) => path.display().to_string(),
            NixSource::Flake(reference) => reference.clone(),
            NixSource::File { file, attribute } if attribute.is_empty() => file.display().to_string(),
            NixSource::File { file, attribute } => format!("-f {} {attribute}", file.display()),
        }
    }
}

/// The store path that a path is, or is below: its last part is 32 characters of Nix's alphabet, a hyphen and a name.
fn store_path(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| {
        let name = ancestor.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_digest = |digest: &str| digest.bytes().all(|byte| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&byte));
        let in_store = ancestor.parent().and_then(Path::file_name).is_some_and(|parent| parent == "store");
        in_store
            && name.len() > 33
            && name.is_char_boundary(32)
            && is_digest(&name[..32])
            && name[32..].starts_with('-')
    })
}

/// Builds it, unless it is there, and finds in it what boots.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    let Recipe::Nix { source, output, jobs, cores } = &work.resolved.recipe else {
        return Err(Error::infrastructure("a recipe of another kind reached the builder of `nix` images"));
    };
    let outputs = match source {
        NixSource::Path(path) => vec![("out".to_owned(), path.clone())],
        source => build::outputs(work, source, output.as_deref(), (*jobs, *cores)).await?,
    };
    let (place, found) = choose(&outputs, output.as_deref(), work)?;
    let mut identity = vec![place.display().to_string()];
    if store_path(&place).is_none() {
        // No store vouches for what is in it.
        for file in found.files() {
            identity.push(disk::file_record(work.store, file)?.sha256);
        }
    }
    let digest = match identity.as_slice() {
        // A store path already is a digest of all its inputs.
        [path] => digest::of_value(&("nix", path))?,
        more => digest::of_value(&("nix", more))?,
    };
    match found {
        Found::Disk(path) => {
            let disk = disk::inspect(work, &path).await?;
            Ok(work.record(digest, LockState::NotNeeded, Boot::Firmware, Some(disk), Vec::new()))
        }
        Found::Kernel { kernel, initrd, parameters, disk } => {
            let disk = match disk {
                Some(path) => Some(disk::inspect(work, &path).await?),
                None => None,
            };
            let boot = Boot::Kernel { kernel, uncompressed_kernel: None, initramfs: initrd, parameters };
            Ok(work.record(digest, LockState::NotNeeded, boot, disk, Vec::new()))
        }
        Found::Runner(runner) => {
            for told in &runner.left_out {
                work.progress.warning(&work.request.name, told);
            }
            let disk = match runner.root_disk {
                Some(size) => Some(root_disk(work, &digest, size).await?),
                None => None,
            };
            let boot = Boot::Kernel {
                kernel: runner.kernel,
                uncompressed_kernel: None,
                initramfs: runner.initrd,
                parameters: runner.parameters,
            };
            let mut record = work.record(digest, LockState::NotNeeded, boot, disk, Vec::new());
            record.shares = runner.shares;
            Ok(record)
        }
        Found::Medium(path) => {
            let boot = Boot::Medium { path, network: None };
            Ok(work.record(digest, LockState::NotNeeded, boot, None, Vec::new()))
        }
    }
}

/// The output that is meant, or the first in which anything boots: `out` before the others.
fn choose(outputs: &[(String, PathBuf)], wanted: Option<&str>, work: &Work<'_>) -> Result<(PathBuf, Found)> {
    let names = || outputs.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        // Nix was asked for nothing else where it had to build; a store path is one output already.
        let Some((_, path)) = outputs.iter().find(|(name, _)| name == wanted) else {
            return Err(Error::usage(format!("image `{}` has no output `{wanted}`", work.request.name))
                .hint(format!("it has: {}", names())));
        };
        return Ok((path.clone(), output::find(path)?));
    }
    let mut first = None;
    for (_, path) in outputs {
        match output::find(path) {
            Ok(found) => return Ok((path.clone(), found)),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let error = first.unwrap_or_else(|| Error::infrastructure("Nix has built no output"));
    Err(if outputs.len() > 1 { error.hint(format!("looked into the outputs {}", names())) } else { error })
}

/// The disk that a NixOS VM expects as its first: an empty ext4, found by its label.
async fn root_disk(work: &Work<'_>, digest: &str, size: u64) -> Result<BaseDisk> {
    let place = work.store.built_folder(digest);
    let path = place.join("disk.raw");
    if !path.is_file() {
        work.stage("making the root disk of the NixOS VM");
        let temporary = work.store.temporary()?;
        let made = temporary.path().join("image");
        fs::create_dir(&made)
            .and_then(|()| fs::File::create(made.join("disk.raw"))?.set_len(size))
            .map_err(|error| Error::storage(error, "failed to make the root disk of a NixOS VM"))?;
        let arguments = ["-q", "-F", "-L", "nixos", "disk.raw"];
        let tool = Tool::new("mkfs.ext4").args(arguments).current_dir(&made).locked_by(temporary.lock());
        tool.succeed(work.cancel, "make the root disk of a NixOS VM").await?;
        work.store.publish(&made, &place)?;
    }
    Ok(BaseDisk { path, format: DiskFormat::Raw, virtual_size: size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_path_is_told_from_any_other() {
        let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos/disk.qcow2";
        assert_eq!(store_path(Path::new(path)), Some(Path::new("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos")));
        assert_eq!(store_path(Path::new("/work/0123456789abcdfghijklmnpqrsvwxyz-nixos")), None);
        assert_eq!(store_path(Path::new("/nix/store/short-name")), None);
        assert_eq!(store_path(Path::new("/home/me/result")), None);
    }
}
