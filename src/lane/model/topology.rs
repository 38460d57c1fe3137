//! Networks between machines, and the places of machines in them.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::units::Size;

/// The name by which links and addresses mean the host's own place in a network.
pub const HOST: &str = "host";

/// A layer-2 network between machines, switched by the run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchedNetwork {
    /// The network's own address; the host is its first host, machines count from the eleventh.
    pub subnet: Ipv4Addr,
    /// Bits of the subnet's prefix.
    pub prefix: u8,
    /// Frames are recorded into the proof.
    pub capture: bool,
    /// Bound on what is recorded.
    pub capture_limit: Size,
    /// The host hands out the machines' addresses, for guests that are not configured otherwise.
    pub dhcp: bool,
    /// The host answers for the machines' names.
    pub dns: bool,
    /// The URL that DHCP tells machines that boot from the network, with iPXE's settings (`${netX/mac}`) in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<String>,
    /// What it is where machines are libvirt's, which cannot plug them into our switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<LibvirtNetwork>,
}

/// A network of libvirt's, or of its host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LibvirtNetwork {
    /// Each machine behind a network address translation of its own: it reaches what the host reaches, and no other machine.
    User {},
    /// One that libvirt has, by its name.
    Network { name: String },
    /// A bridge of the host's, by its name.
    Bridge { name: String },
}

/// When a machine's firmware boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkBoot {
    /// Before its disks.
    First,
    /// Where no disk of it boots.
    Last,
}

/// A machine's place in a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub address: Ipv4Addr,
    /// `52:54:00:xx:xx:xx`, made from the names of lane, network and machine.
    pub mac: String,
}

impl SwitchedNetwork {
    /// How many addresses the subnet has, those of the network and the broadcast included.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix.min(32)))
    }

    /// The address with that number, counted from the subnet's own.
    pub fn nth(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet).wrapping_add(number))
    }

    /// The host's place.
    pub fn host(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The address's number, where it is a host's in the subnet.
    pub fn number_of(&self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).checked_sub(u32::from(self.subnet))?;
        (number > 0 && u64::from(number) + 1 < self.size()).then_some(number)
    }
}
