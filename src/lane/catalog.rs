//! The lanes and profiles of a project, found by where they are:
//!
//! ```text
//! profiles/<profile>/profile.toml       what is supported
//! profiles/<profile>/lanes/<lane>.toml  a lane that proves it (or .json, as Nix writes it)
//! profiles/<profile>/files/             what its images lay over their root file system
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::load::{open, read_text};
use super::model::Lane;
use super::problem::nearest;
use super::profile::{Profile, ProfileFile};
use crate::error::{Context, Error, Result};

/// A lane file below `profiles/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogLane {
    /// The file's name without its extension.
    pub name: String,
    pub path: PathBuf,
    /// The name of the folder that stands for its profile.
    pub profile: String,
}

/// What stands below `profiles/`, by name. Nothing has been read yet.
#[derive(Clone, Debug)]
pub struct Catalog {
    project_root: PathBuf,
    /// In the order of their names.
    pub lanes: Vec<CatalogLane>,
    /// Names of the profiles' folders, in their order.
    pub profiles: Vec<String>,
}

impl Catalog {
    /// Looks for lanes and profiles. A project without `profiles/` has none.
    ///
    /// # Errors
    /// Usage: a folder cannot be read.
    pub fn scan(project_root: &Path) -> Result<Self> {
        let mut catalog = Self { project_root: project_root.to_path_buf(), lanes: Vec::new(), profiles: Vec::new() };
        for (profile, path) in entries(&project_root.join("profiles"))? {
            if !path.is_dir() {
                continue;
            }
            for (file, path) in entries(&path.join("lanes"))? {
                if let Some((name, "toml" | "json")) = file.rsplit_once('.')
                    && !name.is_empty()
                {
                    catalog.lanes.push(CatalogLane { name: name.to_owned(), path, profile: profile.clone() });
                }
            }
            catalog.profiles.push(profile);
        }
        catalog.lanes.sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
        Ok(catalog)
    }

    /// The file of a lane by its name.
    ///
    /// # Errors
    /// Usage: no lane has the name, or two have.
    pub fn find(&self, name: &str) -> Result<&CatalogLane> {
        let found: Vec<&CatalogLane> = self.lanes.iter().filter(|lane| lane.name == name).collect();
        match found.as_slice() {
            [lane] => Ok(lane),
            [] => {
                let error = Error::usage(format!("there is no lane `{name}`"));
                let error = match nearest(name, self.lanes.iter().map(|lane| lane.name.as_str())) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None if self.lanes.is_empty() => error.hint(format!(
                        "no lanes are below `{}`; run from the project's folder, or name a lane file by its path",
                        self.project_root.join("profiles").display()
                    )),
                    None => error.hint("`bootproof lane list` shows the lanes that there are"),
                };
                Err(error.hint(format!("a lane file elsewhere is named by its path: `./{name}.toml`")))
            }
            [first, second, ..] => Err(Error::usage(format!("two lanes are called `{name}`")).hint(format!(
                "say which by its path: `{}` or `{}`",
                first.path.display(),
                second.path.display()
            ))),
        }
    }

    /// The file for what a user typed: a path where it looks like one, otherwise a lane's name.
    ///
    /// # Errors
    /// Usage: see [`Catalog::find`].
    pub fn locate(&self, lane_or_file: &str) -> Result<PathBuf> {
        if lane_or_file.contains('/') || lane_or_file.ends_with(".toml") || lane_or_file.ends_with(".json") {
            return Ok(PathBuf::from(lane_or_file));
        }
        self.find(lane_or_file).map(|lane| shown(&lane.path))
    }

    /// A profile by the name of its folder.
    ///
    /// # Errors
    /// Usage: it has no `profile.toml`, or that is not valid.
    pub fn profile(&self, folder: &str) -> Result<Profile> {
        self.profile_file(folder).map(|file| file.profile)
    }

    /// As [`Catalog::profile`], with the places of what it says.
    pub(crate) fn profile_file(&self, folder: &str) -> Result<ProfileFile> {
        let path = shown(&self.project_root.join("profiles").join(folder).join("profile.toml"));
        let text = read_text(&path, "profile")?;
        ProfileFile::parse(&path.display().to_string(), &text)
    }

    /// Whether a lane's name and profile are what its place says.
    ///
    /// # Errors
    /// Usage: they are not.
    pub(crate) fn placed(&self, entry: &CatalogLane, lane: &Lane) -> Result<()> {
        let mut twins = self.lanes.iter().filter(|other| other.name == entry.name && other.path != entry.path);
        if let Some(other) = twins.next() {
            return Err(Error::usage(format!("two lanes are called `{}`", entry.name))
                .hint(format!("rename one: the other is `{}`", shown(&other.path).display())));
        }
        misplaced(entry, lane).map_or(Ok(()), Err)
    }

    /// Reads every lane and profile, and gives all errors: of each file, and where files do not fit each other.
    pub fn check(&self) -> (Vec<Lane>, Vec<Error>) {
        let mut errors = Vec::new();
        let mut lanes = Vec::new();
        let mut by_name: BTreeMap<&str, &CatalogLane> = BTreeMap::new();
        for entry in &self.lanes {
            if let Some(first) = by_name.insert(&entry.name, entry) {
                errors.push(Error::usage(format!("two lanes are called `{}`", entry.name)).hint(format!(
                    "rename `{}` or `{}`",
                    shown(&first.path).display(),
                    shown(&entry.path).display()
                )));
            }
            match open(&shown(&entry.path), &self.project_root).and_then(|file| file.lane(&[])) {
                Ok(lane) => {
                    errors.extend(misplaced(entry, &lane));
                    lanes.push(lane);
                }
                Err(error) => errors.push(error),
            }
        }
        for folder in &self.profiles {
            let files: Vec<&str> =
                self.lanes.iter().filter(|lane| lane.profile == *folder).map(|lane| lane.name.as_str()).collect();
            errors.extend(self.profile_file(folder).and_then(|file| file.check_folder(folder, &files)).err());
        }
        (lanes, errors)
    }
}

/// A lane says its name and profile, and where its file is says them too.
fn misplaced(entry: &CatalogLane, lane: &Lane) -> Option<Error> {
    let path = shown(&entry.path);
    if lane.name != entry.name {
        return Some(
            Error::usage(format!("the lane in `{}` is called `{}`", path.display(), lane.name))
                .hint("a lane is found by its file's name: make both the same"),
        );
    }
    if lane.profile.as_deref() != Some(&entry.profile) {
        let said = match &lane.profile {
            Some(profile) => format!("says that its profile is `{profile}`"),
            None => "names no profile".into(),
        };
        return Some(
            Error::usage(format!("the lane in `{}` {said}", path.display()))
                .hint(format!("write `profile = \"{}\"` in its `[lane]`, or move the file", entry.profile)),
        );
    }
    None
}

/// The path as seen from where the user is, when it is below.
fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).map_or_else(|_| path.to_path_buf(), Path::to_path_buf)
}

/// A folder's entries by name, in order; none where there is no such folder. Hidden ones do not count.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = || format!("failed to look for lanes in `{}`", folder.display());
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(Error::usage(failed()).with_source(error)),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.usage(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
