//! A proof root somewhere else.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::tree;
use crate::error::{Context, Error, Result};

/// Whether a proof may be copied there: nothing may be in its place but an empty folder.
pub fn check_destination(destination: &Path) -> Result<()> {
    let taken = match fs::read_dir(destination) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
        Err(error) => {
            return Err(error).usage(|| format!("failed to look at `{}`", destination.display()));
        }
    };
    if taken {
        return Err(Error::usage(format!("`{}` is there already", destination.display()))
            .hint("a proof is copied to where nothing is"));
    }
    Ok(())
}

/// Copies a proof root, into place in one rename: what stands at `destination` is whole.
pub fn copy(root: &Path, destination: &Path) -> Result<()> {
    check_destination(destination)?;
    let context = || format!("failed to copy the proof to `{}`", destination.display());
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).infrastructure(context)?;
    let unfinished = tempfile::Builder::new().prefix(".proof-").tempdir_in(parent).infrastructure(context)?;
    for entry in tree::entries(root)? {
        tree::refuse_special(&entry)?;
        let target = tree::path_of(unfinished.path(), &entry.name);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).infrastructure(context)?;
        }
        let mut from = tree::open_plain(&tree::path_of(root, &entry.name)).infrastructure(context)?;
        let mut to = OpenOptions::new().write(true).create_new(true).open(&target).infrastructure(context)?;
        io::copy(&mut from, &mut to).infrastructure(context)?;
    }
    // A temporary folder is its owner's alone; a proof is for whoever may read its place.
    let permissions = fs::metadata(root).infrastructure(context)?.permissions();
    fs::set_permissions(unfinished.path(), permissions).infrastructure(context)?;
    fs::rename(unfinished.path(), destination).infrastructure(context)?;
    let _ = unfinished.keep();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_and_takes_nobodys_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("machines/node01")).unwrap();
        fs::write(root.join("events.jsonl"), "{}\n").unwrap();
        fs::write(root.join("machines/node01/console.raw"), [0, 255, 10]).unwrap();
        let destination = folder.path().join("new/place");
        copy(&root, &destination).unwrap();
        assert_eq!(fs::read(destination.join("events.jsonl")).unwrap(), b"{}\n");
        assert_eq!(fs::read(destination.join("machines/node01/console.raw")).unwrap(), [0, 255, 10]);
        assert!(copy(&root, &destination).unwrap_err().to_string().contains("is there already"));
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        copy(&root, &empty).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_destination(&file).is_err());
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        assert!(copy(&root, &folder.path().join("other")).is_err());
    }
}
