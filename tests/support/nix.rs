//! The real Nix, with a store, a database, settings and caches of a test's own. Nothing of the host's is read or written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{stderr_of, stdout_of};

pub struct Nix {
    folder: tempfile::TempDir,
}

impl Nix {
    /// `None`, and the reason is printed, where this host has no Nix.
    pub fn new() -> Option<Self> {
        if Command::new("nix").arg("--version").output().is_err() {
            println!("skipped: `nix` is not installed");
            return None;
        }
        let nix = Self { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        for name in ["home", "settings", "store"] {
            fs::create_dir(nix.path(name)).unwrap();
        }
        Some(nix)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command sees this store as the default one, and no settings or caches but those of the test.
    pub fn surround<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let own_folder = [
            ("HOME", "home"),
            ("NIX_STORE_DIR", "store"),
            ("NIX_STATE_DIR", "state"),
            ("NIX_LOCALSTATE_DIR", "state"),
            ("NIX_LOG_DIR", "log"),
            ("NIX_CONF_DIR", "settings"),
        ];
        command.envs(own_folder.map(|(name, folder)| (name, self.path(folder))));
        for name in
            ["NIX_REMOTE", "NIX_PATH", "NIX_USER_CONF_FILES", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"]
        {
            command.env_remove(name);
        }
        let settings =
            "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\n";
        command.env("NIX_CONFIG", settings)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nix");
        self.surround(&mut command).args(arguments).current_dir(self.folder.path());
        command
    }

    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        succeeded(&self.command(arguments).output().unwrap())
    }

    /// Builds an expression and gives its output.
    #[track_caller]
    pub fn build(&self, expression: &str) -> String {
        let said = self.ask(&["build", "--no-link", "--json", "--impure", "--expr", expression]);
        let built: serde_json::Value = serde_json::from_str(&said).unwrap();
        built[0]["outputs"]["out"].as_str().unwrap().to_owned()
    }

    /// This store, for whoever does not have its surroundings.
    pub fn store_by_url(&self) -> String {
        let at = |part: &str| self.path(part).display().to_string();
        format!("local?store={0}&real={0}&state={1}&log={2}", at("store"), at("state"), at("log"))
    }

    /// A store beside this one: the same names of paths, other files and another database.
    pub fn other_store(&self, name: &str) -> String {
        let at = |part: &str| self.path(name).join(part).display().to_string();
        format!("local?real={}&state={}&log={}", at("store"), at("state"), at("log"))
    }
}

/// A derivation of a script that runs under the host's own shell.
pub fn derivation(name: &str, script: &str) -> String {
    format!(
        "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; PATH = \"/usr/bin:/bin\"; \
         args = [ \"-ec\" ''{script}'' ]; }}"
    )
}

#[track_caller]
pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", stdout_of(output), stderr_of(output));
    stdout_of(output)
}

/// The 32 characters that a store path's name begins with.
pub fn hash_part(path: &str) -> &str {
    &Path::new(path).file_name().unwrap().to_str().unwrap()[..32]
}
