//! `bootproof clean`: removes what is left over of runs that are gone. Never a proof, never an image that is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::{Context, fresh};
use crate::checkpoint::CheckpointStore;
use crate::error::{Error, Result};
use crate::image::ImageStore;
use crate::machine::{self, registry};
use crate::report::text;

const AFTER_HELP: &str = "\
Examples:
  bootproof clean --dry-run     what would go, and what it takes on the disk
  bootproof clean

What goes: disks, sockets and records of runs that were killed; half-made images and checkpoints; incomplete downloads;
the consoles of kept machines that are stopped; what `bootproof exec` has kept of failures. What stays: proofs, images, checkpoints, and
whatever a run, a build or a kept machine uses.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only tell
    #[arg(long)]
    dry_run: bool,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let mut cleaning = Cleaning { context, dry_run: arguments.dry_run, bytes: 0, stayed: Vec::new() };
    let work_root = &context.work_root;
    // Before anything else is asked, which tidies up by itself.
    registry::left_over(work_root, &mut |paths| cleaning.take("record of a machine that is gone", paths))?;
    machine::left_over_folders(work_root, &mut |paths| cleaning.take("folders of a run that is gone", paths))?;
    ImageStore::left_over(work_root, &mut |paths| cleaning.take("half-made image", paths))?;
    for partial in incomplete_downloads(work_root) {
        cleaning.remove("incomplete download", &partial);
    }
    fresh::left_over(work_root, &mut |paths| cleaning.take("caches of a `--fresh` run that is gone", paths))?;
    CheckpointStore::left_over(work_root, &mut |paths| cleaning.take("half-made checkpoint", paths));
    for console in consoles_of_gone_machines(work_root)? {
        cleaning.remove("console of a kept machine that is gone", &console);
        // The run's folder goes with the last of its machines.
        let _ = console.parent().map(fs::remove_dir);
    }
    for evidence in entries(&work_root.join("exec")) {
        cleaning.remove("console of a failed `exec`", &evidence);
    }
    cleaning.finish()
}

struct Cleaning<'a> {
    context: &'a Context,
    dry_run: bool,
    bytes: u64,
    /// What was to go, and could not.
    stayed: Vec<String>,
}

impl Cleaning<'_> {
    /// Tells of something that can go; true where it shall.
    fn take(&mut self, what: &str, paths: &[PathBuf]) -> bool {
        let bytes = paths.iter().map(|path| allocated(path)).sum();
        self.bytes += bytes;
        let root = &self.context.work_root;
        let shown: Vec<String> =
            paths.iter().map(|path| path.strip_prefix(root).unwrap_or(path).display().to_string()).collect();
        let line = format!("{:>10}  {what}: {}", text::bytes(bytes), shown.join(", "));
        println!("{}", text::one_line(&line));
        !self.dry_run
    }

    fn remove(&mut self, what: &str, path: &Path) {
        if self.take(what, &[path.to_path_buf()])
            && let Err(error) = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        {
            self.stayed.push(format!("`{}`: {error}", path.display()));
        }
    }

    fn finish(self) -> Result<ExitCode> {
        if !self.stayed.is_empty() {
            return Err(Error::infrastructure(format!("failed to remove {}", self.stayed.join(", "))));
        }
        if !self.context.quiet {
            let bytes = text::bytes(self.bytes);
            match (self.bytes, self.dry_run) {
                (0, _) => eprintln!("nothing is left over under `{}`", self.context.work_root.display()),
                (_, true) => eprintln!("{bytes} would be freed"),
                (_, false) => eprintln!("{bytes} freed"),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What it takes on the disk; files that are there twice by name are counted once.
fn allocated(path: &Path) -> u64 {
    let mut seen = BTreeMap::new();
    for entry in walkdir::WalkDir::new(path).into_iter().flatten() {
        if let Ok(facts) = entry.metadata() {
            seen.insert((facts.dev(), facts.ino()), facts.blocks() * 512);
        }
    }
    seen.values().sum()
}

/// `kept/<run>/<machine>` of machines that are not up.
fn consoles_of_gone_machines(work_root: &Path) -> Result<Vec<PathBuf>> {
    let mut gone: Vec<PathBuf> = entries(&work_root.join("kept")).iter().flat_map(|run| entries(run)).collect();
    // Looked at afterwards: a machine that is kept meanwhile is up.
    let live = registry::peek(work_root)?;
    gone.retain(|folder| !live.iter().any(|record| record.console.parent() == Some(folder)));
    Ok(gone)
}

/// What apt began to fetch into the archives' own states, and nobody goes on with: apt holds a lock meanwhile.
fn incomplete_downloads(work_root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for suite in entries(&work_root.join("images/archive")) {
        for part in ["lists", "cache/archives"] {
            let folder = suite.join(part);
            let files = fs::read_dir(folder.join("partial")).into_iter().flatten().flatten().map(|entry| entry.path());
            let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
            if !files.is_empty() && !is_locked(&folder.join("lock")) {
                found.extend(files);
            }
        }
    }
    found.sort();
    found
}

/// Whether another process holds a record lock on the file.
fn is_locked(path: &Path) -> bool {
    // For reading, so only a lock for writing is in its way.
    File::open(path).is_ok_and(|file| {
        let wanted = Flock::from(FlockType::ReadLock);
        fcntl_getlk(&file, &wanted).is_ok_and(|held| held.is_some())
    })
}

/// Folders in a folder; links are not followed.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    folders.sort();
    folders
}
