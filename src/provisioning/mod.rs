//! What the deployer and the machines that it installs say to each other: JSON over HTTP.
//!
//! Shared by the host (`deployer`) and the guest (`agent::installer`, `agent::converge`); no I/O in here.
//!
//! What always holds:
//! - Every body names its `version`. A reader ignores fields that it does not know, and refuses a version that it does not.
//! - A bootstrap token is good for one identity: whoever comes with it first. What the node gets for it is its own
//!   credential, which every later request carries (`Authorization: Bearer`).
//! - Every bundle is named by its digest, and nothing of it is used before the digest was found right.

mod exchange;
mod node;
mod plan;

pub use exchange::{
    API, Assignment, BUNDLES, DESIRED_SYSTEM, DesiredSystemAnswer, NODE_EVENTS, NodeEventReport, PHONE_HOME, PhoneHome,
    PhoneHomeAnswer, Problem, VERSION,
};
pub use node::{Disk, Firmware, Identity, NodeEvent, NodeState, Stage};
pub use plan::{
    Bundle, DesiredSystem, DesiredTarget, DiskLayout, DiskSelector, HealthCheck, InstallMethod, InstallPlan, Partition,
};
