//! `nix`: a flake output or a store path, which holds a disk image, or a kernel with its initrd.

pub(crate) mod command;

use std::fs;
use std::path::{Path, PathBuf};

use super::command::{Tool, failed};
use super::index::ImageRecord;
use super::recipe::Recipe;
use super::store::Work;
use super::{Boot, digest, disk, tools};
use crate::error::{Context, Error, Result};
use crate::plan::model::LockState;

/// Builds the output with Nix, unless it is a path that exists, and finds in it what boots.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    let Recipe::Nix { reference } = &work.resolved.recipe else {
        return Err(Error::infrastructure("a recipe of another kind reached the builder of `nix` images"));
    };
    let output = output(work, reference).await?;
    // A store path already is a digest of all its inputs.
    let digest = digest::of_value(&("nix", &output))?;
    match find(&output)? {
        Found::Disk(path) => {
            let disk = disk::inspect(work, &path).await?;
            Ok(work.record(digest, LockState::NotNeeded, Boot::Firmware, Some(disk), Vec::new()))
        }
        Found::Kernel { kernel, initrd, parameters } => {
            let boot = Boot::Kernel { kernel, uncompressed_kernel: None, initramfs: initrd, parameters };
            Ok(work.record(digest, LockState::NotNeeded, boot, None, Vec::new()))
        }
    }
}

async fn output(work: &Work<'_>, reference: &str) -> Result<PathBuf> {
    if !reference.contains('#') {
        let path = work.store.project_root().join(reference);
        if let Ok(path) = fs::canonicalize(&path) {
            return Ok(path);
        }
    }
    if tools::find("nix").is_none() {
        return Err(Error::blocked(format!(
            "image `{}` is built by Nix, and `nix` is not installed",
            work.request.name
        ))
        .hint(tools::how_to_get("nix")));
    }
    work.stage(&format!("building {reference} with Nix"));
    let arguments = ["--extra-experimental-features", "nix-command flakes", "build", "--no-link", "--print-out-paths"];
    let finished = Tool::new("nix")
        .args(arguments)
        .args([reference])
        .current_dir(work.store.project_root())
        .run(work.cancel, |_| {})
        .await?;
    if !finished.status.success() {
        return Err(failed("nix", &format!("build `{reference}`"), &finished)
            .hint(format!("`nix build --print-build-logs {reference}` shows it in full")));
    }
    let path = finished.stdout.lines().next().map(PathBuf::from);
    path.ok_or_else(|| Error::infrastructure(format!("`nix build {reference}` gave no output path")))
}

/// What boots in an output.
#[derive(Debug, PartialEq)]
enum Found {
    Disk(PathBuf),
    Kernel { kernel: PathBuf, initrd: PathBuf, parameters: Vec<String> },
}

fn find(output: &Path) -> Result<Found> {
    if output.is_file() {
        return Ok(Found::Disk(output.into()));
    }
    let first = |names: &[&str]| names.iter().map(|name| output.join(name)).find(|path| path.is_file());
    if let (Some(kernel), Some(initrd)) = (first(&["kernel", "bzImage"]), first(&["initrd", "initrd.gz"])) {
        let read = |name: &str| fs::read_to_string(output.join(name)).unwrap_or_default();
        let mut parameters: Vec<String> = read("kernel-params").split_whitespace().map(String::from).collect();
        // A NixOS system is started by its own init, below the store path.
        if let Ok(init) = fs::canonicalize(output.join("init")) {
            parameters.push(format!("init={}", init.display()));
        }
        return Ok(Found::Kernel { kernel, initrd, parameters });
    }
    let context = || format!("failed to read the output `{}`", output.display());
    let mut disks = Vec::new();
    for folder in [output.to_path_buf(), output.join("images")] {
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder).infrastructure(context)? {
            let path = entry.infrastructure(context)?.path();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if path.is_file() && ["qcow2", "raw", "img"].contains(&extension) {
                disks.push(path);
            }
        }
    }
    disks.sort();
    match disks.as_slice() {
        [disk] => Ok(Found::Disk(disk.clone())),
        [] => Err(Error::usage(format!("nothing that boots is in `{}`", output.display()))
            .hint("expected is a disk (`*.qcow2`, `*.raw`, `*.img`), or `kernel` (or `bzImage`) with `initrd`")),
        several => Err(Error::usage(format!("`{}` holds {} disk images", output.display(), several.len()))
            .hint("name the one that is meant by its own path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_or_a_kernel_is_found_and_anything_else_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(find(folder.path()).unwrap_err().to_string().contains("nothing that boots"));
        fs::write(at("nixos.qcow2"), "").unwrap();
        assert_eq!(find(folder.path()).unwrap(), Found::Disk(at("nixos.qcow2")));
        assert_eq!(find(&at("nixos.qcow2")).unwrap(), Found::Disk(at("nixos.qcow2")));
        fs::write(at("other.raw"), "").unwrap();
        assert!(find(folder.path()).unwrap_err().to_string().contains("2 disk images"));
        fs::write(at("bzImage"), "").unwrap();
        fs::write(at("initrd"), "").unwrap();
        fs::write(at("kernel-params"), "quiet loglevel=4\n").unwrap();
        let parameters = vec!["quiet".to_string(), "loglevel=4".into()];
        assert_eq!(
            find(folder.path()).unwrap(),
            Found::Kernel { kernel: at("bzImage"), initrd: at("initrd"), parameters }
        );
    }
}
