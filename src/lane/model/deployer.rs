//! The deployer that a lane's machines phone home to, and what steps do with it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::deployer::ConfigurationDocument;
use crate::provisioning::NodeState;

/// A deployer in the run's own process, at the host's address in one of the lane's networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneDeployer {
    pub network: String,
    pub port: u16,
    /// Secrets of the lane that are bootstrap tokens, each good for one machine.
    pub tokens: Vec<String>,
    /// Class -> image of the lane, built from Debian packages, whose root file system machines of the class get.
    pub images: BTreeMap<String, String>,
    /// The image whose kernel and initrds machines boot over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<String>,
    /// A planted bug: the kernel that machines boot over the network does not begin as it should.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damage_kernel: bool,
    /// A planted bug: the first byte of whatever bundle is sent is another one.
    #[serde(default)]
    pub damage_bundles: bool,
    /// HTTPS with a CA of the run's own; what anybody may know is served without TLS too, at the same port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// The rest, as `bootproof deployer serve` reads it. Paths are relative to the project's root.
    pub configuration: ConfigurationDocument,
}

/// What a `deployer` step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DeployerAction {
    /// Wait until a node is in a state.
    AwaitState {
        node: String,
        state: NodeState,
        /// The system that it has to run, where that matters.
        system: Option<String>,
    },
    /// Wait until a node has said that it does not keep a system.
    AwaitRollBack { node: String, system: String },
    /// Have a node run another system.
    Desire { node: String, system: String },
    /// Say what a node that was discovered or retired shall become.
    Claim { node: String, class: String },
    /// Let a node be installed again when it next phones home.
    Reinstall { node: String },
    /// Take a node out of service.
    Retire { node: String },
    /// End the deployer and start it again, with the state that it left.
    Restart {},
}
