//! Ways into a machine, as a lane file has them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::document::{Short, Terse};
use super::model::LoginDevice;
use super::reader::Spanned;
use super::units::Span;

/// A way's name, or a table of what it takes.
pub type ChannelForm = Terse<ChannelName, ChannelDocument>;

/// Ways that need not be told anything.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelName {
    Agent,
    Backdoor,
    Ssh,
    GuestAgent,
}

impl Short for ChannelName {
    const EXPECTED: &'static str = "`agent`, `backdoor`, `ssh`, `guest-agent` or a table";
}

/// Exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    { "required": ["backdoor"] }, { "required": ["serial"] }, { "required": ["ssh"] }, { "required": ["guest-agent"] }
]))]
pub struct ChannelDocument {
    /// The root shell that images for tests of NixOS' put on hvc0.
    #[serde(default)]
    pub backdoor: Option<Spanned<BackdoorDocument>>,
    /// A login on a serial port or a virtio console.
    #[serde(default)]
    pub serial: Option<Spanned<LoginDocument>>,
    /// An SSH server in the guest.
    #[serde(default)]
    pub ssh: Option<Spanned<SshDocument>>,
    /// qemu-guest-agent.
    #[serde(default, rename = "guest-agent")]
    pub guest_agent: Option<Spanned<GuestAgentDocument>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestAgentDocument {
    /// How long it may take to answer for the first time after it is first needed, `2m` when left out; stretched for a slow
    /// accelerator.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackdoorDocument {
    /// Bound on each boot until the shell greets, `2m` when left out; stretched for a slow accelerator.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
}

/// How one logs in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginDocument {
    /// `serial` (ttyS1, a port of its own) when left out; `virtio` is hvc0.
    #[serde(default)]
    pub device: LoginDevice,
    /// `root` when left out.
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    /// A reference to a secret; nobody asks for one when left out.
    #[serde(default)]
    pub password: Option<Spanned<String>>,
    /// In place of user and password: what is typed when something was printed, in this order.
    #[serde(default)]
    pub dialogue: Option<Spanned<Vec<Spanned<DialogueLineDocument>>>>,
    /// How the shell asks for a command: `# ` or `$ ` at the end of what was printed when left out.
    #[serde(default)]
    pub prompts: Option<Spanned<Vec<Spanned<String>>>>,
    /// What is printed where the login is refused; what `login` says when left out.
    #[serde(default)]
    pub refusals: Option<Vec<Spanned<String>>>,
    /// Bound on each boot until the shell asks, `2m` when left out; stretched for a slow accelerator.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
}

/// One turn of a login.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DialogueLineDocument {
    /// What is printed.
    pub expect: Spanned<String>,
    /// What is typed then, without the line's end; it may refer to secrets.
    pub send: Spanned<String>,
}

/// Where a guest's SSH server is, and who logs in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshDocument {
    /// `root` when left out. Any other needs a `key`.
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    /// The guest's TCP port, 22 when left out.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// The lane's network in which the host reaches the machine. When left out: the first of the machine's networks, or its
    /// user-mode network, from which the port is forwarded.
    #[serde(default)]
    pub network: Option<Spanned<String>>,
    /// The lane's secret that is the private key, in OpenSSH's format. When left out, one is made for the run, and systemd
    /// in the guest is handed its public half.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    /// The guest's host key, `ssh-ed25519 AAAA...`, or `console`: the one that it prints on its console as cloud-init does.
    /// When left out, one is made for the run, and systemd in the guest is handed it.
    #[serde(default)]
    pub host_key: Option<Spanned<String>>,
    /// How long the guest may take until it lets the user in, from when it is first needed; stretched for a slow
    /// accelerator. `2m` when left out.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
}
