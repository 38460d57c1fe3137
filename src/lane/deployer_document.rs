//! What a lane file says of its deployer.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::reader::Spanned;
use crate::deployer::{ClassDocument, NodeDocument, SystemDocument};
use crate::provisioning::NodeState;

/// A deployer in the run's own process. Its machines boot an installer (`iso`), or have a system that phones home.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployerDocument {
    /// The network at whose host's address it listens; may be left out where the lane has only one.
    #[serde(default)]
    pub network: Option<Spanned<String>>,
    /// 8080 when left out.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// Secrets of the lane that are bootstrap tokens, each good for one machine.
    #[serde(default)]
    pub tokens: Vec<Spanned<String>>,
    /// Class -> image of the lane, built from Debian packages, whose root file system machines of the class get.
    #[serde(default)]
    pub images: BTreeMap<Spanned<String>, Spanned<String>>,
    /// The image that machines boot over the network: an installer (`iso` with `suite`), or a kernel and an initramfs
    /// (`tiny`, or what Nix has built of them).
    #[serde(default)]
    pub netboot: Option<Spanned<String>>,
    /// For controls: whether the kernel that machines boot over the network begins with something else.
    #[serde(default)]
    pub damage_kernel: bool,
    /// For controls: whether the first byte of whatever bundle is sent is another one.
    #[serde(default)]
    pub damage_bundles: bool,
    /// Whether it speaks HTTPS, with a CA that is made for the run. Machines that come by `https://` are told where its
    /// certificate is, with its pin; without TLS that alone is served.
    #[serde(default)]
    pub tls: bool,
    /// Whether machines may come without a token.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// The class of machines that nothing is known of. Without it they are discovered, and wait.
    #[serde(default)]
    pub default_class: Option<String>,
    /// The URL of a Nix binary cache, for the machines.
    #[serde(default)]
    pub binary_cache: Option<String>,
    #[serde(default)]
    pub classes: BTreeMap<String, ClassDocument>,
    #[serde(default)]
    pub systems: BTreeMap<String, SystemDocument>,
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeDocument>,
}

/// What a step does with the deployer: besides `node`, exactly one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployerStepDocument {
    #[serde(default)]
    pub node: Option<Spanned<String>>,
    /// Wait until the node is in this state. One that is told to have failed ends the wait at once.
    #[serde(default)]
    pub state: Option<Spanned<NodeState>>,
    /// With `state`: the system that it has to run.
    #[serde(default)]
    pub system: Option<Spanned<String>>,
    /// Wait until the node has said that it went back from this system.
    #[serde(default)]
    pub rolled_back: Option<Spanned<String>>,
    /// Have the node run this system.
    #[serde(default)]
    pub desired_system: Option<Spanned<String>>,
    /// Make the node, discovered or retired, one of this class.
    #[serde(default)]
    pub claim: Option<Spanned<String>>,
    /// `true`: let the node be installed again when it next phones home.
    #[serde(default)]
    pub reinstall: Option<Spanned<bool>>,
    /// `true`: take the node out of service.
    #[serde(default)]
    pub retire: Option<Spanned<bool>>,
    /// `true`, without `node`: end the deployer and start it again, with the state that it left.
    #[serde(default)]
    pub restart: Option<Spanned<bool>>,
}
