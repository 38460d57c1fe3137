//! The product surface: what a manifest says runs in the guest, against what really runs.
//!
//! `observe` looks (processes, listening sockets, units), `compare` decides and touches nothing. A component runs when its
//! unit is active, one of its processes has the executable, and every address is listened on by one of its processes.

mod compare;
mod observe;

use std::path::Path;

use serde::{Deserialize, Serialize};

use compare::compare;
use observe::Observed;

pub const MANIFEST_VERSION: u32 = 1;

/// What a product says it consists of; a JSON file in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    pub components: Vec<Component>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub name: String,
    /// The check fails when it does not run.
    #[serde(default = "yes")]
    pub required: bool,
    /// The systemd unit that has to be active; its processes are the component's.
    #[serde(default)]
    pub unit: Option<String>,
    /// A path, or the name of a program; one of the component's processes has to run it. Without a unit the processes that
    /// run it are the component's.
    #[serde(default)]
    pub executable: Option<String>,
    /// What the component's processes have to listen on: a TCP port (`2379`), an address and a port (`127.0.0.1:2379`,
    /// `[::1]:2379`; a socket on every address will do), or the path of a unix socket.
    #[serde(default)]
    pub listens: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Manifest {
    /// Reads a manifest; the error is one line for people.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("failed to read `{}`: {error}", path.display()))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| format!("failed to understand the manifest `{}`: {error}", path.display()))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(format!(
                "the manifest `{}` has version {}, and this agent reads {MANIFEST_VERSION}",
                path.display(),
                manifest.version
            ));
        }
        for component in &manifest.components {
            if component.unit.is_none() && component.executable.is_none() {
                return Err(format!("the component `{}` names neither a unit nor an executable", component.name));
            }
        }
        Ok(manifest)
    }
}

/// What `surface check` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurfaceReport {
    pub version: u32,
    /// Every required component runs.
    pub passed: bool,
    pub components: Vec<ComponentReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentReport {
    pub name: String,
    pub required: bool,
    pub running: bool,
    pub unit: Option<String>,
    /// As systemd gives it: `active`, `inactive`, `failed`, ...
    pub active_state: Option<String>,
    pub main_pid: Option<u32>,
    /// The component's processes.
    pub pids: Vec<u32>,
    /// What they run, each once.
    pub executables: Vec<String>,
    /// What they listen on.
    pub listening: Vec<String>,
    /// What is not as the manifest says; empty when the component runs.
    pub mismatches: Vec<String>,
}

/// What `surface show` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurfaceListing {
    pub version: u32,
    pub units: Vec<String>,
    pub listeners: Vec<ListeningProcess>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningProcess {
    pub address: String,
    pub pid: Option<u32>,
    pub executable: Option<String>,
}

/// Compares the manifest with this guest.
pub fn check(manifest: &Manifest) -> SurfaceReport {
    let units = manifest.components.iter().filter_map(|component| component.unit.as_deref());
    let states = units.map(|unit| (unit.to_owned(), observe::unit_state(unit))).collect();
    compare(manifest, &Observed::of_this_guest(), &states)
}

/// What runs and listens in this guest, whatever any manifest says.
pub fn show() -> SurfaceListing {
    let observed = Observed::of_this_guest();
    let listeners = observed
        .listeners
        .iter()
        .map(|listener| {
            let owner = observed.processes.iter().find(|process| process.sockets.contains(&listener.inode));
            ListeningProcess {
                address: listener.address.to_string(),
                pid: owner.map(|process| process.pid),
                executable: owner.map(|process| process.program().to_owned()),
            }
        })
        .collect();
    SurfaceListing { version: MANIFEST_VERSION, units: observe::active_services(), listeners }
}

impl SurfaceReport {
    pub fn to_json(&self) -> String {
        pretty(self)
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for component in &self.components {
            let standing = match (component.running, component.required) {
                (true, _) => "runs",
                (false, true) => "DOES NOT RUN",
                (false, false) => "does not run (optional)",
            };
            text.push_str(&format!("{}: {standing}\n", component.name));
            for mismatch in &component.mismatches {
                text.push_str(&format!("  {mismatch}\n"));
            }
        }
        text.push_str(if self.passed {
            "every required component runs\n"
        } else {
            "a required component does not run\n"
        });
        text
    }
}

impl SurfaceListing {
    pub fn to_json(&self) -> String {
        pretty(self)
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for unit in &self.units {
            text.push_str(&format!("unit {unit}\n"));
        }
        for listener in &self.listeners {
            let executable = listener.executable.as_deref().unwrap_or("?");
            let pid = listener.pid.map_or("?".into(), |pid| pid.to_string());
            text.push_str(&format!("listens {} {executable} (pid {pid})\n", listener.address));
        }
        text
    }
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
