//! The files of a project: all but what `.gitignore` names, so that a new folder is guarded without being listed.

use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

use crate::error::{Context, Result};

/// No text that a person writes comes near; a larger file is data.
const SIZE_LIMIT: u64 = 4 << 20;

/// A file, by its path from the project's root.
pub(super) struct ProjectFile {
    pub name: String,
    path: PathBuf,
}

impl ProjectFile {
    /// Its text; `None` for what is not text.
    pub fn text(&self) -> Result<Option<String>> {
        let context = || format!("failed to read `{}`", self.path.display());
        if std::fs::metadata(&self.path).infrastructure(context)?.len() > SIZE_LIMIT {
            return Ok(None);
        }
        let bytes = std::fs::read(&self.path).infrastructure(context)?;
        Ok(if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() })
    }

    pub fn extension(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }
}

/// Every file of the project in the order of their names, hidden ones too. Links are not followed: what they lead to is
/// either a file of the project as well, or none of its.
pub(super) fn project_files(root: &Path, work_root: &Path) -> Result<Vec<ProjectFile>> {
    let work_root = work_root.to_path_buf();
    let mut builder = WalkBuilder::new(root);
    // A copy of the sources has no `.git`, and the same files.
    builder.hidden(false).require_git(false).git_global(false).git_exclude(false).parents(false).ignore(false);
    builder.filter_entry(move |entry| entry.file_name() != ".git" && entry.path() != work_root);
    let mut files = Vec::new();
    for entry in builder.build() {
        let entry = entry.infrastructure(|| format!("failed to list the files of `{}`", root.display()))?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            let path = entry.into_path();
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(ProjectFile { name, path });
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}
