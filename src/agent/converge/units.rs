//! The units of a tree, as links in systemd's folder.
//!
//! What always holds: a link is ours exactly if it leads to a unit below `current`; nothing else in that folder is ever
//! changed, and no unit of the system's own is hidden behind one of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::journal::sync_folder;
use super::places::{CURRENT, Places};

const KINDS: &[&str] = &[".service", ".socket", ".timer"];

/// The names of a tree's units. What cannot be one is told.
pub fn list(tree: &Path) -> Result<BTreeSet<String>, String> {
    let folder = tree.join("units");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("the tree's `units` is no folder: {error}")),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("failed to read `{}`: {error}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte));
        if !plain || name.starts_with(['.', '-']) || !KINDS.iter().any(|kind| name.ends_with(kind)) {
            return Err(format!("`units/{name}` is neither a service, a socket nor a timer"));
        }
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Err(format!("`units/{name}` is no file"));
        }
        names.insert(name);
    }
    Ok(names)
}

/// Of these units those that are started: not templates, and no service that its own socket or timer starts.
pub fn to_start(names: &BTreeSet<String>) -> Vec<&str> {
    let started_by_another = |name: &str| {
        let stem = name.strip_suffix(".service");
        stem.is_some_and(|stem| [".socket", ".timer"].iter().any(|kind| names.contains(&format!("{stem}{kind}"))))
    };
    names.iter().map(String::as_str).filter(|name| !name.contains("@.") && !started_by_another(name)).collect()
}

/// The units that are linked, and ours.
pub fn linked(places: &Places) -> Result<BTreeSet<String>, String> {
    let folder = places.units();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("failed to read `{}`: {error}", folder.display())),
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_ours(&folder, name))
        .collect())
}

fn target(name: &str) -> String {
    format!("{CURRENT}/units/{name}")
}

fn is_ours(folder: &Path, name: &str) -> bool {
    fs::read_link(folder.join(name)).is_ok_and(|found| found == Path::new(&target(name)))
}

/// Makes the links be these; what is somebody else's is an error, and nothing is changed then.
pub fn link(places: &Places, names: &BTreeSet<String>) -> Result<(), String> {
    let folder = places.units();
    let failed = |error: std::io::Error| format!("failed to link units into `{}`: {error}", folder.display());
    for name in names {
        let taken = fs::symlink_metadata(folder.join(name)).is_ok() && !is_ours(&folder, name);
        if taken || places.vendor_units().iter().any(|vendor| vendor.join(name).exists()) {
            return Err(format!("the unit `{name}` is the system's own: a tree's cannot have its name"));
        }
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    let there = linked(places)?;
    for name in there.difference(names) {
        fs::remove_file(folder.join(name)).map_err(failed)?;
    }
    for name in names.difference(&there) {
        symlink(target(name), folder.join(name)).map_err(failed)?;
    }
    sync_folder(&folder).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_a_socket_or_a_timer_starts_and_templates_are_not_started() {
        let names = names(&["a.service", "b.service", "b.socket", "c.service", "c.timer", "d@.service", "d@1.service"]);
        assert_eq!(to_start(&names), ["a.service", "b.socket", "c.timer", "d@1.service"]);
    }

    #[test]
    fn strangers_are_never_touched() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        let folder = places.units();
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&places.vendor_units()[0]).unwrap();
        fs::write(places.vendor_units()[0].join("ssh.service"), "").unwrap();
        fs::write(folder.join("own.service"), "mine").unwrap();
        symlink("/usr/share/other.service", folder.join("other.service")).unwrap();
        // Leads to ours under another name: somebody's alias.
        symlink(target("a.service"), folder.join("alias.service")).unwrap();
        link(&places, &names(&["a.service", "b.timer"])).unwrap();
        for taken in ["own.service", "other.service", "ssh.service", "alias.service"] {
            let error = link(&places, &names(&["c.service", taken])).unwrap_err();
            assert!(error.contains(taken), "{error}");
        }
        assert_eq!(linked(&places).unwrap(), names(&["a.service", "b.timer"]));
        link(&places, &names(&["b.timer", "c.service"])).unwrap();
        assert_eq!(linked(&places).unwrap(), names(&["b.timer", "c.service"]));
        link(&places, &names(&[])).unwrap();
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["alias.service", "other.service", "own.service"]);
    }

    #[test]
    fn a_folder_of_units_holds_units_and_nothing_else() {
        let tree = tempfile::tempdir().unwrap();
        assert!(list(tree.path()).unwrap().is_empty());
        let folder = tree.path().join("units");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.service"), "").unwrap();
        assert_eq!(list(tree.path()).unwrap(), names(&["a.service"]));
        for wrong in ["a.conf", "-x.service", "a b.service", "x.target"] {
            fs::write(folder.join(wrong), "").unwrap();
            assert!(list(tree.path()).unwrap_err().contains(wrong));
            fs::remove_file(folder.join(wrong)).unwrap();
        }
        fs::create_dir(folder.join("a.service.d")).unwrap();
        assert!(list(tree.path()).is_err());
    }
}
