//! What convergence remembers: what was good, what is being tried, what was rejected, what is still to be told.
//!
//! What always holds: the file is written whole and renamed, so that after a power cut it is what it was before or what it
//! was to become; what is to be reported is written together with what it tells of, and stays until the deployer has it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::Host;
use crate::provisioning::{DesiredSystem, DesiredTarget, HealthCheck, NodeEvent, NodeEventReport};

const VERSION: u32 = 1;
/// More are not kept: the oldest goes first.
const MOST_REJECTED: usize = 64;
const MOST_REPORTS: usize = 64;
/// Of a reason, in characters.
const LONGEST_REASON: usize = 2000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub version: u32,
    /// The boot that was last reported.
    #[serde(default)]
    pub boot: String,
    /// The deployer's generation that was last taken up; none before the first.
    #[serde(default)]
    pub generation: Option<u64>,
    /// The last that passed its health check.
    #[serde(default)]
    pub good: Option<DesiredSystem>,
    /// The good one before it, whose tree is kept for whoever wants to go back to it.
    #[serde(default)]
    pub previous: Option<DesiredSystem>,
    #[serde(default)]
    pub trying: Option<Trial>,
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// In the order in which it happened.
    #[serde(default)]
    pub outbox: Vec<NodeEventReport>,
}

/// A system between the first change for its sake and the last word about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub system: DesiredSystem,
    /// How often its activation was begun.
    pub attempts: u32,
    /// Why it is not good: from here on the way leads back.
    #[serde(default)]
    pub failure: Option<String>,
    /// The NixOS system that ran before.
    #[serde(default)]
    pub before: Option<String>,
}

/// What is not tried again. The name says nothing about what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub target: DesiredTarget,
    pub health_check: HealthCheck,
    pub reason: String,
}

impl Journal {
    /// Why this system is not tried again, where it was rejected. With another health check the same tree may be found
    /// good, so only both together count.
    pub fn rejection(&self, system: &DesiredSystem) -> Option<&str> {
        let is_it =
            |rejected: &&Rejected| rejected.target == system.target && rejected.health_check == system.health_check;
        self.rejected.iter().find(is_it).map(|rejected| rejected.reason.as_str())
    }

    pub fn reject(&mut self, system: &DesiredSystem, reason: &str) {
        let (target, health_check) = (system.target.clone(), system.health_check.clone());
        self.rejected.push(Rejected { target, health_check, reason: shortened(reason) });
        let surplus = self.rejected.len().saturating_sub(MOST_REJECTED);
        self.rejected.drain(..surplus);
    }

    pub fn report(&mut self, event: NodeEvent) {
        if event == NodeEvent::Booted {
            // One that nobody has heard of says nothing beside this one.
            self.outbox.retain(|report| report.report != NodeEvent::Booted);
        }
        self.outbox.push(NodeEventReport { version: crate::provisioning::VERSION, id: unique(), report: event });
        let surplus = self.outbox.len().saturating_sub(MOST_REPORTS);
        self.outbox.drain(..surplus);
    }
}

/// Nobody reads more than this, and a deployer need not take it.
pub fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((at, _)) => format!("{}...", &reason[..at]),
        None => reason.to_owned(),
    }
}

/// Version 4.
fn unique() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim().to_owned()
}

/// The journal and its file.
pub struct Store {
    path: PathBuf,
    pub journal: Journal,
}

impl Store {
    /// An empty one where there is none yet. The second is what was wrong with a file that could not be used: it is set
    /// aside then, and the journal is empty.
    pub fn open(path: &Path) -> Result<(Self, Option<String>), String> {
        let failed = |error: std::io::Error| format!("failed to read `{}`: {error}", path.display());
        let empty = Journal { version: VERSION, ..Journal::default() };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok((Self { path: path.into(), journal: empty }, None));
            }
            Err(error) => return Err(failed(error)),
        };
        let read: Result<Journal, String> = serde_json::from_slice(&bytes).map_err(|error| error.to_string());
        match read {
            Ok(journal) if journal.version == VERSION => Ok((Self { path: path.into(), journal }, None)),
            Ok(journal) => Err(format!(
                "`{}` has the version {}, and this agent knows {VERSION}: it was written by a newer one",
                path.display(),
                journal.version
            )),
            Err(reason) => {
                let aside = path.with_extension("damaged");
                fs::rename(path, &aside).map_err(failed)?;
                let said = format!("`{}` is damaged ({reason}); it is `{}` now", path.display(), aside.display());
                Ok((Self { path: path.into(), journal: empty }, Some(said)))
            }
        }
    }

    /// Changes the journal; on the disk when this comes back.
    pub fn change(&mut self, host: &dyn Host, step: &str, change: impl FnOnce(&mut Journal)) -> Result<(), String> {
        let mut journal = self.journal.clone();
        change(&mut journal);
        let mut text = serde_json::to_vec_pretty(&journal).map_err(|error| error.to_string())?;
        text.push(b'\n');
        write_durably(&self.path, &text)?;
        self.journal = journal;
        host.durable(step);
        Ok(())
    }
}

/// Writes a file of root's, whole or not at all.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("failed to write `{}`: {error}", path.display());
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    sync_folder(path.parent().unwrap_or(Path::new("/"))).map_err(failed)
}

/// So that names which were made, changed or removed in it stay so.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(digest: &str, argv: &str) -> DesiredSystem {
        let bundle = crate::provisioning::Bundle { digest: digest.into(), size: 1 };
        let health_check = HealthCheck { argv: vec![argv.into()], within: 1 };
        DesiredSystem { name: "a".into(), target: DesiredTarget::Tree { bundle }, health_check }
    }

    #[test]
    fn a_rejected_tree_stays_so_under_another_name_and_not_under_another_check() {
        let mut journal = Journal::default();
        journal.reject(&system("1", "check"), "sick");
        let renamed = DesiredSystem { name: "b".into(), ..system("1", "check") };
        assert_eq!(journal.rejection(&renamed), Some("sick"));
        assert_eq!(journal.rejection(&system("1", "other")), None);
        assert_eq!(journal.rejection(&system("2", "check")), None);
    }

    #[test]
    fn what_piles_up_while_nobody_listens_has_a_bound() {
        let mut journal = Journal::default();
        for _ in 0..3 {
            journal.report(NodeEvent::Booted);
        }
        assert_eq!(journal.outbox.len(), 1);
        for number in 0..200 {
            journal.report(NodeEvent::Active { system: number.to_string() });
            journal.reject(&system(&number.to_string(), ""), &"ä".repeat(5000));
        }
        assert_eq!((journal.outbox.len(), journal.rejected.len()), (MOST_REPORTS, MOST_REJECTED));
        assert_eq!(journal.outbox.last().unwrap().report, NodeEvent::Active { system: "199".into() });
        assert_eq!(journal.rejected[0].reason.chars().count(), LONGEST_REASON + 3);
    }

    #[test]
    fn a_damaged_journal_is_set_aside_and_a_newer_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("converge.json");
        fs::write(&path, "{\"version\": 1, \"goo").unwrap();
        let (store, said) = Store::open(&path).unwrap();
        assert_eq!(store.journal, Journal { version: VERSION, ..Journal::default() });
        assert!(said.unwrap().contains("converge.damaged") && folder.path().join("converge.damaged").exists());
        fs::write(&path, "{\"version\": 2}").unwrap();
        assert!(Store::open(&path).err().unwrap().contains("version 2"));
    }
}
