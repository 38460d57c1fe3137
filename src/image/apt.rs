//! Asks the host's apt for packages without installing anything, and without root.
//!
//! Two views of the archive: the host's own lists, which are there at once but may be old or missing, and a private state in
//! the store, refreshed from the host's sources. The first answers in most cases; the second makes up for the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::PackageVersion;
use super::command::{Finished, Tool, failed};
use super::sources::{self, Source};
use super::store::ImageStore;
use crate::error::{Context, Error, Result};

/// Metapackages that follow the newest kernel for virtual machines: Debian's, then Ubuntu's, then whatever boots.
fn kernel_metapackages() -> [String; 5] {
    let architecture = sources::architecture();
    [
        format!("linux-image-cloud-{architecture}"),
        "linux-image-virtual".into(),
        "linux-image-kvm".into(),
        format!("linux-image-{architecture}"),
        "linux-image-generic".into(),
    ]
}

/// One view of the archive.
pub(super) struct Archive {
    options: Vec<String>,
}

impl Archive {
    /// The host's own state.
    pub fn host() -> Self {
        Self { options: Vec::new() }
    }

    /// A state of our own, refreshed now.
    /// `installed` is what counts as installed, in the form of dpkg's `status` file.
    pub async fn refreshed(
        store: &ImageStore,
        suite: &str,
        installed: &str,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let folder = store.folder("archive").join(suite);
        let context = || format!("failed to make `{}`", folder.display());
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).infrastructure(context)?;
        }
        let sources = sources::for_suite(suite)?;
        let list: String = sources.iter().map(|source| format!("{}\n", source.line())).collect();
        fs::write(folder.join("sources.list"), list).infrastructure(context)?;
        fs::write(folder.join("status"), installed).infrastructure(context)?;
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        let archive = Self {
            options: vec![
                option("Dir::State", &folder),
                option("Dir::State::lists", &folder.join("lists")),
                option("Dir::State::status", &folder.join("status")),
                option("Dir::Cache", &folder.join("cache")),
                option("Dir::Etc::SourceList", &folder.join("sources.list")),
                "Dir::Etc::SourceParts=-".into(),
                "Dir::Etc::Preferences=/dev/null".into(),
                "Dir::Etc::PreferencesParts=-".into(),
                // Whatever other architectures the host's own dpkg knows, images have one.
                format!("APT::Architecture={}", sources::architecture()),
                format!("APT::Architectures={}", sources::architecture()),
                // A source that cannot be reached is an error, not a warning.
                "APT::Update::Error-Mode=any".into(),
            ],
        };
        let update = archive.tool("apt-get").args(["-q", "update"]).run(cancel, |_| {}).await?;
        if !update.status.success() {
            return Err(unreachable_archive("refresh the lists of packages", "apt-get", &sources, &update));
        }
        Ok(archive)
    }

    fn tool(&self, program: &str) -> Tool<'static> {
        // Without the sandbox user apt can write to folders that only we may enter, and does not warn about it.
        let options = std::iter::once("APT::Sandbox::User=root").chain(self.options.iter().map(String::as_str));
        Tool::new(program).args(options.flat_map(|option| ["-o", option]))
    }

    /// The newest kernel for virtual machines and what belongs to it, with versions; `None` where the lists have none.
    pub async fn newest_kernel(&self, cancel: &CancellationToken) -> Result<Option<Vec<PackageVersion>>> {
        for metapackage in kernel_metapackages() {
            let Some(metapackage) = self.candidate(&metapackage, cancel).await? else { continue };
            let Some(image) = metapackage.dependency("linux-image-") else { continue };
            let Some(image) = self.candidate(&image, cancel).await? else { continue };
            let mut packages = vec![image.package.clone()];
            // Ubuntu keeps the modules apart.
            if let Some(modules) = image.dependency("linux-modules-")
                && let Some(modules) = self.candidate(&modules, cancel).await?
            {
                packages.push(modules.package);
            }
            packages.sort();
            return Ok(Some(packages));
        }
        Ok(None)
    }

    /// Whether the lists have all of these, in exactly these versions.
    pub async fn has(&self, packages: &BTreeMap<String, String>, cancel: &CancellationToken) -> Result<bool> {
        for (name, version) in packages {
            let shown = self.tool("apt-cache").args(["show", &format!("{name}={version}")]).run(cancel, |_| {}).await?;
            if !shown.status.success() {
                return Ok(false);
            }
        }
        Ok(!packages.is_empty())
    }

    /// What installing these and everything that belongs to a minimal system would install, sorted by name.
    pub async fn simulate_install(
        &self,
        packages: &[String],
        suite: &str,
        cancel: &CancellationToken,
    ) -> Result<Vec<PackageVersion>> {
        let simulated = self
            .tool("apt-get")
            .args(["-q", "--simulate", "--no-install-recommends", "install"])
            .args(["?essential", "?priority(required)", "apt"])
            .args(packages)
            .run(cancel, |_| {})
            .await?;
        if let Some(line) = simulated.stderr.iter().find(|line| line.contains("Unable to locate package")) {
            return Err(unknown_package(suite, line));
        }
        if !simulated.status.success() {
            return Err(failed("apt-get", "resolve packages", &simulated));
        }
        Ok(simulated_packages(&simulated.stdout))
    }

    async fn candidate(&self, name: &str, cancel: &CancellationToken) -> Result<Option<Candidate>> {
        let shown = self.tool("apt-cache").args(["show", "--no-all-versions", name]).run(cancel, |_| {}).await?;
        Ok(if shown.status.success() { Candidate::parse(&shown.stdout) } else { None })
    }

    /// Downloads packages into a folder; gives the files.
    pub async fn download(
        &self,
        packages: &[PackageVersion],
        folder: &Path,
        cancel: &CancellationToken,
    ) -> Result<Vec<PathBuf>> {
        let names: Vec<String> =
            packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        let finished =
            self.tool("apt-get").args(["-q", "download"]).args(&names).current_dir(folder).run(cancel, |_| {}).await?;
        if !finished.status.success() {
            let sources = sources::for_suite(&sources::host_suite())?;
            return Err(unreachable_archive(&format!("download {}", names.join(", ")), "apt-get", &sources, &finished));
        }
        let entries = fs::read_dir(folder).infrastructure(|| format!("failed to read `{}`", folder.display()))?;
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        files.sort();
        Ok(files)
    }
}

/// Reads apt's `Inst name (version ...)` lines.
fn simulated_packages(said: &str) -> Vec<PackageVersion> {
    let found: BTreeSet<PackageVersion> = said
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.trim_start().strip_prefix('(')?.split([' ', ')']).next()?;
            Some(PackageVersion { name: name.split(':').next()?.into(), version: version.into() })
        })
        .collect();
    found.into_iter().collect()
}

/// The error for a package that the archive does not have; `line` is what apt said.
pub(super) fn unknown_package(suite: &str, line: &str) -> Error {
    Error::usage(format!("a package is asked for that {suite} does not have"))
        .with_source(line.trim().trim_start_matches("E: ").to_string())
        .hint("`apt-cache search` finds names of packages")
}

/// What `apt-cache show` says of a package's candidate.
#[derive(Debug, PartialEq)]
struct Candidate {
    package: PackageVersion,
    depends: String,
}

impl Candidate {
    fn parse(stanza: &str) -> Option<Self> {
        let stanza = stanza.split("\n\n").next()?;
        let field =
            |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        Some(Self {
            package: PackageVersion { name: field("Package")?.into(), version: field("Version")?.into() },
            depends: field("Depends").unwrap_or_default().into(),
        })
    }

    /// The first dependency whose name begins so.
    fn dependency(&self, prefix: &str) -> Option<String> {
        self.depends
            .split([',', '|'])
            .filter_map(|dependency| dependency.split_whitespace().next())
            .find(|name| name.starts_with(prefix))
            .map(String::from)
    }
}

/// The error for an archive that did not give what it was asked for.
pub(super) fn unreachable_archive(doing: &str, tool: &str, sources: &[Source], finished: &Finished) -> Error {
    if finished.ran_out_of_space() {
        return failed(tool, doing, finished);
    }
    let mut addresses: Vec<&str> = sources.iter().map(|source| source.uri.as_str()).collect();
    addresses.dedup();
    // apt marks what matters; the rest of its output is progress.
    let mut complaints: Vec<&str> = finished
        .stderr
        .iter()
        .map(|line| line.trim())
        .filter(|line| line.starts_with("E:") || line.starts_with("Err:") || line.starts_with("W: Failed"))
        .collect();
    complaints.dedup();
    let said = if complaints.is_empty() { finished.tail() } else { complaints[..complaints.len().min(5)].join("; ") };
    Error::blocked(format!("failed to {doing}"))
        .with_source(format!("`{tool}` ended with {}: {said}", finished.status))
        .hint(format!("packages come from {}: check that the host reaches it", addresses.join(" and ")))
        .hint("`BOOTPROOF_APT_SOURCES` names a sources file to use instead of the host's")
}

#[cfg(test)]
mod tests {
    use super::*;

    const METAPACKAGE: &str = "\
Package: linux-image-cloud-amd64
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)
Description: x

Package: linux-image-cloud-amd64
Version: 6.1.176-1
Depends: linux-image-6.1.0-50-cloud-amd64
";

    #[test]
    fn a_simulation_gives_each_package_once() {
        let said = "Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.12/oldstable [amd64])\n\
                    Inst libc6:amd64 (2.36-9+deb12u13 Debian:12.12/oldstable [amd64]) []\n\
                    Conf libc6 (2.36-9+deb12u13 Debian:12.12/oldstable [amd64])\n";
        let packages = simulated_packages(said);
        let names: Vec<_> = packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        assert_eq!(names, ["gcc-12-base=12.2.0-14+deb12u1", "libc6=2.36-9+deb12u13"]);
    }

    #[test]
    fn the_candidate_is_the_first_stanza() {
        let candidate = Candidate::parse(METAPACKAGE).unwrap();
        assert_eq!(candidate.package.version, "6.1.192-2");
        assert_eq!(candidate.dependency("linux-image-").unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(candidate.dependency("linux-modules-"), None);
        assert_eq!(Candidate::parse(""), None);
    }

    #[tokio::test]
    async fn the_error_names_the_archive_and_what_apt_said() {
        let cancel = CancellationToken::new();
        let script = "echo 'Ign:1 http://x' >&2; echo 'E: Failed to fetch http://mirror.invalid/x  Could not resolve' >&2; exit 100";
        let finished = Tool::new("sh").args(["-c", script]).run(&cancel, |_| {}).await.unwrap();
        let source = Source {
            uri: "http://mirror.invalid/debian".into(),
            suite: "bookworm".into(),
            components: vec![],
            signed_by: None,
            trusted: false,
        };
        let error = unreachable_archive("build", "mmdebstrap", &[source], &finished);
        assert_eq!(error.kind(), crate::error::ErrorKind::Blocked);
        assert!(error.chain().contains("Could not resolve") && !error.chain().contains("Ign:"), "{}", error.chain());
        assert!(error.hints()[0].contains("mirror.invalid"));
    }
}
