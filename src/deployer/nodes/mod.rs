//! What can be done with nodes: each a function on the state, within the transaction of whoever calls it.
//!
//! What always holds: a node's state changes only as `progress` allows, and with it its history. A refusal leaves
//! everything as it was. Of secrets there are only salted hashes here.

mod access;
mod administer;
mod configured;
mod desired;
mod history;
mod phone_home;
mod record;
mod report;
mod tokens;

use std::sync::Arc;

use crate::deployer::configuration::Configuration;

pub use access::Hash;
pub(super) use access::{hash, node_of_credential};
pub(super) use administer::{claim, detail, list, register, reinstall, retire, set_desired_system};
pub(super) use configured::synchronise;
pub(super) use desired::desired_system;
pub use history::{Cause, HistoryEntry};
pub(super) use phone_home::{NewCredential, phone_home, recognise};
pub use record::{NodeDetail, NodeStatus};
pub(super) use record::{all_statuses, status};
pub(super) use report::report;
pub use tokens::TokenStatus;
pub(super) use tokens::{TokenRequest, create_token, is_token, list_tokens, revoke_token};

/// What every function needs to know besides the state.
pub(super) struct Rules {
    pub configuration: Configuration,
    /// Of every hash in this database.
    pub salt: Vec<u8>,
}

pub(super) type SharedRules = Arc<Rules>;
