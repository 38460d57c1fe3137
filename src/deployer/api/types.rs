//! Bodies of the admin API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::deployer::configuration::MatchDocument;
use crate::deployer::nodes::{NodeStatus, TokenStatus};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeList {
    pub version: u32,
    /// By name.
    pub nodes: Vec<NodeStatus>,
}

/// A node that is known before it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    pub version: u32,
    pub node: String,
    pub class: String,
    /// By what it is recognised. Absent: by its own name, as node id.
    #[serde(default, rename = "match")]
    pub matches: MatchDocument,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_system: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    pub version: u32,
    pub class: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_system: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReinstallRequest {
    pub version: u32,
    /// Absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredSystemRequest {
    pub version: u32,
    /// Absent: what the class says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequestBody {
    pub version: u32,
    /// Seconds. Absent: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
    /// Absent: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reusable: Option<bool>,
    /// Only for this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewToken {
    pub version: u32,
    pub token: TokenStatus,
    /// The secret itself. It is told here and nowhere else.
    pub value: String,
}

/// Without the value.
impl std::fmt::Debug for NewToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenList {
    pub version: u32,
    /// Newest last.
    pub tokens: Vec<TokenStatus>,
}
