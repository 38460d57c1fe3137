//! What is known of a run after some of its events.

use std::collections::BTreeMap;

use super::trouble::{Trouble, TroubleKind};
use super::window::Window;
use crate::event::{
    Answering, Evidence, Failure, FaultEnd, Finding, MarkerStanding, Outcome, PortTraffic, Severity, StopCause,
    Telling, Verdict,
};
use crate::gate::{GateResult, Score, score};

/// What the events so far say about a run. Everything a report tells comes from here and from the files it points to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Events folded.
    pub events: u64,
    /// Wall time of the first event and of the newest, as they stand in the log.
    pub first_wall: Option<String>,
    pub last_wall: Option<String>,
    /// Nanoseconds since the run began, of the newest event.
    pub elapsed_ns: u64,
    pub run: Option<RunFacts>,
    /// What preflight found, once it has finished.
    pub preflight: Option<Vec<Finding>>,
    pub accelerator: Option<AcceleratorFacts>,
    /// What the run has reserved, once it has.
    pub resources: Option<ResourcesFacts>,
    pub images: BTreeMap<String, ImageFacts>,
    pub machines: BTreeMap<String, MachineView>,
    /// The log has said which steps there are.
    pub steps_planned: bool,
    /// No step begins any more.
    pub steps_ended: bool,
    /// By index.
    pub steps: BTreeMap<usize, StepView>,
    /// In the lane's order.
    pub gates: Vec<GateView>,
    /// All that went wrong, in the order of the log.
    pub troubles: Window<Trouble>,
    /// The decisive trouble that came first, of each kind.
    pub first_troubles: BTreeMap<TroubleKind, Trouble>,
    pub artifacts: Vec<ArtifactFacts>,
    /// In the order in which they began.
    pub faults: Window<FaultView, TIMELINE_ENDS>,
    /// Ends of faults whose beginning is not kept, or was never told.
    pub faults_ended_unseen: u64,
    pub networks: BTreeMap<String, NetworkView>,
    /// `None` where no deployer has told of its end.
    pub deployer: Option<DeployerView>,
    /// Events of severity `warning` and `error` that are no trouble by themselves.
    pub warnings: Window<Notice>,
    pub interruptions: Window<Interruption>,
    /// Where it stands still now.
    pub held: Option<HoldView>,
    /// How often it stood still.
    pub holds: u64,
    pub closed: Option<Closing>,
    /// Events after the closing one: there must be none.
    pub events_after_closing: u64,
}

/// Of the host: memory and disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourcesFacts {
    pub memory: u64,
    pub processors: u64,
    pub disk: u64,
    pub waited_ms: u64,
    /// The most that was seen: memory and disk.
    pub peak: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    pub log_version: u32,
    pub run: String,
    pub lane: String,
    pub profile: Option<String>,
    pub summary: String,
    pub control: Option<String>,
    pub control_fails_at: Option<String>,
    pub plan_digest: String,
    pub tool_version: String,
    pub minimum_score: Option<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AcceleratorFacts {
    pub mode: String,
    pub proven_by: String,
    pub detail: String,
    pub deadline_factor: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ImageFacts {
    pub source: String,
    pub digest: String,
    pub lock: String,
    pub built: bool,
    pub duration_ms: u64,
}

/// How many entries of each end of a machine's timeline are kept.
pub const TIMELINE_ENDS: usize = 200;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineView {
    pub pid: Option<u32>,
    pub firmware: Option<String>,
    pub command_line_file: Option<String>,
    /// The newest epoch's number; 0 before the first.
    pub epoch: u32,
    pub epochs: Window<EpochView>,
    /// It began as a fork of a checkpoint: its first boot was seen by whoever made that.
    pub forked: bool,
    /// Marker lines, whether they counted or not.
    pub timeline: Window<MarkerView, TIMELINE_ENDS>,
    pub markers_counted: u64,
    pub markers_duplicate: u64,
    pub markers_damaged: u64,
    /// The last marker that counted.
    pub last_marker: Option<MarkerView>,
    pub patterns: Window<PatternView, 16>,
    pub channel: Option<ChannelView>,
    pub channel_losses: u64,
    /// Guest TCP port -> host port.
    pub forwards: BTreeMap<u16, u16>,
    pub stopped: Option<StopView>,
    /// Left running on purpose, under this process id.
    pub kept: Option<u32>,
    /// The console's cap, where it was reached.
    pub console_capped: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EpochView {
    pub number: u32,
    pub origin: String,
    pub at_ns: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MarkerView {
    pub sequence: u64,
    pub at_ns: u64,
    pub epoch: u32,
    /// `name[.node] [key=value ...]`, cut where it is very long.
    pub text: String,
    pub standing: MarkerStanding,
    /// Name of the step whose expectation this marker met.
    pub step: Option<String>,
    /// When the marker came that counted before it, whatever its epoch; `None` for the machine's first, and for one that
    /// does not count itself.
    pub previous_ns: Option<u64>,
    /// When its epoch began; `None` where the log does not say, and for one that does not count.
    pub epoch_began_ns: Option<u64>,
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PatternView {
    pub at_ns: u64,
    pub epoch: u32,
    pub pattern: String,
    pub line: String,
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChannelView {
    pub agent_version: String,
    pub boot_id: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StopView {
    pub cause: StopCause,
    pub detail: String,
    pub at_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepView {
    pub index: usize,
    pub name: String,
    pub action: String,
    pub gate: Option<String>,
    /// Index of the group that it is a member of.
    pub group: Option<usize>,
    /// Its failure fails the run: it has no gate, or a hard one; without one in a group, the group's decides.
    pub decisive: bool,
    pub on: Vec<String>,
    pub deadline_ms: Option<u64>,
    pub started_ns: Option<u64>,
    pub expectations_met: Window<ExpectationView>,
    pub commands: Window<CommandView, 16>,
    /// `None` while it has not finished.
    pub outcome: Option<Outcome>,
    pub failure: Option<Failure>,
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExpectationView {
    pub machine: Option<String>,
    pub expectation: usize,
    pub wanted: String,
    pub after_ms: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommandView {
    pub machine: Option<String>,
    pub argv: Vec<String>,
    pub status: Option<i32>,
    pub duration_ms: u64,
    pub stdout: Option<Evidence>,
    pub stderr: Option<Evidence>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GateView {
    pub name: String,
    /// Index of its step, where the log has said it.
    pub step: Option<usize>,
    pub hard: bool,
    pub weight: u32,
    /// `not-run` until it is decided. Once failed it stays failed.
    pub outcome: Outcome,
    pub reason: Option<String>,
    pub decided: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactFacts {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FaultView {
    pub name: String,
    pub description: String,
    pub targets: Vec<String>,
    pub began_ns: u64,
    /// `None` while it lasts.
    pub ended: Option<FaultEndView>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FaultEndView {
    pub cause: FaultEnd,
    pub at_ns: u64,
    pub effects: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkView {
    pub subnet: String,
    /// The host's own address.
    pub host: String,
    /// Known once the network is closed.
    pub ports: BTreeMap<String, PortTraffic>,
}

/// What the lane's deployer did, in all its lives together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeployerView {
    pub nodes: BTreeMap<String, Answering>,
    /// What nobody known asked.
    pub others: Answering,
    pub telling: Telling,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub at_ns: u64,
    pub severity: Severity,
    pub machine: Option<String>,
    pub text: String,
}

/// A run that stands still.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldView {
    /// The number of the step before or after which.
    pub step: usize,
    pub reason: String,
    pub at_ns: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Interruption {
    pub at_ns: u64,
    pub signal: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Closing {
    /// The verdict that the run itself wrote down.
    pub verdict: Verdict,
    pub at_ns: u64,
}

impl View {
    /// The weighted score so far; `None` without weighted gates.
    pub fn score(&self) -> Option<Score> {
        score(self.gates.iter().map(|gate| GateResult { hard: gate.hard, weight: gate.weight, outcome: gate.outcome }))
    }

    /// What preflight found that forbids the run to start.
    pub fn blocking(&self) -> impl Iterator<Item = &Finding> {
        self.preflight.iter().flatten().filter(|finding| finding.blocking)
    }

    pub fn gate(&self, name: &str) -> Option<&GateView> {
        self.gates.iter().find(|gate| gate.name == name)
    }

    /// The step that is running, or the last that ran.
    pub fn current_step(&self) -> Option<&StepView> {
        self.steps.values().filter(|step| step.started_ns.is_some()).max_by_key(|step| step.started_ns)
    }
}
