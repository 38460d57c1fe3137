//! Networks and faults as they are written in a lane file.

use schemars::JsonSchema;
use serde::Deserialize;

use super::document::Terse;
use super::model::{DiskOperations, PowerFault, ProcessSignal};
use super::reader::Spanned;
use super::units::{Share, Shift, Size, Span};

/// A layer-2 network between machines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchedNetworkDocument {
    /// Like `10.20.0.0/24`; one of its own for each network when left out. The host has the first address, machines count
    /// from the eleventh, in the order of their names.
    #[serde(default)]
    pub subnet: Option<Spanned<String>>,
    /// Record all frames into `artifacts/networks/<name>.pcapng`; `true` when left out.
    #[serde(default)]
    pub capture: Option<bool>,
    /// Bound on what is recorded, `64MiB` when left out.
    #[serde(default)]
    pub capture_limit: Option<Spanned<Size>>,
    /// Hand out the machines' addresses, for guests that neither the agent nor their image configures.
    #[serde(default)]
    pub dhcp: bool,
    /// Answer for the machines' names, at the host's address.
    #[serde(default)]
    pub dns: bool,
    /// With `dhcp`: the URL that machines which boot from the network are told, with iPXE's settings in it. The script of a
    /// deployer in this network, where it serves something to boot, when left out.
    #[serde(default)]
    pub boot_file: Option<Spanned<String>>,
    /// What it is where machines are libvirt's, which cannot plug them into bootproof's own switch: a network of libvirt's
    /// (`network:default`), a bridge of the host's (`bridge:br0`), or `user`, where machines reach what the host reaches and
    /// not each other. Such a lane cannot run under libvirt when left out.
    #[serde(default)]
    pub libvirt: Option<Spanned<String>>,
}

/// A machine's place in a network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachmentDocument {
    /// An address in the subnet; the next free one when left out.
    #[serde(default)]
    pub address: Option<Spanned<String>>,
}

/// A disturbance: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    { "required": ["link"] }, { "required": ["disk"] }, { "required": ["full"] }, { "required": ["power"] },
    { "required": ["pause"] }, { "required": ["process"] }, { "required": ["clock"] }, { "required": ["memory"] }
]))]
pub struct FaultDocument {
    /// What passes between machines on one of the lane's networks.
    #[serde(default)]
    pub link: Option<Spanned<LinkDocument>>,
    /// A disk of the step's machines.
    #[serde(default)]
    pub disk: Option<Spanned<DiskFaultDocument>>,
    /// A folder in the guest: all free room of its file system is taken and held.
    #[serde(default)]
    pub full: Option<Spanned<String>>,
    /// The power of the step's machines; healed by switching on what is off.
    #[serde(default)]
    pub power: Option<Spanned<PowerFault>>,
    /// `true`: the step's machines stand still.
    #[serde(default)]
    pub pause: Option<Spanned<bool>>,
    /// Processes by the name of their program. A string is a name to be killed.
    #[serde(default)]
    pub process: Option<Spanned<Terse<String, ProcessFaultDocument>>>,
    /// How far the guest's clock jumps: `+1h`, `-90s`.
    #[serde(default)]
    pub clock: Option<Spanned<Shift>>,
    /// So much of the guest's memory is taken and held.
    #[serde(default)]
    pub memory: Option<Spanned<Size>>,
}

/// What is wrong with the links from some machines to others: one effect or more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkDocument {
    /// May be left out where the lane has one network.
    #[serde(default)]
    pub network: Option<Spanned<String>>,
    /// Machines; `host` is the host's own place in the network.
    pub from: Spanned<Vec<Spanned<String>>>,
    /// All other machines of the network when left out.
    #[serde(default)]
    pub to: Option<Spanned<Vec<Spanned<String>>>>,
    /// Only what goes from `from` to `to`; both ways when left out.
    #[serde(default)]
    pub one_way: bool,
    /// Nothing passes.
    #[serde(default)]
    pub partition: bool,
    /// The share of frames that are lost.
    #[serde(default)]
    pub loss: Option<Spanned<Share>>,
    /// How much later frames arrive.
    #[serde(default)]
    pub delay: Option<Spanned<Span>>,
    /// By how much the delay varies, less or more.
    #[serde(default)]
    pub jitter: Option<Spanned<Span>>,
    /// The share of frames that arrive twice.
    #[serde(default)]
    pub duplicate: Option<Spanned<Share>>,
    /// The share of frames that later ones overtake.
    #[serde(default)]
    pub reorder: Option<Spanned<Share>>,
    /// Bytes per second.
    #[serde(default)]
    pub rate: Option<Spanned<Size>>,
    /// The share of frames that arrive with bits flipped.
    #[serde(default)]
    pub corrupt: Option<Spanned<Share>>,
}

/// What is wrong with a disk: exactly one effect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["errors"] }, { "required": ["slow"] }]))]
pub struct DiskFaultDocument {
    /// One of the machine's `disks`; `root`, the image's own, can only be `slow`.
    pub name: Spanned<String>,
    /// Which requests fail with an I/O error.
    #[serde(default)]
    pub errors: Option<Spanned<DiskOperations>>,
    /// Bytes per second, reads and writes each.
    #[serde(default)]
    pub slow: Option<Spanned<Size>>,
}

/// What happens to processes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessFaultDocument {
    /// The program's name without its folder.
    pub name: Spanned<String>,
    /// `kill` when left out.
    #[serde(default)]
    pub signal: ProcessSignal,
}

/// Faults that are drawn from a seed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDocument {
    /// The same seed gives the same schedule.
    pub seed: Spanned<u64>,
    /// How long faults are begun and healed for.
    pub duration: Spanned<Span>,
    /// The mean time between the beginnings of two faults.
    pub every: Spanned<Span>,
    /// The shortest time that a fault lasts; half of `every` when left out.
    #[serde(default)]
    pub shortest: Option<Spanned<Span>>,
    /// The longest time that a fault lasts; `every` when left out.
    #[serde(default)]
    pub longest: Option<Spanned<Span>>,
    /// So many faults at the same time at most, 1 when left out.
    #[serde(default)]
    pub overlap: Option<Spanned<u32>>,
    pub faults: Spanned<Vec<Spanned<ScheduledFaultDocument>>>,
}

/// A fault that a schedule may draw.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduledFaultDocument {
    /// Unique within the schedule; made from the fault when left out.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// The machines of which it hits one each time; every machine when left out. Links name their ends themselves.
    #[serde(default)]
    pub on: Option<Spanned<Vec<Spanned<String>>>>,
    pub fault: Spanned<FaultDocument>,
}
