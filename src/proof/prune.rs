//! Which proofs may go, and how they go.
//!
//! What always holds: what is pinned, what `latest` points to, what a run still writes, and the newest proof with which a lane passes
//! stay, whatever else was asked for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::root::{ProofEntry, is_under_way, list};
use super::seal::SEAL_FILE;
use crate::error::{Context, Error, Result};
use crate::event::Verdict;

/// Why a proof stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// One of the newest that were to stay.
    Newest,
    Pinned,
    Latest,
    /// Its run goes on, or a machine of it is up.
    UnderWay,
    /// Of those with which the lane passes, the newest, and none of the others that stay is one.
    OnlyPassing,
}

/// What becomes of a proof.
#[derive(Clone, Debug)]
pub struct Judged {
    pub entry: ProofEntry,
    /// `None`: it may go.
    pub kept: Option<Kept>,
}

/// The file whose presence pins a proof: beside its root, which is sealed.
fn pin_of(root: &Path) -> PathBuf {
    let mut name = root.as_os_str().to_owned();
    name.push(".pinned");
    name.into()
}

pub fn is_pinned(root: &Path) -> bool {
    pin_of(root).exists()
}

/// Keeps a proof from being pruned, or no longer does.
///
/// # Errors
/// Infrastructure, or budget where the disk is full.
pub fn pin(root: &Path, pinned: bool) -> Result<()> {
    let path = pin_of(root);
    let failed = |error| Error::storage(error, format!("failed to write `{}`", path.display()));
    if pinned {
        return File::create(&path).map(drop).map_err(failed);
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Judges every lane's proofs, by lane, the oldest first. `is_up`: whether a machine of the run of that name is up.
///
/// # Errors
/// Infrastructure: a folder cannot be read.
pub fn judge_all(work_root: &Path, keep: usize, is_up: impl Fn(&str) -> bool) -> Result<Vec<Judged>> {
    let live = |entry: &ProofEntry| is_up(&entry.run) || is_under_way(&entry.path);
    let mut lanes: Vec<Vec<ProofEntry>> = Vec::new();
    for entry in list(work_root, None)? {
        match lanes.last_mut().filter(|lane| lane[0].lane == entry.lane) {
            Some(lane) => lane.push(entry),
            None => lanes.push(vec![entry]),
        }
    }
    Ok(lanes.into_iter().flat_map(|lane| judge(lane, keep, is_pinned, live)).collect())
}

/// Judges one lane's proofs.
fn judge(
    mut entries: Vec<ProofEntry>,
    keep: usize,
    is_pinned: impl Fn(&Path) -> bool,
    is_live: impl Fn(&ProofEntry) -> bool,
) -> Vec<Judged> {
    entries.sort_by_cached_key(|entry| {
        // Of several that began in one second, the one that ended first.
        let ended: Option<jiff::Timestamp> = entry.seal.as_ref().and_then(|seal| seal.sealed_at.parse().ok());
        (began(&entry.run), ended, entry.run.clone())
    });
    let newest = entries.len().saturating_sub(keep);
    let mut judged: Vec<Judged> = entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            let kept = match () {
                () if is_live(&entry) => Some(Kept::UnderWay),
                () if is_pinned(&entry.path) => Some(Kept::Pinned),
                () if entry.latest => Some(Kept::Latest),
                () if index >= newest => Some(Kept::Newest),
                () => None,
            };
            Judged { entry, kept }
        })
        .collect();
    let passes = |judged: &Judged| judged.entry.seal.as_ref().is_some_and(|seal| seal.verdict == Verdict::Passed);
    if !judged.iter().any(|one| one.kept.is_some() && passes(one))
        && let Some(one) = judged.iter_mut().rev().find(|one| passes(one))
    {
        one.kept = Some(Kept::OnlyPassing);
    }
    judged
}

/// When a run began, by its name: `20250102T030405+0100-1a2b3c4d`. Instants compare where the texts of two time zones would not.
fn began(run: &str) -> Option<jiff::Timestamp> {
    let (stamp, _) = run.rsplit_once('-')?;
    jiff::Zoned::strptime("%Y%m%dT%H%M%S%z", stamp).ok().map(|zoned| zoned.timestamp())
}

/// Removes a proof. False where a run writes it after all, or it is pinned or latest by now.
///
/// # Errors
/// Infrastructure: something of it cannot be removed.
pub fn remove(root: &Path) -> Result<bool> {
    let failed = || format!("failed to remove `{}`", root.display());
    let folder = match File::open(root) {
        Ok(folder) => folder,
        // Somebody else has.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).infrastructure(failed),
    };
    let latest = root.parent().and_then(|lane| fs::read_link(lane.join("latest")).ok());
    let is_latest = latest.as_deref().is_some_and(|target| target.file_name() == root.file_name());
    if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() || is_pinned(root) || is_latest {
        return Ok(false);
    }
    // Without its seal it is not finished: nobody takes what is left for whole, should this be cut short.
    match fs::remove_file(root.join(SEAL_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).infrastructure(failed),
        _ => {}
    }
    fs::remove_dir_all(root).infrastructure(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Seal;

    fn entry(run: &str, verdict: Option<Verdict>) -> ProofEntry {
        let seal = verdict.map(|verdict| Seal {
            version: 1,
            run: run.into(),
            lane: "l".into(),
            verdict,
            sealed_at: String::new(),
            tool_version: String::new(),
            files: 0,
            sums_digest: String::new(),
            note: String::new(),
        });
        ProofEntry { lane: "l".into(), run: run.into(), path: run.into(), seal, latest: false }
    }

    fn outcome(entries: Vec<ProofEntry>, keep: usize) -> Vec<(String, Option<Kept>)> {
        let judged = judge(entries, keep, |path| path.ends_with("pinned"), |entry| entry.run.ends_with("live"));
        judged.into_iter().map(|judged| (judged.entry.run, judged.kept)).collect()
    }

    #[test]
    fn the_newest_stay_and_those_that_must() {
        let (passed, failed) = (Some(Verdict::Passed), Some(Verdict::Failed));
        let mut latest = entry("c", failed);
        latest.latest = true;
        let entries = vec![
            entry("a", failed),
            entry("b/pinned", failed),
            latest,
            entry("d/live", None),
            entry("e", passed),
            entry("f", failed),
            entry("g", failed),
        ];
        let expected = [
            None,
            Some(Kept::Pinned),
            Some(Kept::Latest),
            Some(Kept::UnderWay),
            Some(Kept::OnlyPassing),
            None,
            Some(Kept::Newest),
        ];
        assert_eq!(outcome(entries.clone(), 1).into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), expected);
        assert!(outcome(entries, 7).iter().all(|(_, kept)| kept.is_some()));
        // With a passing one among those that stay, older ones may go.
        let entries = vec![entry("a", passed), entry("b", passed), entry("c", failed), entry("d", failed)];
        let kept: Vec<_> = outcome(entries.clone(), 2).into_iter().map(|(_, kept)| kept).collect();
        assert_eq!(kept, [None, Some(Kept::OnlyPassing), Some(Kept::Newest), Some(Kept::Newest)]);
        let kept: Vec<_> = outcome(entries, 3).into_iter().map(|(_, kept)| kept.is_some()).collect();
        assert_eq!(kept, [false, true, true, true]);
    }

    #[test]
    fn newest_goes_by_instants() {
        let (east, west) = ("20250102T030000+0200-aaaaaaaa", "20250102T013000+0000-bbbbbbbb");
        let order = outcome(vec![entry(west, None), entry(east, None)], 1);
        assert_eq!(order, [(east.to_owned(), None), (west.to_owned(), Some(Kept::Newest))]);
    }

    #[test]
    fn what_is_under_way_or_pinned_by_now_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = crate::proof::ProofRoot::create(folder.path(), "lane").unwrap();
        let path = root.path().to_owned();
        assert!(!remove(&path).unwrap());
        drop(root);
        pin(&path, true).unwrap();
        pin(&path, true).unwrap();
        assert!(is_pinned(&path) && !remove(&path).unwrap());
        pin(&path, false).unwrap();
        pin(&path, false).unwrap();
        assert!(remove(&path).unwrap() && !path.exists() && remove(&path).unwrap());
    }
}
