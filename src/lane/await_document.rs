//! What an `await` step waits for, as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::UnitState;
use super::reader::Spanned;

/// Exactly one of `file`, `unit` and `port`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["file"] }, { "required": ["unit"] }, { "required": ["port"] }]))]
pub struct AwaitDocument {
    /// A whole path of the guest's, which has to be there; the folders on the way to it need not be there yet.
    #[serde(default)]
    pub file: Option<Spanned<String>>,
    /// With `file`: it has to be a regular file with this text in it.
    #[serde(default)]
    pub contains: Option<Spanned<String>>,
    /// With `file`, `true`: it must not be there.
    #[serde(default)]
    pub gone: Option<Spanned<bool>>,
    /// A unit of systemd's, with its suffix.
    #[serde(default)]
    pub unit: Option<Spanned<String>>,
    /// With `unit`: `active` when left out. A unit that fails ends the wait at once, unless that is awaited.
    #[serde(default)]
    pub state: Option<Spanned<UnitState>>,
    /// A TCP port on which the guest listens.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// With `port`: where it has to listen, this address or all of them. Any address when left out.
    #[serde(default)]
    pub address: Option<Spanned<String>>,
}
