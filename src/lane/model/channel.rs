//! The ways into a guest.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::units::Span;

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

/// The way into a machine, with all that it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MachineChannel {
    Agent {},
    Backdoor {
        /// Bound on each boot until its shell greets, before scaling.
        within: Span,
    },
    Serial {
        device: LoginDevice,
        /// What is said to what is printed, in this order.
        dialogue: Vec<DialogueLine>,
        /// With one of these the shell asks for a command.
        prompts: Vec<String>,
        /// What is printed where the dialogue is wrong.
        refusals: Vec<String>,
        /// Bound on each boot until the shell asks, before scaling.
        within: Span,
    },
    Ssh(SshChoice),
    GuestAgent {
        /// Bound on each boot until it answers, before scaling.
        within: Span,
    },
}

/// Where a guest's SSH server is, and who logs in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshChoice {
    pub user: String,
    /// The guest's TCP port.
    pub port: u16,
    /// The lane's network in which the host reaches the machine; its user-mode network, forwarded, when absent.
    pub network: Option<String>,
    /// The secret that is the private key; one that is made for the run and handed in when absent.
    pub key: Option<String>,
    pub host_key: SshHostKey,
    /// How long the guest may take until it lets the user in.
    pub within: Span,
}

/// By what a guest is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SshHostKey {
    /// A key that is made for the run and handed in.
    HandedIn,
    /// This key: `ssh-ed25519 AAAA...`.
    Given { key: String },
    /// The key that the machine prints on its console, as cloud-init does.
    Console,
}

/// Where somebody can log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoginDevice {
    /// ttyS1, a 16550 of its own.
    #[default]
    Serial,
    /// hvc0, virtio: a hundred times faster.
    Virtio,
}

impl LoginDevice {
    /// As the guest names it.
    pub fn name(self) -> &'static str {
        match self {
            LoginDevice::Serial => "ttyS1",
            LoginDevice::Virtio => "hvc0",
        }
    }
}

/// One turn of a login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DialogueLine {
    /// What is printed.
    pub expect: String,
    /// What is typed then; secrets stand in it by name.
    pub send: String,
}

/// What a boot may take until its shell answers, before scaling.
pub const DEFAULT_CHANNEL_BOUND: Span = Span::from_secs(120);

impl Default for MachineChannel {
    fn default() -> Self {
        MachineChannel::Agent {}
    }
}

impl MachineChannel {
    pub fn kind(&self) -> ChannelKind {
        match self {
            MachineChannel::Agent {} => ChannelKind::Agent,
            MachineChannel::Backdoor { .. } => ChannelKind::Backdoor,
            MachineChannel::Serial { .. } => ChannelKind::Serial,
            MachineChannel::Ssh(_) => ChannelKind::Ssh,
            MachineChannel::GuestAgent { .. } => ChannelKind::GuestAgent,
        }
    }

    pub fn is_agent(&self) -> bool {
        self.kind() == ChannelKind::Agent
    }

    /// The guest's device that leads to a shell, where one does.
    pub fn line(&self) -> Option<LoginDevice> {
        match self {
            MachineChannel::Agent {} | MachineChannel::Ssh(_) | MachineChannel::GuestAgent { .. } => None,
            MachineChannel::Backdoor { .. } => Some(LoginDevice::Virtio),
            MachineChannel::Serial { device, .. } => Some(*device),
        }
    }
}
