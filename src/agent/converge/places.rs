//! Where convergence keeps what.

use std::path::{Path, PathBuf};

/// As the running system sees it, whatever the root is.
pub const CURRENT: &str = "/var/lib/bootproof/current";

/// Below a root, which is `/` but for tests.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    pub fn below(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/bootproof")
    }

    pub fn journal(&self) -> PathBuf {
        self.state().join("converge.json")
    }

    /// Trees by the digests of their bundles; whole, each of them.
    pub fn generations(&self) -> PathBuf {
        self.state().join("generations")
    }

    /// The link to the tree that is active.
    pub fn current(&self) -> PathBuf {
        self.state().join("current")
    }

    /// Bundles that are being fetched, and trees that are not whole yet or any more. For root alone.
    pub fn scratch(&self) -> PathBuf {
        self.state().join("scratch")
    }

    /// Where links to units are made.
    pub fn units(&self) -> PathBuf {
        self.root.join("etc/systemd/system")
    }

    /// Where units of the system's own are.
    pub fn vendor_units(&self) -> [PathBuf; 2] {
        ["usr/lib/systemd/system", "lib/systemd/system"].map(|folder| self.root.join(folder))
    }

    pub fn nixos_profile(&self) -> PathBuf {
        self.root.join("nix/var/nix/profiles/system")
    }
}
