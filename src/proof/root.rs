//! Where proof roots are, how one is made, found and published.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::atomic::sync_directory;
use super::seal::{SEAL_FILE, Seal};
use crate::error::{Context, Error, Result};

/// Names of what a proof root holds; see the layout in the README.
pub const EVENTS_FILE: &str = "events.jsonl";
pub const LANE_FILE: &str = "lane.json";
pub const PLAN_FILE: &str = "plan.json";
pub const ENVIRONMENT_FILE: &str = "environment.json";
pub const MACHINES_DIRECTORY: &str = "machines";
pub const ARTIFACTS_DIRECTORY: &str = "artifacts";

const LATEST: &str = "latest";

/// The proof root of a run that is going on.
#[derive(Clone, Debug)]
pub struct ProofRoot {
    path: PathBuf,
    run: String,
    /// Locked for as long as the run goes on; the kernel lets go of it however that ends.
    _under_way: Arc<File>,
}

impl ProofRoot {
    /// Makes `<work root>/proofs/<lane>/<time>-<id>/` with its fixed directories.
    ///
    /// # Errors
    /// `usage` for a lane name that is no plain directory name; `infrastructure`, or `budget` when the disk is full.
    pub fn create(work_root: &Path, lane: &str) -> Result<Self> {
        let folder = lane_folder(work_root, lane)?;
        let stamp = jiff::Zoned::now().strftime("%Y%m%dT%H%M%S%z");
        let run = format!("{stamp}-{}", random_id()?);
        let path = folder.join(&run);
        let failed =
            |error: io::Error| Error::storage(error, format!("failed to create the proof root `{}`", path.display()));
        fs::create_dir_all(&folder).map_err(failed)?;
        // Not `create_dir_all`: two runs must never share a proof root.
        fs::create_dir(&path).map_err(failed)?;
        let under_way = File::open(&path).map_err(failed)?;
        flock(&under_way, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        fs::create_dir(path.join(MACHINES_DIRECTORY)).map_err(failed)?;
        fs::create_dir(path.join(ARTIFACTS_DIRECTORY)).map_err(failed)?;
        sync_directory(&path).and_then(|()| sync_directory(&folder)).map_err(failed)?;
        Ok(Self { path, run, _under_way: Arc::new(under_way) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name, which is its directory's: `<time>-<id>`.
    pub fn run(&self) -> &str {
        &self.run
    }

    pub fn events(&self) -> PathBuf {
        self.path.join(EVENTS_FILE)
    }

    pub fn artifacts(&self) -> PathBuf {
        self.path.join(ARTIFACTS_DIRECTORY)
    }

    /// Makes and gives `machines/<name>/`.
    pub fn create_machine(&self, name: &str) -> Result<PathBuf> {
        check_name("machine", name)?;
        let directory = self.path.join(MACHINES_DIRECTORY).join(name);
        fs::create_dir(&directory)
            .map_err(|error| Error::storage(error, format!("failed to create `{}`", directory.display())))?;
        Ok(directory)
    }

    /// Points `latest` here, in one step: whoever follows it finds the run before or this one, never nothing.
    ///
    /// # Errors
    /// `infrastructure` when the run is not sealed: `latest` never points to one that is not finished.
    pub fn publish(&self) -> Result<()> {
        publish(&self.path)
    }
}

fn publish(root: &Path) -> Result<()> {
    let failed = || format!("failed to point `{LATEST}` to `{}`", root.display());
    if !root.join(SEAL_FILE).is_file() {
        return Err(Error::infrastructure(failed()).with_source("it is not sealed"));
    }
    let (Some(folder), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(Error::infrastructure(failed()).with_source("it has no place beside it"));
    };
    let temporary = folder.join(format!(".{LATEST}.{}", random_id()?));
    let moved = symlink(name, &temporary)
        .and_then(|()| fs::rename(&temporary, folder.join(LATEST)))
        .and_then(|()| sync_directory(folder));
    if moved.is_err() {
        // Best effort: the error that matters is the one already in hand.
        let _ = fs::remove_file(&temporary);
    }
    moved.infrastructure(failed)
}

/// Whether a run is writing this proof root now. What is neither under way nor sealed was left by one that was killed.
pub fn is_under_way(root: &Path) -> bool {
    File::open(root).is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockShared).is_err())
}

/// Returns once no run writes this proof root any more, sealed or not. Blocks its thread; the kernel wakes it.
pub fn until_over(root: &Path) -> io::Result<()> {
    let folder = File::open(root)?;
    loop {
        match flock(&folder, FlockOperation::LockShared) {
            Err(rustix::io::Errno::INTR) => {}
            waited => return waited.map_err(Into::into),
        }
    }
}

/// A proof root as `proof list` shows it.
#[derive(Clone, Debug)]
pub struct ProofEntry {
    pub lane: String,
    /// `<time>-<id>`.
    pub run: String,
    pub path: PathBuf,
    /// `None` where the run has not finished, or was killed.
    pub seal: Option<Seal>,
    /// `latest` of its lane points here.
    pub latest: bool,
}

/// All proof roots, by lane, the oldest first.
///
/// # Errors
/// `usage` for a lane name that is no directory name; `infrastructure` when a directory cannot be read.
pub fn list(work_root: &Path, lane: Option<&str>) -> Result<Vec<ProofEntry>> {
    let proofs = work_root.join("proofs");
    let lanes = match lane {
        Some(lane) => {
            check_name("lane", lane)?;
            vec![lane.to_owned()]
        }
        None => directories(&proofs)?,
    };
    let mut entries = Vec::new();
    for lane in lanes {
        let folder = proofs.join(&lane);
        let latest = fs::read_link(folder.join(LATEST)).ok();
        for run in directories(&folder)? {
            let path = folder.join(&run);
            entries.push(ProofEntry {
                latest: latest.as_deref() == Some(Path::new(&run)),
                // A seal that cannot be read is no seal; `proof verify` says why.
                seal: Seal::read(&path).ok().flatten(),
                lane: lane.clone(),
                run,
                path,
            });
        }
    }
    Ok(entries)
}

/// Finds a proof root by what a user calls it: `latest`, `<lane>/latest`, a run's name or the end of it, or a path.
///
/// `latest` alone is the newest finished run of any lane, or of `lane`.
///
/// # Errors
/// `usage` when there is none, or more than one.
pub fn find(work_root: &Path, wanted: &str, lane: Option<&str>) -> Result<PathBuf> {
    let as_path = Path::new(wanted);
    if as_path.join(EVENTS_FILE).exists() || as_path.join(SEAL_FILE).exists() {
        return fs::canonicalize(as_path).usage(|| format!("failed to find the proof root `{wanted}`"));
    }
    let (lane, name) = match wanted.split_once('/') {
        Some((given, name)) => (Some(given), name),
        None => (lane, wanted),
    };
    let entries = list(work_root, lane)?;
    let of_lane = lane.map(|lane| format!(" of lane `{lane}`")).unwrap_or_default();
    if name == LATEST {
        return entries
            .into_iter()
            .filter(|entry| entry.latest)
            .max_by(|one, other| sealed_at(one).cmp(&sealed_at(other)))
            .map(|entry| entry.path)
            .ok_or_else(|| {
                Error::usage(format!("failed to find a finished run{of_lane} under `{}`", work_root.display()))
                    .hint("`bootproof proof list` shows what there is")
            });
    }
    let mut found: Vec<ProofEntry> = entries
        .into_iter()
        .filter(|entry| entry.run == name || (name.len() >= 4 && entry.run.ends_with(name)))
        .collect();
    match (found.len(), found.pop()) {
        (1, Some(entry)) => Ok(entry.path),
        (0, _) | (_, None) => Err(Error::usage(format!("failed to find a run `{name}`{of_lane}"))
            .hint("`bootproof proof list` shows what there is")),
        (many, Some(_)) => Err(Error::usage(format!("failed to tell which run is meant: {many} end with `{name}`"))
            .hint("give more of its name")),
    }
}

/// When the run was sealed; instants compare where the texts of two time zones would not.
fn sealed_at(entry: &ProofEntry) -> Option<jiff::Timestamp> {
    entry.seal.as_ref().and_then(|seal| seal.sealed_at.parse().ok())
}

/// Names of the directories in a directory, sorted; none where it does not exist. Links are not followed.
fn directories(parent: &Path) -> Result<Vec<String>> {
    let failed = || format!("failed to read the directory `{}`", parent.display());
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::infrastructure(failed()).with_source(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.infrastructure(failed)?;
        if entry.file_type().infrastructure(failed)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn lane_folder(work_root: &Path, lane: &str) -> Result<PathBuf> {
    check_name("lane", lane)?;
    Ok(work_root.join("proofs").join(lane))
}

/// Only what stays where it is put: no separator, no `..`, nothing hidden.
fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.len() <= 128
        && name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'));
    if plain {
        return Ok(());
    }
    Err(Error::usage(format!("failed to use `{}` as the name of a {what}", name.escape_debug()))
        .hint("use letters, digits, `-`, `_` and `.`"))
}

/// Eight hexadecimal digits from the kernel's random source.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0u8; 4];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .infrastructure(|| "failed to draw a random number".into())?;
    debug_assert_eq!(filled, bytes.len(), "the kernel fills requests this short whole");
    Ok(super::digest::hexadecimal(&bytes))
}
