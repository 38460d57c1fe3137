//! Where runs leave word of what they hold: one folder for each user of the host, since memory and processors are the host's and
//! a file system has several work roots.
//!
//!     <runtime folder>/.bootproof-reservations/
//!       lock                       held while somebody looks or enters
//!       <number>-<run>.waiting     in the order in which they came
//!       <number>-<run>.admitted
//!
//! A file counts for as long as its run holds the lock on it; so what a run that was killed has held is free, for certain.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::decide::Demand;
use crate::error::{Context, Error, Result};

const NAME: &str = ".bootproof-reservations";
const WAITING: &str = "waiting";
const ADMITTED: &str = "admitted";
pub const RESERVATION_VERSION: u32 = 1;

/// What a run holds or waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub version: u32,
    pub run: String,
    pub lane: String,
    pub process: u32,
    pub work_root: PathBuf,
    /// Of the work root's file system.
    pub device: u64,
    /// Where it writes, and what it writes there is its own.
    pub own: Vec<PathBuf>,
    pub demand: Demand,
}

/// Another's reservation, held at the time of looking.
#[derive(Debug)]
pub struct Entry {
    pub number: u64,
    pub admitted: bool,
    pub reservation: Reservation,
    /// Whoever locks it has waited for its end.
    pub file: File,
}

pub struct Place {
    folder: PathBuf,
}

/// One's own reservation: gone when this is dropped, or with the process.
#[derive(Debug)]
pub struct Ticket {
    pub number: u64,
    path: PathBuf,
    _held: File,
}

impl Place {
    /// The user's place on this host.
    ///
    /// # Errors
    /// Infrastructure: it cannot be made, or is another user's.
    pub fn of_this_host() -> Result<Self> {
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
        let user = rustix::process::geteuid().as_raw();
        Self::at(match own {
            Some(folder) => folder.join(NAME),
            None => std::env::temp_dir().join(format!("{NAME}-{user}")),
        })
    }

    pub fn at(folder: PathBuf) -> Result<Self> {
        let failed = || format!("failed to make the folder `{}`", folder.display());
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).infrastructure(failed),
            _ => {}
        }
        // Where everybody may write, a name that is known may be anybody's.
        let facts = fs::symlink_metadata(&folder).infrastructure(failed)?;
        if !facts.is_dir() || facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::infrastructure(failed())
                .with_source("it is another user's")
                .hint("set XDG_RUNTIME_DIR to a folder of your own"));
        }
        Ok(Self { folder })
    }

    /// Enters at the end of the line.
    pub fn enter(&self, reservation: &Reservation) -> Result<Ticket> {
        let _moment = self.moment()?;
        let number = self.entries()?.iter().map(|entry| entry.number).max().unwrap_or(0) + 1;
        let path = self.folder.join(format!("{number}-{}.{WAITING}", reservation.run));
        let failed = || format!("failed to write `{}`", path.display());
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).infrastructure(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).infrastructure(failed)?;
        let written = serde_json::to_vec(reservation).map_err(io::Error::from).and_then(|text| file.write_all(&text));
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(Error::storage(error, failed()));
        }
        Ok(Ticket { number, path, _held: file })
    }

    /// Looks at all the others, and admits the ticket where `decide` says so.
    pub fn look<T>(&self, ticket: &mut Ticket, decide: impl FnOnce(&[Entry]) -> (bool, T)) -> Result<(T, Vec<Entry>)> {
        let _moment = self.moment()?;
        let mut others = self.entries()?;
        others.retain(|entry| entry.number != ticket.number);
        let (admit, answer) = decide(&others);
        if admit {
            let path = ticket.path.with_extension(ADMITTED);
            fs::rename(&ticket.path, &path).infrastructure(|| format!("failed to write `{}`", path.display()))?;
            ticket.path = path;
        }
        Ok((answer, others))
    }

    fn moment(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let failed = || format!("failed to lock `{}`", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path).infrastructure(failed)?;
        flock(&file, FlockOperation::LockExclusive).infrastructure(failed)?;
        Ok(file)
    }

    /// All that are held; what nobody holds any more is removed on the way. Only while the moment is ours.
    fn entries(&self) -> Result<Vec<Entry>> {
        let failed = || format!("failed to read `{}`", self.folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).infrastructure(failed)? {
            let path = entry.infrastructure(failed)?.path();
            let Some((number, admitted)) = parts(&path) else { continue };
            let Ok(file) = File::open(&path) else { continue };
            // Shared: others who wait for its end share it for a moment, and do not make it look held.
            if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
                let _ = fs::remove_file(&path);
                continue;
            }
            let Some(reservation) = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) else {
                continue;
            };
            found.push(Entry { number, admitted, reservation, file });
        }
        found.sort_by_key(|entry| entry.number);
        Ok(found)
    }
}

fn parts(path: &Path) -> Option<(u64, bool)> {
    let admitted = match path.extension()?.to_str()? {
        WAITING => false,
        ADMITTED => true,
        _ => return None,
    };
    Some((path.file_name()?.to_str()?.split_once('-')?.0.parse().ok()?, admitted))
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(run: &str) -> Reservation {
        Reservation {
            version: RESERVATION_VERSION,
            run: run.into(),
            lane: "l".into(),
            process: 1,
            work_root: "/w".into(),
            device: 1,
            own: Vec::new(),
            demand: Demand { memory: 1, processors: 1, disk: 1 },
        }
    }

    fn runs(place: &Place, ticket: &mut Ticket) -> Vec<(String, bool)> {
        let (_, others) = place.look(ticket, |_| (false, ())).unwrap();
        others.into_iter().map(|entry| (entry.reservation.run, entry.admitted)).collect()
    }

    #[test]
    fn others_are_seen_in_their_order_for_as_long_as_they_live() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path().join("place")).unwrap();
        let mut first = place.enter(&reservation("first")).unwrap();
        let second = place.enter(&reservation("second")).unwrap();
        let mut third = place.enter(&reservation("third")).unwrap();
        assert!(first.number < second.number && second.number < third.number);
        place.look(&mut first, |others| (others.len() == 2, ())).unwrap();
        assert_eq!(runs(&place, &mut third), [("first".into(), true), ("second".into(), false)]);
        drop(second);
        assert_eq!(runs(&place, &mut third), [("first".into(), true)]);
        // As one that was killed leaves it: the file is there and nobody holds it.
        let left = fs::read_dir(&place.folder).unwrap().flatten().map(|entry| entry.path());
        let left = left.into_iter().find(|path| path.to_string_lossy().contains("first")).unwrap();
        fs::copy(&left, left.with_file_name("7-killed.admitted")).unwrap();
        assert_eq!(runs(&place, &mut third), [("first".into(), true)]);
        assert!(!left.with_file_name("7-killed.admitted").exists());
        drop((first, third));
        assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 1, "the lock alone");
    }

    #[test]
    fn a_place_that_is_no_folder_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        assert!(Place::at(folder.path().join("link")).is_err());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(Place::at(folder.path().join("file")).is_err());
    }
}
