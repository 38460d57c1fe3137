//! Machines that begin as forks of a checkpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::units::Span;

/// How a machine begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Power on.
    #[default]
    Boot,
    /// As a fork of its image's checkpoint, which is made first where there is none.
    Checkpoint,
    /// The same, or by booting where no checkpoint can be had: an event says so.
    CheckpointOrBoot,
}

impl Start {
    pub fn is_boot(&self) -> bool {
        *self == Start::Boot
    }
}

/// When a machine of the image is ready to be saved, and what its forks need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Markers that it has to emit, in this order; that its agent answers is enough where there are none.
    pub markers: Vec<String>,
    /// Bound on all of them together, before scaling.
    pub within: Span,
    /// Units of systemd's that draw randomness of their own: restarted in each fork.
    pub restart: Vec<String>,
    /// Forks give their kernel new randomness. Without it they all draw the same: a planted bug.
    pub reseed: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self { markers: Vec::new(), within: Span::from_secs(120), restart: Vec::new(), reseed: true }
    }
}
