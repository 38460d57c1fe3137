//! Machines, as the deployer knows them.

use serde::{Deserialize, Serialize};

/// By what a machine is recognised. `node_id` overrides the serial number, and that the MAC addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct Identity {
    /// From the kernel parameter `bootproof.node_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// DMI's `product_serial`, unless it is one of the texts that vendors leave there (`To Be Filled By O.E.M.`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// DMI's `product_uuid`. With the MAC addresses it tells two machines of one identity apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Lower case, colons, sorted; of physical cards only.
    #[serde(default)]
    pub macs: Vec<String>,
}

/// What runs on the machine when it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The live installer.
    Installer,
    /// The system that was installed.
    Installed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    Bios,
    Uefi,
}

/// A disk that the installer sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
pub struct Disk {
    /// Names below `/dev/disk/by-id`, sorted.
    pub by_id: Vec<String>,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default)]
    pub rotational: bool,
    #[serde(default)]
    pub removable: bool,
    /// What is on it, as `wipefs` names it (`gpt`, `ext4`); empty where nothing was found.
    #[serde(default)]
    pub signatures: Vec<String>,
}

/// Where a machine is on its way. It is set by the deployer alone, from the events that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It has phoned home, and nothing says what to do with it.
    Discovered,
    /// It is known what it shall become.
    Claimed,
    Installing,
    /// The installed system has come up.
    Installed,
    /// Its desired system is active and healthy.
    Active,
    /// It said that it cannot go on.
    Failed,
    /// Taken out of service: its credential is dead, and it may be claimed anew.
    Retired,
}

/// What a machine reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "host", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum NodeEvent {
    /// The bundle is there, whole and right. From here on the disk is written.
    BundleDownloaded,
    DiskLayoutComplete,
    /// The system is on the disk and bootable; the machine reboots.
    SystemInstalled,
    /// The installed system has come up for the first time, or again.
    Booted,
    /// A desired system is being activated.
    Activating {
        system: String,
    },
    /// It is active, and its health check passed.
    Active {
        system: String,
    },
    /// Its health check failed; the one before is active again.
    RolledBack {
        /// The rejected one.
        system: String,
        /// The one that is active again; none where there never was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        active: Option<String>,
        reason: String,
    },
    Failed {
        /// What was being done: `disk-layout`.
        during: String,
        reason: String,
    },
}
