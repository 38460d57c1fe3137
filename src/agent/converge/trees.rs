//! Trees: what bundles hold, each in a folder that is named by the bundle's digest.
//!
//! What always holds: a folder in `generations` is whole, was on the disk before it got its name, and holds folders, files
//! and links that do not lead out of it, and nothing else; what is to go loses its name first.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2, syncfs};
use rustix::io::Errno;

use super::host::{Host, Invocation};
use super::journal::sync_folder;
use super::places::Places;
use super::units;
use crate::provisioning::Bundle;

const UNPACK_BOUND: Duration = Duration::from_secs(1800);

/// Why there is no tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Perhaps another time.
    Now(&'static str, String),
    /// What the bundle holds will never do.
    Ever(String),
}

/// Gets a bundle's bytes, checked, into a file, which may hold the first of them already.
pub type Fetch<'f> = dyn Fn(&Bundle, &Path) -> Result<(), String> + 'f;

/// The digest as the name of a folder.
pub fn name_of(bundle: &Bundle) -> Result<&str, String> {
    bundle
        .digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| format!("`{}` is no digest", bundle.digest))
}

/// The tree's folder, whether it is there or not.
pub fn folder_of(places: &Places, bundle: &Bundle) -> Result<PathBuf, String> {
    Ok(places.generations().join(name_of(bundle)?))
}

/// Gives the tree of a bundle, which is fetched and unpacked where it is not there yet.
pub fn prepare(places: &Places, host: &dyn Host, bundle: &Bundle, fetch: &Fetch<'_>) -> Result<PathBuf, Unusable> {
    let name = name_of(bundle).map_err(Unusable::Ever)?;
    let place = places.generations().join(name);
    if place.is_dir() {
        return Ok(place);
    }
    let scratch = places.scratch();
    make_folders(places).map_err(|reason| Unusable::Now("prepare", reason))?;
    let file = scratch.join(format!("{name}.tar.zst"));
    fetch(bundle, &file).map_err(|reason| Unusable::Now("download", reason))?;
    host.durable("downloaded");
    let partial = scratch.join(name);
    discard(&partial).map_err(|reason| Unusable::Now("unpack", reason))?;
    let unpacked = unpack(host, &file, &partial);
    if unpacked.is_err() {
        let _ = discard(&partial);
    }
    if !matches!(unpacked, Err(Unusable::Now(..))) {
        let _ = fs::remove_file(&file);
    }
    unpacked?;
    publish(places, &partial, &place).map_err(|reason| Unusable::Now("unpack", reason))?;
    host.durable("tree");
    Ok(place)
}

fn make_folders(places: &Places) -> Result<(), String> {
    for (folder, mode) in [(places.generations(), 0o755), (places.scratch(), 0o700)] {
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)))
            .map_err(|error| format!("failed to make `{}`: {error}", folder.display()))?;
    }
    Ok(())
}

fn unpack(host: &dyn Host, file: &Path, into: &Path) -> Result<(), Unusable> {
    fs::create_dir(into)
        .and_then(|()| fs::set_permissions(into, fs::Permissions::from_mode(0o755)))
        .map_err(|error| Unusable::Now("unpack", format!("failed to make `{}`: {error}", into.display())))?;
    let (file, folder) = (file.to_string_lossy(), into.to_string_lossy());
    // Nothing of the archive's owners and special modes is wanted.
    let arguments = [
        "--extract",
        "--zstd",
        "--file",
        &file,
        "--directory",
        &folder,
        "--no-same-owner",
        "--no-same-permissions",
        "--no-xattrs",
        "--no-selinux",
        "--no-acls",
    ];
    host.run(&Invocation::new("tar", &arguments, UNPACK_BOUND)).map_err(|reason| {
        let ours =
            ["No space left on device", "Disk quota exceeded", "Input/output error", "failed to run `tar`", "signal"];
        let zstd = reason.contains("zstd: Cannot exec");
        if zstd || reason.contains("did not end within") || ours.iter().any(|text| reason.contains(text)) {
            Unusable::Now("unpack", reason)
        } else {
            Unusable::Ever(format!("the bundle cannot be unpacked: {reason}"))
        }
    })?;
    check(into).and_then(|()| units::list(into).map(drop)).map_err(Unusable::Ever)
}

/// Looks at everything in a new tree.
fn check(tree: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to look at `{}`: {error}", tree.display());
    let root = open(tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(&error))?;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(tree.join(&folder)).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| failed(&error))?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() {
                // What it leads to need not be there, but the way has to stay inside.
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                match openat2(&root, &path, flags, Mode::empty(), ResolveFlags::BENEATH) {
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(Errno::XDEV) => return Err(format!("the bundle's link `{}` leads out of it", path.display())),
                    Err(error) => return Err(format!("the bundle's link `{}`: {error}", path.display())),
                }
            } else if kind.is_file() {
                let metadata = entry.metadata().map_err(|error| failed(&error))?;
                if metadata.mode() & 0o6000 != 0 {
                    return Err(format!("the bundle's file `{}` would run as somebody else", path.display()));
                }
            } else {
                let kind = if kind.is_fifo() || kind.is_socket() { "pipe or socket" } else { "device" };
                return Err(format!("the bundle's `{}` is a {kind}", path.display()));
            }
        }
    }
    Ok(())
}

/// All of it is on the disk before it gets its name.
fn publish(places: &Places, partial: &Path, place: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("failed to put `{}` in place: {error}", place.display());
    let folder = fs::File::open(partial).map_err(failed)?;
    syncfs(&folder).map_err(|error| failed(error.into()))?;
    fs::rename(partial, place).map_err(failed)?;
    sync_folder(&places.generations()).map_err(failed)
}

/// Removes every tree but these, and what is left of work that was broken off.
pub fn collect_garbage(places: &Places, host: &dyn Host, kept: &[&Bundle], fetching: bool) {
    let kept: Vec<&str> = kept.iter().filter_map(|bundle| name_of(bundle).ok()).collect();
    let collected = entries(&places.generations()).and_then(|trees| {
        for tree in trees {
            let name = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !kept.contains(&name.as_str()) {
                // Without its name no half of it is ever taken for the whole.
                let doomed = places.scratch().join(&name);
                make_folders(places)?;
                discard(&doomed)?;
                fs::rename(&tree, &doomed).map_err(|error| error.to_string())?;
                host.durable("doomed");
                discard(&doomed)?;
            }
        }
        for left in entries(&places.scratch())? {
            // A bundle that broke off is gone on with.
            if !(fetching && left.is_file()) {
                discard(&left)?;
            }
        }
        Ok(())
    });
    if let Err(reason) = collected {
        host.say(&format!("failed to remove old trees: {reason}"));
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("failed to read `{}`: {error}", folder.display())),
    }
}

/// A file or a folder, if it is there.
fn discard(path: &Path) -> Result<(), String> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("failed to remove `{}`: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
