//! The image lock: a checked-in file that says which package versions images are made from.
//!
//! An entry belongs to what was *asked of the archive* (source, suite, packages), not to a lane or an image name, so that
//! lanes which ask for the same share it, and changing an overlay or the agent leaves it valid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PackageVersion;
use crate::error::{Context, Error, Result};
use crate::plan::model::ImageSource;

/// Where the lock stands, relative to the project's root.
pub const LOCK_FILE: &str = "profiles/images.lock";
const LOCK_VERSION: u32 = 1;

const HEADING: &str = "\
# The package versions that images are made from. Written by `bootproof image lock`; checked in.
# An archive drops old versions: a build then takes what there is, says so, and fails where `--locked` was asked for.
";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLock {
    version: u32,
    #[serde(default, rename = "image")]
    pub images: Vec<LockedImage>,
}

/// What one request to an archive was resolved to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The images that ask for this, for the reader.
    pub names: BTreeSet<String>,
    pub asked: Asked,
    /// Package -> version.
    pub packages: BTreeMap<String, String>,
}

/// What is asked of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub source: ImageSource,
    /// The archive's suite (`bookworm`); for `tiny`, that of the host, whose kernel it is.
    pub suite: String,
    /// Debian's name for it (`amd64`).
    pub architecture: String,
    /// As the recipe has them, without what every image gets.
    pub packages: BTreeSet<String>,
}

impl Default for ImageLock {
    fn default() -> Self {
        Self { version: LOCK_VERSION, images: Vec::new() }
    }
}

impl ImageLock {
    /// Reads the project's lock; an absent one is empty.
    pub fn load(project_root: &Path) -> Result<Self> {
        let path = project_root.join(LOCK_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| {
                Error::usage(format!("failed to read the image lock `{}`", path.display()))
                    .with_source(error)
                    .hint("`bootproof image lock` writes it anew once the broken file is out of the way")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(Error::usage(format!("failed to read the image lock `{}`", path.display())).with_source(error))
            }
        }
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = toml::from_str(text).usage(|| "it does not say its `version`".into())?;
        if version > LOCK_VERSION {
            return Err(Error::usage(format!(
                "it has version {version}, and this bootproof reads up to version {LOCK_VERSION}"
            ))
            .hint("use a newer bootproof"));
        }
        toml::from_str(text).usage(|| "it is not a valid image lock".into())
    }

    /// The versions that are locked for this request.
    pub fn find(&self, asked: &Asked) -> Option<&BTreeMap<String, String>> {
        self.images.iter().find(|image| image.asked == *asked).map(|image| &image.packages)
    }

    /// Puts in what a request was resolved to; an earlier entry for the same request goes.
    pub fn set(&mut self, name: &str, asked: &Asked, packages: &[PackageVersion]) {
        let packages = packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect();
        match self.images.iter_mut().find(|image| image.asked == *asked) {
            Some(image) => {
                image.names.insert(name.into());
                image.packages = packages;
            }
            None => self.images.push(LockedImage {
                names: BTreeSet::from([name.to_string()]),
                asked: asked.clone(),
                packages,
            }),
        }
        self.images.sort_by(|one, other| {
            (&one.names, &one.asked.suite, &one.asked.packages).cmp(&(
                &other.names,
                &other.asked.suite,
                &other.asked.packages,
            ))
        });
    }

    fn render(&self) -> Result<String> {
        let body = toml::to_string(self).infrastructure(|| "failed to write the image lock as TOML".into())?;
        Ok(format!("{HEADING}{body}"))
    }

    /// Replaces the project's lock in one rename.
    pub fn save(&self, project_root: &Path) -> Result<()> {
        let path = project_root.join(LOCK_FILE);
        let context = || format!("failed to write the image lock `{}`", path.display());
        let folder = path.parent().unwrap_or(project_root);
        fs::create_dir_all(folder).infrastructure(context)?;
        let mut file = tempfile::Builder::new()
            .prefix(".images.lock")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .infrastructure(context)?;
        file.write_all(self.render()?.as_bytes()).infrastructure(context)?;
        file.as_file().sync_all().infrastructure(context)?;
        file.persist(&path).infrastructure(context)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(packages: &[&str]) -> Asked {
        Asked {
            source: ImageSource::Debian,
            suite: "bookworm".into(),
            architecture: "amd64".into(),
            packages: packages.iter().map(|name| name.to_string()).collect(),
        }
    }

    fn package(name: &str, version: &str) -> PackageVersion {
        PackageVersion { name: name.into(), version: version.into() }
    }

    #[test]
    fn a_lock_survives_being_written_and_read_again() {
        let project = tempfile::tempdir().unwrap();
        assert_eq!(ImageLock::load(project.path()).unwrap(), ImageLock::default());
        let mut lock = ImageLock::default();
        lock.set("node", &asked(&["etcd"]), &[package("etcd", "3.4"), package("libc6", "2.36-9+deb12u10")]);
        lock.set("other", &asked(&[]), &[package("libc6", "2.36")]);
        lock.save(project.path()).unwrap();
        assert_eq!(ImageLock::load(project.path()).unwrap(), lock);
        assert_eq!(lock.find(&asked(&["etcd"])).unwrap()["etcd"], "3.4");
        assert_eq!(lock.find(&asked(&["etcd", "postgresql"])), None);
        insta::assert_snapshot!(lock.render().unwrap(), @r#"
        # The package versions that images are made from. Written by `bootproof image lock`; checked in.
        # An archive drops old versions: a build then takes what there is, says so, and fails where `--locked` was asked for.
        version = 1

        [[image]]
        names = ["node"]

        [image.asked]
        source = "debian"
        suite = "bookworm"
        architecture = "amd64"
        packages = ["etcd"]

        [image.packages]
        etcd = "3.4"
        libc6 = "2.36-9+deb12u10"

        [[image]]
        names = ["other"]

        [image.asked]
        source = "debian"
        suite = "bookworm"
        architecture = "amd64"
        packages = []

        [image.packages]
        libc6 = "2.36"
        "#);
    }

    #[test]
    fn the_same_request_is_kept_once_with_all_its_names() {
        let mut lock = ImageLock::default();
        lock.set("one", &asked(&["etcd"]), &[package("etcd", "1")]);
        lock.set("two", &asked(&["etcd"]), &[package("etcd", "2")]);
        assert_eq!(lock.images.len(), 1);
        assert_eq!(lock.images[0].names.len(), 2);
        assert_eq!(lock.find(&asked(&["etcd"])).unwrap()["etcd"], "2");
    }

    #[test]
    fn a_lock_of_the_future_and_a_broken_one_are_refused_with_the_reason() {
        let project = tempfile::tempdir().unwrap();
        fs::create_dir(project.path().join("profiles")).unwrap();
        fs::write(project.path().join(LOCK_FILE), "version = 7\n[new]\n").unwrap();
        let error = ImageLock::load(project.path()).unwrap_err();
        assert!(error.chain().contains("version 7"), "{}", error.chain());
        fs::write(project.path().join(LOCK_FILE), "version = 1\nimages = []\n").unwrap();
        assert!(ImageLock::load(project.path()).unwrap_err().chain().contains("unknown field `images`"));
    }
}
