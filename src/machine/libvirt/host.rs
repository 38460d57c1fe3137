//! What is known of a libvirt that was asked.

use super::mark::Mark;

/// What a libvirt says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Which driver: `QEMU`.
    pub driver: String,
    /// The daemon's version: `9.0.0`.
    pub version: String,
    /// The hypervisor's version as libvirt has it.
    pub hypervisor: String,
    /// What it keeps machines apart with: `dac`, `apparmor`, `selinux`.
    pub security_models: Vec<String>,
    /// Networks of its own that are up; `None` where it does not tell.
    pub networks: Option<Vec<String>>,
}

/// A domain of ours that was nobody's any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub domain: String,
    pub mark: Mark,
}
