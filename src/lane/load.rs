//! Opening lane and profile files: the one part of this room that touches the file system.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::file::LaneFile;
use super::model::Lane;
use super::syntax::Format;
use crate::error::{Context, Error, Result};

/// No lane that a person or Nix writes comes near; a larger file is something else.
const SIZE_LIMIT: u64 = 1 << 20;

/// Reads the lane in a file, without overrides. See [`open`].
///
/// # Errors
/// Usage: the file cannot be read, or what [`LaneFile::lane`] says.
pub fn load(path: &Path, project_root: &Path) -> Result<Lane> {
    open(path, project_root)?.lane(&[])
}

/// Opens a lane file: TOML, or JSON by its extension. Paths in it are from its own folder; in the lane they are from
/// `project_root`, or absolute where the folder is not below it.
///
/// # Errors
/// Usage: the path is missing, a directory, unreadable, not UTF-8, more than 1 MiB, or its text is not a lane's.
pub fn open(path: &Path, project_root: &Path) -> Result<LaneFile> {
    let text = read_text(path, "lane")?;
    let folder = folder_of(path, project_root)?;
    LaneFile::parse(&path.display().to_string(), &text, format_of(path), &folder)
}

fn format_of(path: &Path) -> Format {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Json,
        _ => Format::Toml,
    }
}

/// The file's folder as seen from the project's root, or absolute.
fn folder_of(path: &Path, project_root: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).usage(|| format!("failed to find the folder of `{}`", path.display()))?;
    let folder = super::normalise::join(absolute.parent().unwrap_or(Path::new("/")), Path::new("."));
    let root = super::normalise::join(project_root, Path::new("."));
    Ok(match folder.strip_prefix(&root) {
        Ok(below) => below.to_path_buf(),
        Err(_) => folder,
    })
}

/// The text of a lane or profile file (`what`).
pub(super) fn read_text(path: &Path, what: &str) -> Result<String> {
    let failed = || format!("failed to read the {what} `{}`", path.display());
    let metadata = fs::metadata(path).map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let error = Error::usage(failed()).with_source(error);
        if missing { error.hint("`bootproof lane list` shows the lanes that there are") } else { error }
    })?;
    if metadata.is_dir() {
        return Err(Error::usage(format!("{}: it is a directory", failed()))
            .hint(format!("name a file in it: `{}/NAME.toml`", path.display().to_string().trim_end_matches('/'))));
    }
    let too_large = || {
        Error::usage(format!("{}: it has more than {} KiB", failed(), SIZE_LIMIT >> 10))
            .hint(format!("a {what} is a small text file; is this the right one?"))
    };
    if metadata.len() > SIZE_LIMIT {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // A pipe or device tells no size beforehand.
    fs::File::open(path).and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)).usage(failed)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::usage(format!("{}: line {line} is not UTF-8", failed())).hint(format!("save the {what} as UTF-8"))
    })
}
