//! Versions of tools, remembered: asking QEMU for its version costs more than all else that a small run does before it starts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host;
use crate::machine::qemu;

/// A program's version, and what tells that the program is still the same.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    program: PathBuf,
    size: u64,
    modified_ns: i128,
    inode: u64,
    version: String,
}

/// The first line of `qemu --version`; `None` where there is no QEMU that answers.
pub fn qemu_version(work_root: &Path) -> Option<String> {
    version(&work_root.join("host").join("qemu.json"), &qemu::program())
}

fn version(memory: &Path, program: &Path) -> Option<String> {
    let program = host::find_command(program.to_str()?)?;
    let facts = fs::metadata(&program).ok()?;
    let modified_ns = i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec());
    let same = |known: &Remembered| {
        (&known.program, known.size, known.modified_ns, known.inode)
            == (&program, facts.size(), modified_ns, facts.ino())
    };
    let known = fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    if let Some(known) = known.filter(same) {
        return Some(known.version);
    }
    let version = host::version_of(&program)?;
    let remembered =
        Remembered { size: facts.size(), modified_ns, inode: facts.ino(), program, version: version.clone() };
    // Forgetting costs milliseconds next time, so a folder that cannot be written is no error here.
    if let Some(folder) = memory.parent()
        && fs::create_dir_all(folder).is_ok()
        && let Ok(file) = tempfile::NamedTempFile::new_in(folder)
        && serde_json::to_writer(&file, &remembered).is_ok()
    {
        let _ = file.persist(memory);
    }
    Some(version)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &Path, says: &str) -> PathBuf {
        let path = folder.join("program");
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/sh\necho asked >> {}/asked\necho {says}\n", folder.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_program_is_asked_once_and_again_when_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join("host/memory.json");
        let path = program(folder.path(), "version 1");
        assert_eq!(version(&memory, &path).as_deref(), Some("version 1"));
        assert_eq!(version(&memory, &path).as_deref(), Some("version 1"));
        assert_eq!(fs::read_to_string(folder.path().join("asked")).unwrap(), "asked\n");
        let path = program(folder.path(), "version 22");
        assert_eq!(version(&memory, &path).as_deref(), Some("version 22"));
    }
}
