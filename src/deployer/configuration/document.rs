//! The document as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::lane::units::{Size, Span};

/// A deployer's configuration. Paths are relative to the folder that its file is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationDocument {
    /// Always 1.
    pub version: u32,
    /// The class of machines that nothing is known of. Without it they are discovered, and wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_class: Option<String>,
    /// Whether machines may come without a token. Whoever reaches the deployer is given a plan then.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// The URL of a Nix binary cache, for the machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_cache: Option<String>,
    #[serde(default)]
    pub tokens: TokensDocument,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsDocument>,
    #[serde(default)]
    pub classes: BTreeMap<String, ClassDocument>,
    #[serde(default)]
    pub systems: BTreeMap<String, SystemDocument>,
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<NetbootDocument>,
}

/// What bootstrap tokens are like where whoever makes one does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensDocument {
    #[serde(default = "a_day")]
    pub lifetime: Span,
    /// Whether one is good for many machines. Else it is bound to the first that comes with it.
    #[serde(default)]
    pub reusable: bool,
}

impl Default for TokensDocument {
    fn default() -> Self {
        Self { lifetime: a_day(), reusable: false }
    }
}

fn a_day() -> Span {
    Span::from_secs(24 * 3600)
}

/// HTTPS. Either `certificate` and `key`, or `names`, for which the CA makes a certificate at each start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsDocument {
    /// The certificate of the CA (PEM), served at `/ca.pem`.
    pub ca: PathBuf,
    /// The key of the CA (PEM), where it makes the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_key: Option<PathBuf>,
    /// Host names and addresses under which machines come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The server's certificate, and those between it and the CA (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The key of the server's certificate (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Whether everything is served over plain HTTP too, where there is such a listener. Else only what is public is:
    /// the CA's certificate, and what netboot needs.
    #[serde(default)]
    pub also_plain: bool,
}

/// What machines of a kind become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassDocument {
    /// The root file system: a file, `tar` compressed with zstd. Without this and `configuration`, machines of the class
    /// have their system already and are only told what to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// A flake to install from: a folder, or a file (`tar` compressed with zstd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<PathBuf>,
    /// The attribute below `nixosConfigurations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// Which disk to install on.
    #[serde(default)]
    pub disk: DiskDocument,
    /// Whether what is on the disk may be overwritten.
    #[serde(default)]
    pub wipe: bool,
    #[serde(default)]
    pub layout: LayoutDocument,
    /// The pattern of host names: `{node}`, `{serial}`, `{mac}` (without colons), and `{number}` (counted in the class,
    /// two digits at least).
    #[serde(default = "node_pattern")]
    pub hostname: String,
    #[serde(default)]
    pub kernel_parameters: Vec<String>,
    /// Written into the installed system: absolute path, and text.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// One of `systems`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_system: Option<String>,
}

pub(super) fn node_pattern() -> String {
    "{node}".into()
}

/// Which disk. All that is given must hold, of exactly one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DiskSelectorDocument")]
pub struct DiskDocument {
    /// The name below `/dev/disk/by-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_size: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_size: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayoutDocument {
    /// Of the EFI system partition.
    #[serde(default = "efi_size")]
    pub efi_size: Size,
    #[serde(default)]
    pub partitions: Vec<PartitionDocument>,
}

impl Default for LayoutDocument {
    fn default() -> Self {
        Self { efi_size: efi_size(), partitions: Vec::new() }
    }
}

fn efi_size() -> Size {
    Size(crate::provisioning::DiskLayout::default().efi_size)
}

/// A partition beside those that every system has: ext4, labelled with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartitionDocument {
    /// At most 16 characters.
    pub name: String,
    pub size: Size,
    /// Where the installed system mounts it.
    pub mount: String,
}

/// What an installed machine shall run: one of `bundle`, `folder` and `store_path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemDocument {
    /// A file: `tar` compressed with zstd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// A folder that the deployer packs itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// A NixOS system's store path, fetched from the binary cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_path: Option<String>,
    #[serde(default)]
    pub health_check: HealthCheckDocument,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheckDocument {
    /// A program and its arguments. Empty: the activation itself decides.
    #[serde(default)]
    pub argv: Vec<String>,
    #[serde(default = "a_minute")]
    pub within: Span,
}

impl Default for HealthCheckDocument {
    fn default() -> Self {
        Self { argv: Vec::new(), within: a_minute() }
    }
}

fn a_minute() -> Span {
    Span::from_secs(60)
}

/// A node that is known before it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeDocument {
    pub class: String,
    /// By what it is recognised. Absent: by its own name, as node id.
    #[serde(default, rename = "match")]
    pub matches: MatchDocument,
    /// In place of the class's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_system: Option<String>,
}

/// By what a node is recognised. `node_id` overrides the serial number, and that the MAC address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchDocument {
    /// The kernel parameter `bootproof.node_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Of any of its cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What machines boot over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetbootDocument {
    pub kernel: PathBuf,
    #[serde(default)]
    pub initrds: Vec<PathBuf>,
    /// Of the installer. `bootproof.deployer_url` is added; whoever asks can read them, so that no token belongs here.
    #[serde(default)]
    pub parameters: Vec<String>,
}

impl ConfigurationDocument {
    /// Reads TOML. `name`: of the file, for errors.
    ///
    /// # Errors
    /// Usage: what is no such document, with its place.
    pub fn parse(text: &str, name: &Path) -> Result<Self> {
        let said = || format!("failed to understand the deployer's configuration `{}`", name.display());
        let document: Self = toml::from_str(text).usage(said)?;
        if document.version != 1 {
            return Err(Error::usage(said())
                .with_source(format!("`version = {}`: this program reads version 1", document.version)));
        }
        Ok(document)
    }
}
