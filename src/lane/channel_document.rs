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
}

impl Short for ChannelName {
    const EXPECTED: &'static str = "`agent`, `backdoor` or a table";
}

/// Exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["backdoor"] }, { "required": ["serial"] }]))]
pub struct ChannelDocument {
    /// The root shell that images for tests of NixOS' put on hvc0.
    #[serde(default)]
    pub backdoor: Option<Spanned<BackdoorDocument>>,
    /// A login on a serial port or a virtio console.
    #[serde(default)]
    pub serial: Option<Spanned<LoginDocument>>,
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
