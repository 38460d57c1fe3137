//! The plan's shape: a lane with everything resolved that can be resolved without doing anything.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::model::Lane;
use crate::lane::units::{Size, Span};

pub const PLAN_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub version: u32,
    /// The lane with overrides and the control applied.
    pub lane: Lane,
    /// `sha256:<hex>` of the lane's canonical JSON.
    pub lane_digest: String,
    /// The planted bug that this run carries.
    pub control: Option<String>,
    pub images: BTreeMap<String, PlannedImage>,
    pub accelerator: PlannedAccelerator,
    /// Deadline of the whole run, scaled.
    pub deadline: Span,
    /// Each step's deadline, scaled, in the order of `lane.steps`; a hold's is its own length plus a margin.
    pub step_deadlines: Vec<Span>,
    /// Disk that the run takes at most, images that have to be built included.
    pub disk_peak: Size,
    /// Guest memory in all.
    pub memory_peak: Size,
    /// Which libvirt the machines run under that are libvirt's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_uri: Option<String>,
    #[serde(default, skip_serializing_if = "BackendMode::is_real")]
    pub backend_mode: BackendMode,
}

/// Whether a run starts anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendMode {
    #[default]
    Real,
    /// What would be started is written into the proof.
    Record,
    /// Nothing may be started.
    Disabled,
}

impl BackendMode {
    pub fn is_real(&self) -> bool {
        *self == BackendMode::Real
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedImage {
    pub source: ImageSource,
    /// `sha256:<hex>` of the recipe alone: what was asked.
    pub recipe_digest: String,
    /// `sha256:<hex>` of recipe and resolved versions, from the image lock or from what was built here before.
    pub digest: Option<String>,
    pub lock: LockState,
    /// Whether the built image is in the work root already.
    pub present: bool,
    /// Disk that building it takes at most.
    pub build_disk: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    Tiny,
    Debian,
    Nix,
    Disk,
    Iso,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LockState {
    /// The versions are the image lock's.
    Locked,
    /// Built here from newer versions than the lock's.
    Drifted,
    /// The lock knows nothing of this recipe.
    Unlocked,
    /// The image needs no lock: it is a file with a digest.
    NotNeeded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorRequest {
    Auto,
    Kvm,
    Tcg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedAccelerator {
    pub requested: AcceleratorRequest,
    /// `None`: unproven, the run has to probe first.
    pub mode: Option<Accelerator>,
    /// Deadlines are multiplied by this; holds are not.
    pub deadline_factor: f64,
}
