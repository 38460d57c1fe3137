//! Requests and answers.

use serde::{Deserialize, Serialize};

use super::{DesiredSystem, Disk, Firmware, Identity, InstallPlan, NodeEvent, Stage};

/// Of every body.
pub const VERSION: u32 = 1;
pub const API: &str = "/api/v1";
/// POST a [`PhoneHome`], with the bootstrap token as bearer; a node that has a credential may use that. Answers a
/// [`PhoneHomeAnswer`]. With `?wait=SECONDS` a machine that has to wait is answered once it is known what it shall become,
/// or after that time. The same machine may ask again as often as it has to, also after a reboot, until it is installed.
pub const PHONE_HOME: &str = "/api/v1/phone-home";
/// POST a [`NodeEventReport`], with the credential as bearer; 204. The same report again changes nothing.
pub const NODE_EVENTS: &str = "/api/v1/node/events";
/// GET, with the credential as bearer, answers a [`DesiredSystemAnswer`]. With `?known=GENERATION&wait=SECONDS` the
/// answer comes when there is another generation, or after that time.
pub const DESIRED_SYSTEM: &str = "/api/v1/node/desired-system";
/// GET `BUNDLES/<digest>`, with the credential as bearer: the bytes; ranges are understood.
pub const BUNDLES: &str = "/api/v1/bundles";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct PhoneHome {
    pub version: u32,
    pub identity: Identity,
    pub stage: Stage,
    pub firmware: Firmware,
    /// Wanted, from the kernel parameter `bootproof.hostname`; the class's pattern decides where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Bytes.
    #[serde(default)]
    pub memory: u64,
    #[serde(default)]
    pub agent_version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct PhoneHomeAnswer {
    pub version: u32,
    /// The node's name with the deployer.
    pub node: String,
    /// Absent while it is not known what the machine shall become: ask again after `retry_after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct Assignment {
    /// A secret of this node; what was given out before is dead.
    pub credential: String,
    pub plan: InstallPlan,
}

/// Without the credential.
impl std::fmt::Debug for Assignment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Assignment").field("plan", &self.plan).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct NodeEventReport {
    pub version: u32,
    /// Unique among the reports with one credential: one that was sent twice counts once.
    pub id: String,
    pub report: NodeEvent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct DesiredSystemAnswer {
    pub version: u32,
    /// Grows with every change of this node's desired system.
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<DesiredSystem>,
}

/// The body of every answer that is not a success (`application/problem+json`, RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct Problem {
    pub title: String,
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// For programs: `token-used`, `identity-conflict`.
    pub code: String,
}
