//! Faults: disturbances that a lane causes on purpose, and schedules that compose them from a seed.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::units::{Share, Shift, Size, Span};

/// What is disturbed, and how. A fault lasts until a `heal` step or the end of the run, unless it is over by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// What passes from some machines to others on one of the lane's networks.
    Link {
        network: String,
        /// Machines, or `host`.
        from: Vec<String>,
        to: Vec<String>,
        both_ways: bool,
        effects: LinkEffects,
    },
    /// One disk of each of the step's machines.
    Disk { disk: String, effect: DiskEffect },
    /// All free room of the guest's file system at that path is taken and held.
    Full { path: String },
    /// The power of each of the step's machines; healed by switching on what is off.
    Power { action: PowerFault },
    /// The machine stands still, clocks included; healed by letting it go on.
    Pause {},
    /// Processes in the guest by the name of their program; a stopped one is healed by letting it go on.
    Process { name: String, signal: ProcessSignal },
    /// The guest's clock jumps; healed by setting it to the host's.
    Clock { shift: Shift },
    /// So much of the guest's memory is taken and held.
    Memory { amount: Size },
}

/// Everything that is wrong with a link at the same time. What is absent is in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinkEffects {
    /// Nothing passes.
    pub partition: bool,
    /// The share of frames that are lost.
    pub loss: Option<Share>,
    /// How much later frames arrive.
    pub delay: Option<Span>,
    /// By how much the delay varies, less or more.
    pub jitter: Option<Span>,
    /// The share of frames that arrive twice.
    pub duplicate: Option<Share>,
    /// The share of frames that later ones overtake.
    pub reorder: Option<Share>,
    /// Bytes per second.
    pub rate: Option<Size>,
    /// The share of frames that arrive with bits flipped.
    pub corrupt: Option<Share>,
}

/// What is wrong with a disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DiskEffect {
    /// Requests fail with an I/O error.
    Errors { on: DiskOperations },
    /// Bytes per second, reads and writes each.
    Slow { rate: Size },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskOperations {
    Reads,
    Writes,
    #[default]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerFault {
    /// From one instant to the next; a disk with a cache of its own loses what it had not flushed.
    Cut,
    /// The reset line: the machine boots again.
    Reset,
    /// The power button: an orderly shutdown, if the guest cares.
    Shutdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessSignal {
    /// SIGKILL.
    #[default]
    Kill,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Stop,
}

/// Faults one after another, or at the same time, drawn from a seed; all are healed at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The same seed gives the same schedule.
    pub seed: u64,
    /// How long faults are begun and healed for.
    pub duration: Span,
    /// The mean time between the beginnings of two faults.
    pub every: Span,
    /// The shortest and the longest time that a fault lasts.
    pub shortest: Span,
    pub longest: Span,
    /// So many faults at the same time, at most.
    pub overlap: u32,
    pub faults: Vec<ScheduledFault>,
}

/// A fault that a schedule may draw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduledFault {
    pub name: String,
    /// The machines of which it hits one each time; empty for links, which name their ends.
    pub on: Vec<String>,
    pub fault: Fault,
}

impl Fault {
    /// Whether it happens on the step's machines one by one, rather than between machines.
    pub fn is_on_machines(&self) -> bool {
        match self {
            Fault::Link { .. } => false,
            Fault::Disk { .. }
            | Fault::Full { .. }
            | Fault::Power { .. }
            | Fault::Pause {}
            | Fault::Process { .. }
            | Fault::Clock { .. }
            | Fault::Memory { .. } => true,
        }
    }

    /// Whether it is done by the agent in the guest.
    pub fn needs_guest(&self) -> bool {
        match self {
            Fault::Full { .. } | Fault::Process { .. } | Fault::Clock { .. } | Fault::Memory { .. } => true,
            Fault::Link { .. } | Fault::Disk { .. } | Fault::Power { .. } | Fault::Pause {} => false,
        }
    }

    /// Whether something lasts that can be healed.
    pub fn lasts(&self) -> bool {
        match self {
            Fault::Power { action: PowerFault::Reset } => false,
            Fault::Process { signal: ProcessSignal::Kill | ProcessSignal::Terminate, .. } => false,
            Fault::Link { .. }
            | Fault::Disk { .. }
            | Fault::Full { .. }
            | Fault::Power { action: PowerFault::Cut | PowerFault::Shutdown }
            | Fault::Pause {}
            | Fault::Process { signal: ProcessSignal::Stop, .. }
            | Fault::Clock { .. }
            | Fault::Memory { .. } => true,
        }
    }
}

/// In words, without where: `300ms later, give or take 50ms, 10% lost`.
impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Link { network, effects, .. } => write!(formatter, "network {network}: {effects}"),
            Fault::Disk { disk, effect } => write!(formatter, "disk {disk}: {effect}"),
            Fault::Full { path } => write!(formatter, "{path} full"),
            Fault::Power { action: PowerFault::Cut } => formatter.write_str("power cut"),
            Fault::Power { action: PowerFault::Reset } => formatter.write_str("reset"),
            Fault::Power { action: PowerFault::Shutdown } => formatter.write_str("power button"),
            Fault::Pause {} => formatter.write_str("paused"),
            Fault::Process { name, signal: ProcessSignal::Kill } => write!(formatter, "{name} killed"),
            Fault::Process { name, signal: ProcessSignal::Terminate } => write!(formatter, "{name} terminated"),
            Fault::Process { name, signal: ProcessSignal::Stop } => write!(formatter, "{name} stopped"),
            Fault::Clock { shift } => write!(formatter, "clock {shift}"),
            Fault::Memory { amount } => write!(formatter, "{amount} of memory taken"),
        }
    }
}

impl fmt::Display for LinkEffects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, loss, delay, jitter, duplicate, reorder, rate, corrupt } = self;
        let jitter = jitter.map(|jitter| format!(", give or take {jitter}")).unwrap_or_default();
        let parts = [
            partition.then(|| "cut off".to_owned()),
            loss.map(|share| format!("{share} lost")),
            delay.map(|delay| format!("{delay} later{jitter}")),
            duplicate.map(|share| format!("{share} twice")),
            reorder.map(|share| format!("{share} overtaken")),
            rate.map(|rate| format!("at most {rate} a second")),
            corrupt.map(|share| format!("{share} corrupted")),
        ];
        formatter.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for DiskEffect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskEffect::Errors { on: DiskOperations::Reads } => formatter.write_str("reads fail"),
            DiskEffect::Errors { on: DiskOperations::Writes } => formatter.write_str("writes fail"),
            DiskEffect::Errors { on: DiskOperations::All } => formatter.write_str("reads and writes fail"),
            DiskEffect::Slow { rate } => write!(formatter, "at most {rate} a second"),
        }
    }
}
