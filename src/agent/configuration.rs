//! What an installed system's agent knows of its deployer: written by the installer, read by whatever speaks to it.

use serde::{Deserialize, Serialize};

/// Where it stands; for root alone.
pub const CONFIGURATION: &str = "/etc/bootproof/agent.json";

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfiguration {
    pub version: u32,
    pub deployer_url: String,
    /// The CA that the deployer's certificate leads to, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<String>,
    /// The node's secret with the deployer.
    pub credential: String,
    /// The node's name with the deployer.
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_cache: Option<String>,
}

/// Without the credential.
impl std::fmt::Debug for AgentConfiguration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AgentConfiguration").field("node", &self.node).finish_non_exhaustive()
    }
}
