//! What a machine can be waited for, by its agent.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::channel::protocol::{Condition as Asked, FileState};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    File { path: String },
    FileGone { path: String },
    FileContains { path: String, text: String },
    Unit { name: String, state: UnitState },
    Port { port: u16, address: Option<IpAddr> },
}

/// What a unit of systemd's is, as `ActiveState` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    #[default]
    Active,
    Inactive,
    Failed,
}

impl UnitState {
    pub fn as_str(self) -> &'static str {
        match self {
            UnitState::Active => "active",
            UnitState::Inactive => "inactive",
            UnitState::Failed => "failed",
        }
    }
}

impl Condition {
    /// As the agent is asked for it.
    pub fn asked(&self) -> Asked {
        match self.clone() {
            Condition::File { path } => Asked::File { path, state: FileState::Present },
            Condition::FileGone { path } => Asked::File { path, state: FileState::Gone },
            Condition::FileContains { path, text } => Asked::File { path, state: FileState::Contains(text) },
            Condition::Unit { name, state } => Asked::Unit { name, state: state.as_str().into() },
            Condition::Port { port, address } => Asked::Port { port, address },
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.asked().fmt(formatter)
    }
}
