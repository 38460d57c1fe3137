//! Where the store is, and how its database is asked.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix_derivation::{StoreDir, StorePath};
use tokio::process::Command;

use super::PathInfo;
use super::path_info;
use crate::error::{Context, Error, Result};

const INSTALL_NIX: &str = "install Nix (https://nixos.org/download, or Debian's package `nix-bin`)";

/// A store whose files are on this host.
#[derive(Clone, Debug)]
pub struct NixStore {
    /// As `nix --store` takes it; `None` is Nix's own default.
    url: Option<String>,
    /// What every path's name begins with.
    directory: StoreDir,
    /// Where the files are.
    real: PathBuf,
}

impl NixStore {
    /// The store that `nix --store URL` uses; without a URL the one that `nix` uses by itself, by `NIX_REMOTE`,
    /// `NIX_STORE_DIR` and what is there.
    ///
    /// # Errors
    /// Usage: a store whose files are not on this host, or a URL that Nix would not understand.
    pub fn open(url: Option<&str>) -> Result<Self> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let remote = variable("NIX_REMOTE");
        let by_nix = Location::of(url.or(remote.as_deref()).unwrap_or("auto"), variable("NIX_STORE_DIR").as_deref());
        let mut location = by_nix.ok_or_else(|| {
            let named = url.or(remote.as_deref()).unwrap_or_default();
            Error::usage(format!("the files of the store `{named}` are not on this host"))
                .hint("`auto`, `daemon`, `local`, `local?root=DIR` and the path of a store's root can be read")
        })?;
        if url.is_none() && remote.is_none() && !Path::new("/nix/var/nix").exists() {
            // Where there is no system-wide store, Nix gives an ordinary user one below the home folder.
            let set = ["NIX_STORE_DIR", "NIX_STATE_DIR"].iter().any(|name| variable(name).is_some());
            let data =
                variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| format!("{home}/.local/share")));
            if let (false, false, Some(data)) = (set, rustix::process::geteuid().is_root(), data) {
                location.real = PathBuf::from(format!("{data}/nix/root/nix/store"));
            }
        }
        let directory = StoreDir::new(&location.directory)
            .usage(|| format!("`{}` cannot be the folder of a Nix store", location.directory))?;
        Ok(Self { url: url.map(str::to_owned), directory, real: location.real })
    }

    /// What the names of paths begin with.
    pub fn directory(&self) -> &StoreDir {
        &self.directory
    }

    /// The folder that holds the files.
    pub fn real_directory(&self) -> &Path {
        &self.real
    }

    /// Where a path's files are.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.real.join(path.to_basename())
    }

    /// A path's whole name.
    pub fn name(&self, path: &StorePath) -> String {
        self.directory.render_path(path)
    }

    /// The store path that a file belongs to; `None` where it is not in this store.
    pub fn store_path_of(&self, file: &Path) -> Option<StorePath> {
        let inside = file.strip_prefix(&self.real).or_else(|_| file.strip_prefix(self.directory.as_str())).ok()?;
        let first = inside.components().next()?.as_os_str();
        StorePath::from_basename(first.as_encoded_bytes()).ok()
    }

    /// What the database knows of one path and of all that it needs; `None` where the path is not valid.
    ///
    /// # Errors
    /// Blocked without the `nix` command, infrastructure where it fails or is not understood.
    pub async fn closure_of(&self, path: &StorePath) -> Result<Option<Vec<PathInfo>>> {
        // Old versions of Nix take a derivation's name for its outputs.
        let options: &[&str] = if path.is_derivation() { &["--derivation"] } else { &[] };
        match self.ask(options, &[self.name(path)]).await? {
            Answer::Known(paths) => Ok(Some(paths)),
            Answer::NotValid(_) => Ok(None),
        }
    }

    /// The closures of what Nix calls installables: store paths, links to them, flake outputs that are built.
    ///
    /// # Errors
    /// Blocked without the `nix` command; usage for what is not there or not built; infrastructure for an answer that is
    /// not understood.
    pub async fn closure_of_installables(&self, installables: &[String]) -> Result<Vec<PathInfo>> {
        match self.ask(&[], installables).await? {
            Answer::Known(paths) => Ok(paths),
            Answer::NotValid(said) => Err(Error::usage("a path whose closure was asked for is not in the Nix store")
                .with_source(said)
                .hint("build it first: `nix build` leaves a link `result`, which can be named")),
        }
    }

    /// Whether there is a `nix` to ask, for whoever wants to know before the first question.
    ///
    /// # Errors
    /// Blocked: there is none.
    pub async fn require_nix(&self) -> Result<()> {
        let mut command = Command::new("nix");
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.map(drop).map_err(cannot_start)
    }

    async fn ask(&self, options: &[&str], installables: &[String]) -> Result<Answer> {
        let mut command = Command::new("nix");
        command.args(["--extra-experimental-features", "nix-command flakes", "--option", "substitute", "false"]);
        if let Some(url) = &self.url {
            command.args(["--store", url]);
        }
        command.args(["path-info", "--json", "--recursive"]).args(options).arg("--").args(installables);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(cannot_start)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing").to_owned();
            // The only failure that is an answer; Nix has no other sign for it.
            if said.contains("is not valid") {
                return Ok(Answer::NotValid(last));
            }
            return Err(Error::infrastructure(format!("`nix path-info` failed ({})", output.status))
                .with_source(last)
                .hint(format!("`nix path-info --json {}` shows it in full", installables.join(" "))));
        }
        path_info::parse(&output.stdout, &self.directory).map(Answer::Known)
    }
}

fn cannot_start(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::blocked("`nix` is not installed").hint(INSTALL_NIX),
        _ => Error::infrastructure("failed to start `nix`").with_source(error),
    }
}

enum Answer {
    Known(Vec<PathInfo>),
    /// With the last line that Nix said.
    NotValid(String),
}

/// Logical and real folder of a store.
#[derive(Debug, PartialEq)]
struct Location {
    directory: String,
    real: PathBuf,
}

impl Location {
    /// By a store's URL and what `NIX_STORE_DIR` says; `None` for a store elsewhere.
    fn of(url: &str, store_dir: Option<&str>) -> Option<Self> {
        let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
        let parameter = |wanted: &str| {
            let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value.to_owned())
        };
        let root = match base {
            "" | "auto" | "daemon" | "local" | "local://" | "unix://" => parameter("root"),
            _ if base.starts_with("unix://") => None,
            _ if base.starts_with('/') => Some(base.to_owned()),
            _ if base.starts_with("local://") => base.strip_prefix("local://").map(str::to_owned),
            _ if base.starts_with("./") || base.starts_with("../") => {
                Some(std::path::absolute(base).ok()?.to_str()?.to_owned())
            }
            _ => return None,
        };
        let directory = parameter("store").or(store_dir.map(str::to_owned)).unwrap_or("/nix/store".into());
        let real = match (parameter("real"), root) {
            (Some(real), _) => PathBuf::from(real),
            (None, Some(root)) => Path::new(&root).join("nix/store"),
            (None, None) => PathBuf::from(&directory),
        };
        Some(Self { directory, real })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_the_logical_and_the_real_folder() {
        let at = |url: &str, variable: Option<&str>| {
            Location::of(url, variable).map(|place| (place.directory, place.real.to_str().unwrap().to_owned()))
        };
        let both = |one: &str, other: &str| Some((one.to_owned(), other.to_owned()));
        assert_eq!(at("auto", None), both("/nix/store", "/nix/store"));
        assert_eq!(at("daemon", Some("/own/store")), both("/own/store", "/own/store"));
        assert_eq!(at("/mnt", None), both("/nix/store", "/mnt/nix/store"));
        assert_eq!(at("local?root=/mnt", None), both("/nix/store", "/mnt/nix/store"));
        assert_eq!(at("local?store=/s&real=/r&state=/v", None), both("/s", "/r"));
        assert_eq!(at("unix:///run/nix.socket", None), both("/nix/store", "/nix/store"));
        assert_eq!(at("ssh-ng://elsewhere", None), None);
        assert_eq!(at("https://cache.example.org", None), None);
    }

    #[test]
    fn a_file_belongs_to_the_store_path_that_it_lies_in() {
        let store = NixStore::open(Some("local?root=/mnt")).unwrap();
        let name = "0lcsqzqis2jrv6hm00a8nihgcd4rjvwf-top";
        for file in [format!("/mnt/nix/store/{name}/bin/x"), format!("/nix/store/{name}")] {
            assert_eq!(store.store_path_of(Path::new(&file)).unwrap().to_basename(), name);
        }
        for file in ["/mnt/nix/store", "/mnt/nix/store/.links/x", "/etc/passwd", "/nix/storehouse/x"] {
            assert_eq!(store.store_path_of(Path::new(file)), None, "{file}");
        }
    }
}
