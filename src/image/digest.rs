//! Digests: of values, of files, of folders.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256:<hex>` of the value's JSON. Only for types whose fields keep their order and whose maps are sorted.
pub(super) fn of_value<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_vec(value).infrastructure(|| "failed to write a recipe as JSON".into())?;
    Ok(format!("sha256:{}", hex(&Sha256::digest(&text))))
}

/// `sha256:<hex>` of a file's bytes, read as a stream.
pub(super) fn of_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    read_through(path, |bytes| hasher.update(bytes))
        .infrastructure(|| format!("failed to read `{}`", path.display()))?;
    Ok(format!("sha256:{}", hex(&hasher.finalize())))
}

/// Hands a file's bytes over piece by piece.
pub(super) fn read_through(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(&buffer[..count]),
        }
    }
}

/// `sha256:<hex>` of a folder: paths, kinds, whether a file can be executed, contents, link targets. Owners, times and
/// the rest of the mode do not count: git does not keep them, and they are normalised when the folder is laid over.
pub(super) fn of_folder(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name().min_depth(1) {
        let entry = entry.infrastructure(|| format!("failed to read the folder `{}`", folder.display()))?;
        let path = entry.path();
        let relative = path.strip_prefix(folder).unwrap_or(path);
        let relative = relative.to_str().ok_or_else(|| {
            Error::usage(format!("the name of `{}` is not valid UTF-8", path.display())).hint("rename the file")
        })?;
        let kind = entry.file_type();
        let (tag, content) = if kind.is_dir() {
            ("d", String::new())
        } else if kind.is_symlink() {
            let target =
                fs::read_link(path).infrastructure(|| format!("failed to read the link `{}`", path.display()))?;
            ("l", target.to_string_lossy().into_owned())
        } else if kind.is_file() {
            let executable = entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
            (if executable { "x" } else { "f" }, of_file(path)?)
        } else {
            return Err(Error::usage(format!("`{}` is neither a file, a folder nor a link", path.display()))
                .hint("an overlay can hold nothing else"));
        };
        hasher.update(format!("{tag} {} {relative}\n{} {content}\n", relative.len(), content.len()));
    }
    Ok(format!("sha256:{}", hex(&hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_digest_sees_content_names_and_the_executable_bit_and_no_times() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b");
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(&file, "one").unwrap();
        let first = of_folder(folder.path()).unwrap();
        fs::write(&file, "one").unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let executable = of_folder(folder.path()).unwrap();
        assert_ne!(executable, first);
        fs::write(&file, "two").unwrap();
        assert_ne!(of_folder(folder.path()).unwrap(), executable);
        fs::rename(&file, folder.path().join("a/c")).unwrap();
        std::os::unix::fs::symlink("c", &file).unwrap();
        assert_ne!(of_folder(folder.path()).unwrap(), first);
    }

    #[test]
    fn a_file_digest_is_sha256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            of_file(file.path()).unwrap(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
