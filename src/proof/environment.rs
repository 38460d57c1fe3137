//! `environment.json`: where a run happened and with what.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nix_store::Provenance;

pub const ENVIRONMENT_VERSION: u32 = 1;

/// The surroundings of a run. What could not be found out is `None`, never guessed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    pub version: u32,
    pub tool_version: String,
    /// Revision of the project's git tree.
    pub git_revision: Option<String>,
    /// The tree had changes that no revision has.
    pub git_dirty: Option<bool>,
    pub host: Host,
    /// First line of `qemu-system-* --version`.
    pub qemu_version: Option<String>,
    /// Where machines were to run under libvirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<EnvironmentLibvirt>,
    /// `kvm` or `tcg`; `None` where no machine was to be started.
    pub vm_accelerator_mode: Option<String>,
    /// `probe-guest`, `cached-probe`, `requested`, `no-device`.
    pub vm_accelerator_proven_by: Option<String>,
    /// What the probe saw.
    pub vm_accelerator_detail: Option<String>,
    pub deadline_factor: Option<f64>,
    /// By the lane's name for the image.
    pub images: BTreeMap<String, EnvironmentImage>,
    pub execution_model: ExecutionModel,
}

/// A libvirt, as it said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentLibvirt {
    pub uri: String,
    /// Of its daemon.
    pub version: String,
    /// Of the hypervisor that it drives.
    pub hypervisor_version: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// As `uname -n` gives it.
    pub name: String,
    /// As `uname -r` gives it.
    pub kernel: String,
    /// As `uname -m` gives it.
    pub architecture: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: Option<String>,
    pub cpu_model: Option<String>,
    /// Processors that the run may use.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// The hypervisor that the host itself runs under, where it says so.
    pub virtualized_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentImage {
    /// `tiny`, `debian`, `nix`, `disk`.
    pub source: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Nix store path, for images that have one.
    pub store_path: Option<String>,
    /// What the Nix store says of it, after its content was checked: for images that lie there.
    #[serde(default)]
    pub provenance: Option<Provenance>,
    /// Resolved versions by package.
    pub packages: BTreeMap<String, String>,
}

/// What stands between the lane and whoever reads its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionModel {
    /// Guests under hardware virtualisation.
    HardwareVirtualMachines,
    /// Guests under emulation: what depends on timing says less.
    EmulatedVirtualMachines,
    /// A recorded console; no machine ran.
    Recorded,
    /// Nothing was started.
    NothingStarted,
    /// By a runner that Nix built, on the host: what ran was fixed by the flake's lock. The accelerator says how.
    MaterializedCheckRunner,
    /// By a Nix builder, most likely in its sandbox: nothing but the declared inputs was in reach.
    SandboxedCheck,
}
