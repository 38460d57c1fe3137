//! A run while it runs: what it takes, and whether that is too much.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::scan::scan;
use crate::machine::registry;
use crate::preflight::host;

/// Nothing tells when a file system fills up, so that it has to be asked. One question costs microseconds, and what stays free is
/// more than most disks write meanwhile; where it is not, writes fail and the run ends in the same manner.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a run may not cross, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// What stays free on the work root's file system.
    pub kept_free: u64,
    /// What the run itself may write.
    pub own: Option<u64>,
    /// What the whole work root may take, and what of it is not this run's.
    pub total: Option<(u64, u64)>,
}

/// A bound that was crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    pub what: String,
    pub limit: u64,
    pub used: u64,
}

/// The most that was seen of anything, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// In the run's own folders.
    pub disk: u64,
    /// Resident, of all its machines together.
    pub memory: u64,
}

/// Where a run is to be found.
#[derive(Clone, Debug)]
pub struct Watched {
    pub work_root: PathBuf,
    pub run: String,
    /// Folders that only it writes to.
    pub own: Vec<PathBuf>,
}

/// Watches a run for as long as it lives.
pub struct Watch {
    watched: Watched,
    peak: Arc<Mutex<Peak>>,
    _end: DropGuard,
}

impl Watch {
    /// `crossed` is told once, of the first bound that is crossed.
    pub fn start(watched: Watched, limits: Limits, crossed: impl FnOnce(Crossed) + Send + 'static) -> Self {
        let (end, peak) = (CancellationToken::new(), Arc::new(Mutex::new(Peak::default())));
        let (ended, most, subject) = (end.clone(), peak.clone(), watched.clone());
        tokio::spawn(async move {
            let mut crossed = Some(crossed);
            let mut ticks = tokio::time::interval(INTERVAL);
            // A host that stood still is looked at once.
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while ended.run_until_cancelled(ticks.tick()).await.is_some() {
                let subject = subject.clone();
                let Ok((now, free)) = tokio::task::spawn_blocking(move || {
                    (measure(&subject), host::free_disk(&subject.work_root).unwrap_or(u64::MAX))
                })
                .await
                else {
                    return;
                };
                note(&most, now);
                if let Some(found) = exceeded(&limits, now.disk, free)
                    && let Some(crossed) = crossed.take()
                {
                    crossed(found);
                }
            }
        });
        Self { watched, peak, _end: end.drop_guard() }
    }

    /// Looks once more, and gives the most that was seen.
    pub fn peak(&self) -> Peak {
        note(&self.peak, measure(&self.watched));
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(most: &Mutex<Peak>, now: Peak) {
    let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
    *most = Peak { disk: most.disk.max(now.disk), memory: most.memory.max(now.memory) };
}

fn measure(watched: &Watched) -> Peak {
    let memory = registry::processes_of(&watched.work_root, &watched.run).into_iter().filter_map(host::most_memory);
    Peak { disk: written(&watched.own), memory: memory.sum() }
}

/// What is allocated in folders, of which some may not be there.
pub fn written(folders: &[PathBuf]) -> u64 {
    folders.iter().filter_map(|folder| scan(Path::new(folder), 0).ok()).map(|scan| scan.total().bytes).sum()
}

/// The first bound that is crossed.
fn exceeded(limits: &Limits, own: u64, free: u64) -> Option<Crossed> {
    if free < limits.kept_free {
        let what = "disk space that stays free for the proof".into();
        return Some(Crossed { what, limit: limits.kept_free, used: free });
    }
    if let Some(limit) = limits.own.filter(|limit| own > *limit) {
        return Some(Crossed { what: "disk space of the run (the lane's `budget.disk`)".into(), limit, used: own });
    }
    let (limit, others) = limits.total?;
    let used = others.saturating_add(own);
    let what = "disk space of the work root (`hard.total` in `budget.toml`)".into();
    (used > limit).then_some(Crossed { what, limit, used })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_told_by_itself() {
        let limits = Limits { kept_free: 10, own: Some(100), total: Some((1000, 950)) };
        assert_eq!(exceeded(&limits, 50, 10), None);
        let used = |own, free| exceeded(&limits, own, free).map(|crossed| (crossed.limit, crossed.used));
        assert_eq!(used(50, 9), Some((10, 9)));
        assert_eq!(used(101, 10), Some((100, 101)));
        assert_eq!(used(51, 10), Some((1000, 1001)));
        assert_eq!(exceeded(&Limits::default(), u64::MAX, 0), None);
    }

    #[tokio::test]
    async fn what_is_written_is_seen_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let watched = Watched { work_root: folder.path().into(), run: "r".into(), own: vec![own.clone()] };
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let limits = Limits { kept_free: 0, own: Some(50_000), total: None };
        let watch = Watch::start(watched, limits, move |crossed| sender.send(crossed).unwrap());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("file"), vec![1; 100_000]).unwrap();
        let crossed = told.recv().await.unwrap();
        assert_eq!(crossed.limit, 50_000);
        assert!(crossed.used >= 100_000 && watch.peak().disk >= crossed.used);
        std::fs::remove_file(own.join("file")).unwrap();
        assert!(watch.peak().disk >= 100_000, "the peak stays");
    }
}
