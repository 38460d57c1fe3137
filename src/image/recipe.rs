//! From a request to what it really asks for: paths found, files and agent digested, the lock consulted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lock::{Asked, ImageLock};
use super::nix::NixSource;
use super::request::ImageRequest;
use super::store::ImageStore;
use super::{PackageVersion, agent_binary, digest, disk, iso, packages, sources};
use crate::error::{Error, Result};
use crate::lane::model::{IsoImage, KernelFlavour, NixImage};
use crate::plan::model::{ImageSource, LockState};

/// Version of the way images are made: a change of it makes every image anew.
const BUILDER_VERSION: u32 = 4;

/// A request with everything resolved that needs no building.
pub(super) struct Resolved {
    /// Names the request together with the versions that it wants: the index is kept by it. Hexadecimal.
    pub key: String,
    /// `sha256:<hex>` of recipe and overlay, without agent and versions.
    pub recipe_digest: String,
    pub recipe: Recipe,
    /// `None` where nothing comes from an archive.
    pub asked: Option<Asked>,
    /// What the image lock has for it.
    pub wanted: Option<BTreeMap<String, String>>,
    /// The agent that goes in; `None` for images that hold their own.
    pub agent: Option<Agent>,
}

/// The recipe with its paths found.
pub(super) enum Recipe {
    Tiny {
        kernel: Option<GivenKernel>,
    },
    Debian {
        files: Option<PathBuf>,
        commands: Vec<String>,
        size: u64,
    },
    Disk {
        path: PathBuf,
        digest: String,
    },
    Nix {
        source: NixSource,
        output: Option<String>,
        jobs: Option<u32>,
        cores: Option<u32>,
    },
    /// A medium that exists.
    Iso {
        path: PathBuf,
        digest: String,
    },
    /// Our installer.
    Installer,
}

impl Recipe {
    /// Whether the same recipe can make another image tomorrow without anybody's having changed it here: only building
    /// tells then. What Nix has built it finds again by itself.
    pub fn is_found_by_building(&self) -> bool {
        match self {
            Recipe::Nix { source, .. } => source.may_change(),
            Recipe::Tiny { .. } | Recipe::Debian { .. } | Recipe::Disk { .. } => false,
            Recipe::Iso { .. } | Recipe::Installer => false,
        }
    }

    /// Images that bring their own agent, or none, are not made of ours.
    pub fn needs_agent(&self) -> bool {
        match self {
            Recipe::Tiny { .. } | Recipe::Debian { .. } | Recipe::Installer => true,
            Recipe::Disk { .. } | Recipe::Nix { .. } | Recipe::Iso { .. } => false,
        }
    }
}

pub(super) struct GivenKernel {
    pub kernel: PathBuf,
    pub modules: Option<PathBuf>,
}

pub(super) struct Agent {
    pub path: PathBuf,
    /// `sha256:<hex>`.
    pub digest: String,
}

/// What a recipe's digest is taken of.
#[derive(Serialize)]
struct RecipeIdentity<'a> {
    builder: u32,
    source: ImageSource,
    asked: Option<&'a Asked>,
    /// What else the recipe says: commands, size, a reference; in a fixed order.
    settings: Vec<String>,
    /// Digests of files that the recipe names.
    files: Vec<String>,
}

impl Resolved {
    /// Errors: `usage` for a recipe that is not there or names files that are not, `blocked` without an agent.
    pub fn new(store: &ImageStore, request: &ImageRequest, lock: &ImageLock) -> Result<Self> {
        let mut resolved = Self::without_agent(store, request, lock)?;
        if resolved.recipe.needs_agent() {
            let path = agent_binary()?;
            let digest = digest::of_file(&path)?;
            resolved.set_agent(Agent { path, digest })?;
        }
        Ok(resolved)
    }

    /// For planning and for locking, which need no agent. The key stays that of an image without one.
    pub fn without_agent(store: &ImageStore, request: &ImageRequest, lock: &ImageLock) -> Result<Self> {
        let mut files = Vec::new();
        let mut settings = Vec::new();
        let find = |path: &Path| find_path(path, &request.base_directory, store.project_root(), &request.name);
        let (recipe, asked) = match request.source {
            ImageSource::Tiny => {
                let tiny = request.image.tiny.as_ref().ok_or_else(|| no_such_recipe(request, "tiny"))?;
                let kernel = match &tiny.kernel {
                    None => None,
                    Some(kernel) => {
                        let kernel = find(kernel)?;
                        files.push(disk::file_record(store, &kernel)?.sha256);
                        let modules = tiny.modules.as_deref().map(find).transpose()?;
                        settings.extend(modules.iter().map(|path| format!("modules {}", path.display())));
                        Some(GivenKernel { kernel, modules })
                    }
                };
                let asked = kernel.is_none().then(|| Asked {
                    source: ImageSource::Tiny,
                    suite: sources::host_suite(),
                    architecture: sources::architecture().into(),
                    packages: BTreeSet::new(),
                });
                (Recipe::Tiny { kernel }, asked)
            }
            ImageSource::Debian => {
                let debian = request.image.debian.as_ref().ok_or_else(|| no_such_recipe(request, "debian"))?;
                let overlay = debian.files.as_deref().map(find).transpose()?;
                if let Some(folder) = &overlay {
                    if !folder.is_dir() {
                        return Err(Error::usage(format!(
                            "the files of image `{}` are not a folder: `{}`",
                            request.name,
                            folder.display()
                        ))
                        .hint("`files` names a folder that is laid over the root file system"));
                    }
                    files.push(digest::of_folder(folder)?);
                }
                settings.push(format!("size {}", debian.size.bytes()));
                settings.extend(debian.commands.iter().map(|command| format!("command {command}")));
                let mut packages: BTreeSet<String> = debian.packages.iter().cloned().collect();
                if debian.kernel == Some(KernelFlavour::Generic) {
                    packages.insert(super::debian::kernel_package(KernelFlavour::Generic));
                }
                check_names(&request.name, std::iter::once(&debian.suite).chain(&packages))?;
                let asked = Asked {
                    source: ImageSource::Debian,
                    suite: debian.suite.clone(),
                    architecture: sources::architecture().into(),
                    packages,
                };
                let size = debian.size.bytes();
                let recipe = Recipe::Debian { files: overlay, commands: debian.commands.clone(), size };
                (recipe, Some(asked))
            }
            ImageSource::Disk => {
                let image = request.image.disk.as_ref().ok_or_else(|| no_such_recipe(request, "disk"))?;
                let path = find(&image.path)?;
                let record = disk::checked_record(store, &request.name, &path, image.sha512.as_deref())?;
                files.push(record.sha256.clone());
                (Recipe::Disk { path, digest: record.sha256 }, None)
            }
            ImageSource::Iso => match request.image.iso.as_ref().ok_or_else(|| no_such_recipe(request, "iso"))? {
                IsoImage::File { path, sha512 } => {
                    let path = find(path)?;
                    let record = disk::checked_record(store, &request.name, &path, sha512.as_deref())?;
                    files.push(record.sha256.clone());
                    (Recipe::Iso { path, digest: record.sha256 }, None)
                }
                IsoImage::Installer { suite, packages, kernel } => {
                    let packages = iso::packages(*kernel, packages);
                    check_names(&request.name, std::iter::once(suite).chain(&packages))?;
                    settings.push(format!("medium {}", iso::VERSION));
                    let asked = Asked {
                        source: ImageSource::Iso,
                        suite: suite.clone(),
                        architecture: sources::architecture().into(),
                        packages,
                    };
                    (Recipe::Installer, Some(asked))
                }
            },
            ImageSource::Nix => {
                let image = request.image.nix.as_ref().ok_or_else(|| no_such_recipe(request, "nix"))?;
                let source = nix_source(image, store, &find)?;
                settings.push(source.shown());
                settings.extend(image.output.iter().map(|output| format!("output {output}")));
                (Recipe::Nix { source, output: image.output.clone(), jobs: image.jobs, cores: image.cores }, None)
            }
        };
        let wanted = asked.as_ref().and_then(|asked| lock.find(asked).cloned());
        let identity =
            RecipeIdentity { builder: BUILDER_VERSION, source: request.source, asked: asked.as_ref(), settings, files };
        let recipe_digest = digest::of_value(&identity)?;
        let mut resolved = Self { key: String::new(), recipe_digest, recipe, asked, wanted, agent: None };
        resolved.key = resolved.make_key()?;
        Ok(resolved)
    }

    pub fn set_agent(&mut self, agent: Agent) -> Result<()> {
        self.agent = Some(agent);
        self.key = self.make_key()?;
        Ok(())
    }

    fn agent_digest(&self) -> Option<&str> {
        self.agent.as_ref().map(|agent| agent.digest.as_str())
    }

    fn make_key(&self) -> Result<String> {
        let key = digest::of_value(&("request", &self.recipe_digest, self.agent_digest(), &self.wanted))?;
        Ok(key.trim_start_matches("sha256:").to_string())
    }

    /// The image's digest once its versions are known.
    pub fn digest(&self, packages: &[PackageVersion]) -> Result<String> {
        digest::of_value(&("image", &self.recipe_digest, self.agent_digest(), packages))
    }

    /// The digest of an image with exactly the locked versions.
    pub fn locked_digest(&self) -> Option<String> {
        let packages: Vec<PackageVersion> = self
            .wanted
            .as_ref()?
            .iter()
            .map(|(name, version)| PackageVersion { name: name.clone(), version: version.clone() })
            .collect();
        self.digest(&packages).ok()
    }

    /// The digest of an image that is a file.
    pub fn file_digest(&self) -> Option<String> {
        match &self.recipe {
            Recipe::Disk { digest, .. } | Recipe::Iso { digest, .. } => Some(digest.clone()),
            Recipe::Tiny { .. } | Recipe::Debian { .. } | Recipe::Nix { .. } | Recipe::Installer => None,
        }
    }

    pub fn differences(&self, got: &[PackageVersion]) -> Vec<String> {
        self.wanted.as_ref().map(|wanted| packages::differences(wanted, got)).unwrap_or_default()
    }

    pub fn lock_state(&self, got: &[PackageVersion]) -> LockState {
        match (&self.asked, &self.wanted) {
            (None, _) => LockState::NotNeeded,
            (Some(_), None) => LockState::Unlocked,
            (Some(_), Some(wanted)) if packages::differences(wanted, got).is_empty() => LockState::Locked,
            (Some(_), Some(_)) => LockState::Drifted,
        }
    }
}

/// What stands behind a reference: a path that is there, else a flake's output. A link is followed now, so that the
/// image is named by what it leads to.
fn nix_source(image: &NixImage, store: &ImageStore, find: &dyn Fn(&Path) -> Result<PathBuf>) -> Result<NixSource> {
    if let Some(file) = &image.file {
        let attribute = image.attribute.clone().unwrap_or_default();
        return Ok(NixSource::File { file: find(file)?, attribute });
    }
    let reference = image.reference.clone().unwrap_or_default();
    if !reference.contains('#') && !reference.contains(':') && reference != "." {
        let path = store.project_root().join(&reference);
        if let Ok(path) = std::fs::canonicalize(&path) {
            return Ok(NixSource::Path(path));
        }
    }
    Ok(NixSource::Flake(reference))
}

fn no_such_recipe(request: &ImageRequest, source: &str) -> Error {
    let image = &request.image;
    let has: Vec<&str> = [
        ("tiny", image.tiny.is_some()),
        ("debian", image.debian.is_some()),
        ("nix", image.nix.is_some()),
        ("disk", image.disk.is_some()),
        ("iso", image.iso.is_some()),
    ]
    .iter()
    .filter(|(_, there)| *there)
    .map(|(name, _)| *name)
    .collect();
    let error = Error::usage(format!("image `{}` has no `{source}` recipe", request.name));
    if has.is_empty() { error } else { error.hint(format!("it has: {}", has.join(", "))) }
}

/// A suite or package ends up in tools' arguments and configuration, where nothing but a plain name may stand.
fn check_names<'a>(image: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    for name in names {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !plain || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(Error::usage(format!("image `{image}`: `{name}` is not the name of a suite or a package"))
                .hint("versions belong into the image lock, which `bootproof image lock` writes"));
        }
    }
    Ok(())
}

/// A recipe's path: absolute, or relative to the lane file's folder, or to the project's root.
fn find_path(path: &Path, base: &Path, project_root: &Path, image: &str) -> Result<PathBuf> {
    let candidates = [base.join(path), project_root.join(path)];
    if let Some(found) = candidates.iter().find(|candidate| candidate.exists()) {
        return Ok(std::fs::canonicalize(found).unwrap_or_else(|_| found.clone()));
    }
    let mut error = Error::usage(format!("image `{image}`: `{}` does not exist", path.display()));
    if path.is_relative() {
        error = error.hint(format!("looked in `{}` and `{}`", base.display(), project_root.display()));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::model::{DebianImage, Image};
    use crate::lane::units::Size;

    fn request(base: &Path, change: impl FnOnce(&mut DebianImage)) -> ImageRequest {
        let mut debian = DebianImage {
            suite: "bookworm".into(),
            packages: vec!["b".into(), "a".into()],
            files: None,
            commands: Vec::new(),
            kernel: None,
            size: Size::gibibytes(1),
        };
        change(&mut debian);
        ImageRequest {
            name: "node".into(),
            image: Image { debian: Some(debian), ..Image::default() },
            source: ImageSource::Debian,
            base_directory: base.to_path_buf(),
            locked: false,
        }
    }

    #[test]
    fn the_digest_sees_what_makes_an_image_different_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let lock = ImageLock::default();
        let digest = |change: fn(&mut DebianImage)| {
            Resolved::without_agent(&store, &request(folder.path(), change), &lock).unwrap().recipe_digest
        };
        let plain = digest(|_| {});
        assert_eq!(digest(|debian| debian.packages.reverse()), plain, "order of packages");
        assert_ne!(digest(|debian| debian.packages.push("c".into())), plain);
        assert_ne!(digest(|debian| debian.suite = "trixie".into()), plain);
        assert_ne!(digest(|debian| debian.commands.push("true".into())), plain);
        assert_ne!(digest(|debian| debian.size = Size::gibibytes(3)), plain);
        let overlaid = digest(|debian| debian.files = Some("files".into()));
        assert_ne!(overlaid, plain);
        std::fs::write(folder.path().join("files/x"), "1").unwrap();
        assert_ne!(digest(|debian| debian.files = Some("files".into())), overlaid);
    }

    #[test]
    fn the_key_changes_with_the_agent_and_with_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let asked_for = request(folder.path(), |_| {});
        let mut lock = ImageLock::default();
        let mut plain = Resolved::without_agent(&store, &asked_for, &lock).unwrap();
        let packages = [PackageVersion { name: "a".into(), version: "1".into() }];
        lock.set("node", plain.asked.as_ref().unwrap(), &packages);
        let locked = Resolved::without_agent(&store, &asked_for, &lock).unwrap();
        assert_ne!(plain.key, locked.key);
        assert_eq!(plain.recipe_digest, locked.recipe_digest);
        assert_eq!(locked.locked_digest(), Some(plain.digest(&packages).unwrap()));
        assert_eq!(plain.lock_state(&packages), LockState::Unlocked);
        assert_eq!(locked.lock_state(&packages), LockState::Locked);
        assert_eq!(locked.lock_state(&[]), LockState::Drifted);
        let before = plain.key.clone();
        plain.set_agent(Agent { path: "x".into(), digest: "sha256:00".into() }).unwrap();
        assert_ne!(plain.key, before);
        assert_ne!(plain.locked_digest(), locked.locked_digest());
    }

    #[test]
    fn bad_recipes_are_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let lock = ImageLock::default();
        let refuse = |request: ImageRequest| Resolved::without_agent(&store, &request, &lock).err().unwrap();
        let error = refuse(request(folder.path(), |debian| debian.packages.push("a=1 --force".into())));
        assert!(error.chain().contains("`a=1 --force`"));
        let error = refuse(request(folder.path(), |debian| debian.files = Some("nowhere".into())));
        assert!(error.chain().contains("`nowhere` does not exist") && error.hints()[0].contains("looked in"));
        let mut other = request(folder.path(), |_| {});
        other.source = ImageSource::Nix;
        assert!(refuse(other).hints()[0].contains("debian"));
    }
}
