//! The ways into a guest.

use std::fmt;

/// Which way leads into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelKind {
    /// Our agent, over its virtio-serial port.
    Agent,
    Ssh,
    /// QEMU's own agent, over its virtio-serial port.
    GuestAgent,
    /// The root shell that tests of NixOS' put on hvc0.
    Backdoor,
    /// A login on a serial line or a virtio console.
    Serial,
}

impl ChannelKind {
    pub const ALL: [ChannelKind; 5] =
        [ChannelKind::Agent, ChannelKind::Ssh, ChannelKind::GuestAgent, ChannelKind::Backdoor, ChannelKind::Serial];

    /// As a lane names it.
    pub fn name(self) -> &'static str {
        match self {
            ChannelKind::Agent => "agent",
            ChannelKind::Ssh => "ssh",
            ChannelKind::GuestAgent => "guest-agent",
            ChannelKind::Backdoor => "backdoor",
            ChannelKind::Serial => "serial",
        }
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
