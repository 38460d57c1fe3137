//! What a machine shall become.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes that the deployer serves, named by what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct Bundle {
    /// `sha256:` and 64 hexadecimal digits. The bytes are at `BUNDLES/<digest>`, with ranges.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// Everything that an installation needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct InstallPlan {
    /// The node class that it comes from.
    pub class: String,
    pub hostname: String,
    pub disk: DiskSelector,
    /// Whether the disk may hold something: without it, a disk with any signature is not touched.
    #[serde(default)]
    pub wipe: bool,
    #[serde(default)]
    pub layout: DiskLayout,
    pub method: InstallMethod,
    /// Added to the installed system's kernel command line.
    #[serde(default)]
    pub kernel_parameters: Vec<String>,
    /// Files written into the installed system: absolute path, and text.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_cache: Option<String>,
}

/// Which disk to install on. All that is given must hold, of exactly one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSelector {
    /// The name below `/dev/disk/by-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_size: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// A GPT that BIOS and UEFI both boot: a BIOS boot partition, an EFI system partition, further partitions, the root file
/// system in what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskLayout {
    /// Bytes of the EFI system partition.
    pub efi_size: u64,
    #[serde(default)]
    pub partitions: Vec<Partition>,
}

impl Default for DiskLayout {
    fn default() -> Self {
        Self { efi_size: 64 << 20, partitions: Vec::new() }
    }
}

/// A partition beside those that every system has: ext4, labelled with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// At most 16 characters.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where the installed system mounts it.
    pub mount: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum InstallMethod {
    /// Nothing is installed: the machine has its system already, and only wants to be told what to run.
    Existing {},
    /// The bundle is a root file system: `tar`, compressed with zstd.
    Tree { system: Bundle },
    /// The bundle is a flake: `tar`, compressed with zstd. disko lays out the disk, `nixos-install` fills it.
    Nixos {
        configuration: Bundle,
        /// The attribute below `nixosConfigurations`.
        attribute: String,
    },
}

/// What an installed machine shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct DesiredSystem {
    pub name: String,
    pub target: DesiredTarget,
    #[serde(default)]
    pub health_check: HealthCheck,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DesiredTarget {
    /// A folder, as `tar` compressed with zstd.
    Tree { bundle: Bundle },
    /// A NixOS system's store path, fetched from the binary cache.
    Nixos { store_path: String },
}

/// What tells a good system from a bad one, after it was activated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// A program and its arguments. Empty: the activation itself decides.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Seconds.
    #[serde(default = "sixty")]
    pub within: u64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { argv: Vec::new(), within: sixty() }
    }
}

fn sixty() -> u64 {
    60
}
