//! Backups: one file, taken while a deployer runs or not, put in the place of a state that is not used.

use std::fs;
use std::path::Path;

use super::schema::{DATABASE, open_to_read};
use crate::deployer::state_folder::StateFolder;
use crate::error::{Context, Error, Result};
use crate::proof::sync_directory;

/// What SQLite keeps beside a database, and the database.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", ""];
const KEPT: &str = ".before-restore";
/// A backup that is whole and is to become the state.
const RESTORING: &str = "deployer.sqlite.restoring";

/// Writes the state as it is at one moment into a new file. A deployer that runs on the folder is not disturbed.
///
/// # Errors
/// Usage: there is no state, or the file is there already. Blocked: the state is damaged or too new.
pub fn back_up(state: &Path, file: &Path) -> Result<()> {
    let database = state.join(DATABASE);
    if !database.exists() {
        return Err(Error::usage(format!("`{}` holds no deployer's state", state.display())));
    }
    if file.exists() {
        return Err(Error::usage(format!("`{}` is there already", file.display())).hint("name another file"));
    }
    let said = || format!("failed to write the backup `{}`", file.display());
    let connection = open_to_read(&database)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // It holds hashes of secrets: nobody else reads it, from its first byte on. Whole or not there.
    let partial = tempfile::Builder::new().prefix(".deployer-backup-").tempfile_in(folder).infrastructure(said)?;
    let path = partial.path().to_str().ok_or_else(|| Error::usage(said()).hint("its path has to be UTF-8"))?;
    connection.execute("VACUUM INTO ?", [path]).infrastructure(said)?;
    partial.as_file().sync_all().infrastructure(said)?;
    partial.persist_noclobber(file).infrastructure(said)?;
    sync_directory(folder).infrastructure(said)
}

/// Puts a backup in the place of the state, which no deployer may be using. What was there is kept beside it, as
/// `deployer.sqlite.before-restore`.
///
/// # Errors
/// Usage: there is no such file. Blocked: the backup is damaged or too new, or a deployer runs.
pub fn restore(state: &Path, file: &Path) -> Result<()> {
    let said = || format!("failed to restore `{}`", file.display());
    if !file.is_file() {
        return Err(Error::usage(format!("there is no backup `{}`", file.display())));
    }
    let folder = StateFolder::lock(state)?;
    // Read as a copy: to read a database can mean to write beside it.
    let partial = tempfile::Builder::new().prefix(".deployer-restore-").tempfile_in(state).infrastructure(said)?;
    fs::copy(file, partial.path()).infrastructure(said)?;
    drop(open_to_read(partial.path()).map_err(|error| Error::blocked(said()).with_source(error))?);
    partial.as_file().sync_all().infrastructure(said)?;
    for suffix in SUFFIXES {
        let kept = state.join(format!("{DATABASE}{KEPT}{suffix}"));
        if kept.exists() {
            fs::remove_file(&kept).infrastructure(said)?;
        }
    }
    partial.persist(state.join(RESTORING)).infrastructure(said)?;
    sync_directory(state).infrastructure(said)?;
    // From here on it is restored, also when this process ends before it is done.
    finish_restore(&folder)
}

/// Goes on with a restore that was begun and not finished; nothing where none was.
pub(in crate::deployer) fn finish_restore(folder: &StateFolder) -> Result<()> {
    let said = || format!("failed to finish the restore in `{}`", folder.path.display());
    let restoring = folder.path.join(RESTORING);
    if !restoring.exists() {
        return Ok(());
    }
    // The log is part of a database: both go aside before the other comes.
    for suffix in SUFFIXES {
        let from = folder.path.join(format!("{DATABASE}{suffix}"));
        if from.exists() {
            fs::rename(&from, folder.path.join(format!("{DATABASE}{KEPT}{suffix}"))).infrastructure(said)?;
        }
    }
    fs::rename(&restoring, folder.path.join(DATABASE)).infrastructure(said)?;
    sync_directory(&folder.path).infrastructure(said)
}
