//! `result.json`: a run's outcome for programs. Versioned; its schema is `schemas/result.schema.json`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verdict;
use super::view::{
    DeployerView, FaultView, MachineView, MarkerView, NetworkView, StepView, Trouble, TroubleKind, View,
};
use crate::event::{
    Answering, Evidence, Failure, FailureReason, FaultEnd, Finding, MarkerStanding, Outcome, PortTraffic, Severity,
    StopCause, Telling, Verdict,
};
use crate::gate::Score;

pub const RESULT_VERSION: u32 = 1;

/// The outcome of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunResult {
    pub version: u32,
    pub verdict: Verdict,
    /// What the process gave back: 0, 1, 3, 4, 5 or 130.
    pub exit_code: u8,
    /// Why the verdict is what it is, in one line.
    pub reason: String,
    /// Whether the proof stands for itself. It does not where a machine began from a checkpoint: the run has not seen it boot.
    #[serde(default)]
    pub publishable: bool,
    /// The machines whose first boot the run has not seen.
    #[serde(default)]
    pub boots_unseen: Vec<String>,
    /// Name of the run, which is that of its proof root's directory; `None` where the log does not say.
    pub run: Option<String>,
    pub lane: Option<String>,
    pub profile: Option<String>,
    pub summary: Option<String>,
    /// The planted bug that the run carried.
    pub control: Option<ControlResult>,
    pub tool_version: Option<String>,
    /// `sha256:<hex>` of the plan.
    pub plan_digest: Option<String>,
    /// RFC 3339 with offset.
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub duration_ms: u64,
    /// Of the weighted gates; `None` where there are none that count.
    pub score: Option<Score>,
    /// Percent, below which the run fails.
    pub minimum_score: Option<u8>,
    pub accelerator: Option<AcceleratorResult>,
    /// What the run has reserved and used of the host; `None` where it was never admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesResult>,
    /// What preflight had to say.
    pub findings: Vec<Finding>,
    pub images: BTreeMap<String, ImageResult>,
    pub gates: Vec<GateResult>,
    pub steps: Vec<StepResult>,
    pub machines: BTreeMap<String, MachineResult>,
    /// What the verdict is put down to; `None` for a run that passed, was blocked or failed by its score alone.
    pub failure: Option<FailureResult>,
    /// Everything that went wrong, in order; the first ones and the last ones where there is very much of it.
    pub failures: Vec<FailureResult>,
    pub failures_omitted: u64,
    pub artifacts: Vec<ArtifactResult>,
    /// What the lane disturbed, in order; the first ones and the last ones where there is very much of it.
    #[serde(default)]
    pub faults: Vec<FaultResult>,
    #[serde(default)]
    pub faults_omitted: u64,
    /// Networks between machines, by name.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkResult>,
    /// The deployer's own part, where the lane has one and it came to its end.
    #[serde(default)]
    pub deployer: Option<DeployerResult>,
    pub warnings: Vec<WarningResult>,
    pub warnings_omitted: u64,
    /// Signals that asked the run to stop.
    pub interruptions: Vec<InterruptionResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlResult {
    pub name: String,
    /// The gate, or the step without one, at which it must fail.
    pub fails_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceleratorResult {
    /// `kvm` or `tcg`.
    pub mode: String,
    pub proven_by: String,
    pub detail: String,
    pub deadline_factor: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageResult {
    pub source: String,
    pub digest: String,
    pub lock: String,
    pub built: bool,
    pub duration_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateResult {
    pub name: String,
    /// Name of the step that it is decided in.
    pub step: Option<String>,
    pub hard: bool,
    pub weight: u32,
    pub outcome: Outcome,
    pub reason: Option<String>,
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepResult {
    pub index: u64,
    pub name: String,
    pub action: String,
    pub on: Vec<String>,
    pub gate: Option<String>,
    pub outcome: Outcome,
    /// Milliseconds since the run began.
    pub started_ms: Option<u64>,
    pub duration_ms: Option<u64>,
    pub deadline_ms: Option<u64>,
    pub commands: Vec<CommandResult>,
    pub failure: Option<Failure>,
}

/// What a run took from its host. Amounts are bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesResult {
    /// Reserved before it began: guest memory.
    pub memory: u64,
    pub processors: u64,
    /// Reserved below the work root.
    pub disk: u64,
    /// How long it waited for other runs to end.
    pub waited_ms: u64,
    /// The most memory that its machines' processes had.
    pub memory_peak: Option<u64>,
    /// The most that was allocated in its own folders.
    pub disk_peak: Option<u64>,
}

/// One disturbance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultResult {
    pub name: String,
    /// In words.
    pub description: String,
    /// Machines, or links (`node01 -> node02`).
    pub targets: Vec<String>,
    /// Milliseconds since the run began.
    pub began_ms: u64,
    /// `None` where the log does not say.
    pub ended_ms: Option<u64>,
    pub cause: Option<FaultEnd>,
    /// What it did, in numbers.
    pub effects: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkResult {
    pub subnet: String,
    pub host: String,
    /// In frames, by machine.
    pub ports: BTreeMap<String, PortTraffic>,
}

/// What the lane's deployer took for itself, and what it made nodes wait because they asked to. In microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployerResult {
    pub nodes: BTreeMap<String, Answering>,
    /// Requests from nobody known: what was refused, and what anybody may ask.
    pub others: Answering,
    /// All of them together.
    pub all: Answering,
    /// From a node's change to its event.
    pub telling: Telling,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandResult {
    pub machine: Option<String>,
    pub argv: Vec<String>,
    pub status: Option<i32>,
    pub duration_ms: u64,
    pub stdout: Option<Evidence>,
    pub stderr: Option<Evidence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineResult {
    pub firmware: Option<String>,
    /// File with QEMU's command line.
    pub command_line_file: Option<String>,
    pub epochs: Vec<EpochResult>,
    pub epochs_omitted: u64,
    pub markers_counted: u64,
    pub markers_duplicate: u64,
    pub markers_damaged: u64,
    /// The last marker that counted.
    pub last_marker: Option<String>,
    /// The first ones and the last ones where there are very many.
    pub markers: Vec<MarkerResult>,
    pub markers_omitted: u64,
    pub failure_patterns: Vec<PatternResult>,
    pub failure_patterns_omitted: u64,
    pub channel_losses: u64,
    pub stopped: Option<StopResult>,
    /// Left running on purpose.
    pub kept: bool,
    /// The console's cap in bytes, where it was reached.
    pub console_capped: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochResult {
    pub epoch: u32,
    pub origin: String,
    /// Milliseconds since the run began.
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkerResult {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    pub epoch: u32,
    /// `name[.node] [key=value ...]`
    pub marker: String,
    pub standing: MarkerStanding,
    /// Name of the step that waited for it.
    pub step: Option<String>,
    /// Since the machine's marker that counted before, be it in an earlier epoch; `None` for the first, and for one that
    /// does not count.
    #[serde(default)]
    pub since_previous_ms: Option<u64>,
    /// Since its epoch began; `None` where the log does not say when, and for one that does not count.
    #[serde(default)]
    pub since_epoch_ms: Option<u64>,
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternResult {
    pub at_ms: u64,
    pub epoch: u32,
    pub pattern: String,
    pub line: String,
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopResult {
    pub cause: StopCause,
    pub detail: String,
    pub at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    Infrastructure,
    Budget,
    Interrupted,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailureResult {
    pub kind: FailureKind,
    /// One line for people.
    pub message: String,
    /// Milliseconds since the run began.
    pub at_ms: u64,
    pub gate: Option<String>,
    pub step: Option<String>,
    pub machine: Option<String>,
    pub reason: Option<FailureReason>,
    /// What was expected next.
    pub expected: Option<String>,
    /// The last marker that counted before.
    pub last_marker: Option<String>,
    pub waited_ms: Option<u64>,
    pub evidence: Option<Evidence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactResult {
    /// Relative to the proof root.
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarningResult {
    pub at_ms: u64,
    pub severity: Severity,
    pub machine: Option<String>,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InterruptionResult {
    pub at_ms: u64,
    pub signal: String,
}

/// The JSON Schema of `result.json`, as it stands in `schemas/result.schema.json`.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(RunResult)
}

impl RunResult {
    /// The run's log is whole, and its proof is not.
    pub fn leave_unfinished(&mut self, reason: &str) {
        self.verdict = Verdict::Incomplete;
        self.exit_code = Verdict::Incomplete.exit_code();
        self.reason = reason.into();
    }

    /// What the view says, in the form that is kept.
    pub fn of(view: &View) -> Self {
        let decision = verdict::verdict(view);
        let run = view.run.as_ref();
        Self {
            version: RESULT_VERSION,
            verdict: decision.verdict,
            exit_code: decision.verdict.exit_code(),
            reason: decision.reason,
            publishable: !view.machines.values().any(|machine| machine.forked),
            boots_unseen: forked(view),
            run: run.map(|run| run.run.clone()),
            lane: run.map(|run| run.lane.clone()),
            profile: run.and_then(|run| run.profile.clone()),
            summary: run.map(|run| run.summary.clone()),
            control: run.and_then(|run| {
                Some(ControlResult { name: run.control.clone()?, fails_at: run.control_fails_at.clone() })
            }),
            tool_version: run.map(|run| run.tool_version.clone()),
            plan_digest: run.map(|run| run.plan_digest.clone()),
            started_at: view.first_wall.clone(),
            finished_at: view.closed.as_ref().and(view.last_wall.clone()),
            duration_ms: milliseconds(view.elapsed_ns),
            score: view.score(),
            minimum_score: run.and_then(|run| run.minimum_score),
            resources: view.resources.map(|resources| ResourcesResult {
                memory: resources.memory,
                processors: resources.processors,
                disk: resources.disk,
                waited_ms: resources.waited_ms,
                memory_peak: resources.peak.map(|(memory, _)| memory),
                disk_peak: resources.peak.map(|(_, disk)| disk),
            }),
            accelerator: view.accelerator.as_ref().map(|accelerator| AcceleratorResult {
                mode: accelerator.mode.clone(),
                proven_by: accelerator.proven_by.clone(),
                detail: accelerator.detail.clone(),
                deadline_factor: accelerator.deadline_factor,
            }),
            findings: view.preflight.clone().unwrap_or_default(),
            images: view
                .images
                .iter()
                .map(|(name, image)| {
                    let image = ImageResult {
                        source: image.source.clone(),
                        digest: image.digest.clone(),
                        lock: image.lock.clone(),
                        built: image.built,
                        duration_ms: image.duration_ms,
                    };
                    (name.clone(), image)
                })
                .collect(),
            gates: gates(view),
            steps: view.steps.values().map(step).collect(),
            machines: view.machines.iter().map(|(name, view)| (name.clone(), machine(view))).collect(),
            failure: told_trouble(view).map(|trouble| failure(view, trouble)),
            failures: view.troubles.iter().map(|trouble| failure(view, trouble)).collect(),
            failures_omitted: view.troubles.omitted(),
            artifacts: view
                .artifacts
                .iter()
                .map(|artifact| ArtifactResult {
                    file: artifact.file.clone(),
                    bytes: artifact.bytes,
                    sha256: artifact.sha256.clone(),
                })
                .collect(),
            faults: view.faults.iter().map(fault).collect(),
            faults_omitted: view.faults.omitted(),
            networks: view
                .networks
                .iter()
                .map(|(name, network)| {
                    let NetworkView { subnet, host, ports } = network.clone();
                    (name.clone(), NetworkResult { subnet, host, ports })
                })
                .collect(),
            deployer: view.deployer.as_ref().map(deployer),
            warnings: view
                .warnings
                .iter()
                .map(|warning| WarningResult {
                    at_ms: milliseconds(warning.at_ns),
                    severity: warning.severity,
                    machine: warning.machine.clone(),
                    text: warning.text.clone(),
                })
                .collect(),
            warnings_omitted: view.warnings.omitted(),
            interruptions: view
                .interruptions
                .iter()
                .map(|interruption| InterruptionResult {
                    at_ms: milliseconds(interruption.at_ns),
                    signal: interruption.signal.clone(),
                })
                .collect(),
        }
    }
}

fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000
}

/// The trouble to tell about: the decisive one, or one of its kind in which a step says more than its first event did
/// (QEMU's death is an event of its own; the step that waited knows for what).
fn told_trouble(view: &View) -> Option<&Trouble> {
    let first = verdict::decisive_trouble(view)?;
    if first.failure.is_some() {
        return Some(first);
    }
    let tells_more = |trouble: &&Trouble| {
        trouble.kind == first.kind
            && trouble.failure.is_some()
            && !trouble.is_consequence()
            && (trouble.machine == first.machine || trouble.gate.is_some() && trouble.gate == first.gate)
    };
    view.troubles.iter().find(tells_more).or(Some(first))
}

fn failure(view: &View, trouble: &Trouble) -> FailureResult {
    let step = trouble.step.and_then(|index| view.steps.get(&index)).or_else(|| interrupted_step(view, trouble));
    // Where the trouble came from outside of a step, the step that it ended knows what was awaited.
    let told = trouble.failure.as_ref().or_else(|| step.and_then(|step| step.failure.as_ref()));
    FailureResult {
        kind: match trouble.kind {
            TroubleKind::Infrastructure => FailureKind::Infrastructure,
            TroubleKind::Budget => FailureKind::Budget,
            TroubleKind::Interrupted => FailureKind::Interrupted,
            TroubleKind::Failed => FailureKind::Failed,
        },
        message: trouble.message.clone(),
        at_ms: milliseconds(trouble.at_ns),
        gate: trouble.gate.clone(),
        step: step.map(|step| step.name.clone()),
        machine: trouble.machine.clone().or_else(|| told.and_then(|failure| failure.machine.clone())),
        reason: told.map(|failure| failure.reason),
        expected: told.and_then(|failure| failure.expected.clone()),
        last_marker: told.and_then(|failure| failure.last_marker.clone()),
        waited_ms: told.map(|failure| failure.waited_ms),
        evidence: told.and_then(|failure| failure.evidence.clone()),
    }
}

/// The step that was running when the trouble came.
fn interrupted_step<'view>(view: &'view View, trouble: &Trouble) -> Option<&'view StepView> {
    view.steps.values().rev().find(|step| {
        let Some(started) = step.started_ns else { return false };
        let ended = step.duration_ms.map(|duration| started.saturating_add(duration.saturating_mul(1_000_000)));
        // A step's own duration is in whole milliseconds, so it may seem to end a little early.
        started <= trouble.at_ns && ended.is_none_or(|ended| trouble.at_ns <= ended.saturating_add(1_000_000))
    })
}

fn gates(view: &View) -> Vec<GateResult> {
    let gates = view.gates.iter().map(|gate| {
        let step = gate.step.and_then(|index| view.steps.get(&index));
        GateResult {
            name: gate.name.clone(),
            step: step.map(|step| step.name.clone()),
            hard: gate.hard,
            weight: gate.weight,
            outcome: gate.outcome,
            reason: gate.reason.clone(),
            duration_ms: step.and_then(|step| step.duration_ms),
        }
    });
    gates.collect()
}

fn fault(fault: &FaultView) -> FaultResult {
    let ended = fault.ended.as_ref();
    FaultResult {
        name: fault.name.clone(),
        description: fault.description.clone(),
        targets: fault.targets.clone(),
        began_ms: milliseconds(fault.began_ns),
        ended_ms: ended.map(|ended| milliseconds(ended.at_ns)),
        cause: ended.map(|ended| ended.cause),
        effects: ended.map(|ended| ended.effects.clone()).unwrap_or_default(),
    }
}

fn deployer(view: &DeployerView) -> DeployerResult {
    let DeployerView { nodes, others, telling } = view.clone();
    let mut all = others;
    nodes.values().for_each(|answering| all.add(answering));
    DeployerResult { nodes, others, all, telling }
}

fn step(step: &StepView) -> StepResult {
    StepResult {
        index: step.index as u64,
        name: step.name.clone(),
        action: step.action.clone(),
        on: step.on.clone(),
        gate: step.gate.clone(),
        outcome: step.outcome.unwrap_or(Outcome::NotRun),
        started_ms: step.started_ns.map(milliseconds),
        duration_ms: step.duration_ms,
        deadline_ms: step.deadline_ms,
        commands: step
            .commands
            .iter()
            .map(|command| CommandResult {
                machine: command.machine.clone(),
                argv: command.argv.clone(),
                status: command.status,
                duration_ms: command.duration_ms,
                stdout: command.stdout.clone(),
                stderr: command.stderr.clone(),
            })
            .collect(),
        failure: step.failure.clone(),
    }
}

fn forked(view: &View) -> Vec<String> {
    view.machines.iter().filter(|(_, machine)| machine.forked).map(|(name, _)| name.clone()).collect()
}

fn machine(machine: &MachineView) -> MachineResult {
    MachineResult {
        firmware: machine.firmware.clone(),
        command_line_file: machine.command_line_file.clone(),
        epochs: machine
            .epochs
            .iter()
            .map(|epoch| EpochResult {
                epoch: epoch.number,
                origin: epoch.origin.clone(),
                at_ms: milliseconds(epoch.at_ns),
            })
            .collect(),
        epochs_omitted: machine.epochs.omitted(),
        markers_counted: machine.markers_counted,
        markers_duplicate: machine.markers_duplicate,
        markers_damaged: machine.markers_damaged,
        last_marker: machine.last_marker.as_ref().map(|marker| marker.text.clone()),
        markers: machine.timeline.iter().map(marker).collect(),
        markers_omitted: machine.timeline.omitted(),
        failure_patterns: machine
            .patterns
            .iter()
            .map(|pattern| PatternResult {
                at_ms: milliseconds(pattern.at_ns),
                epoch: pattern.epoch,
                pattern: pattern.pattern.clone(),
                line: pattern.line.clone(),
                evidence: pattern.evidence.clone(),
            })
            .collect(),
        failure_patterns_omitted: machine.patterns.omitted(),
        channel_losses: machine.channel_losses,
        stopped: machine.stopped.as_ref().map(|stop| StopResult {
            cause: stop.cause,
            detail: stop.detail.clone(),
            at_ms: milliseconds(stop.at_ns),
        }),
        kept: machine.kept.is_some(),
        console_capped: machine.console_capped,
    }
}

fn marker(marker: &MarkerView) -> MarkerResult {
    // From what is told of both, so that the figures add up.
    let since = |earlier| milliseconds(marker.at_ns).saturating_sub(milliseconds(earlier));
    MarkerResult {
        at_ms: milliseconds(marker.at_ns),
        epoch: marker.epoch,
        marker: marker.text.clone(),
        standing: marker.standing,
        step: marker.step.clone(),
        since_previous_ms: marker.previous_ns.map(since),
        since_epoch_ms: marker.epoch_began_ns.map(since),
        evidence: marker.evidence.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::sample;
    use crate::report::testing::snapshot;

    #[test]
    fn the_checked_in_schema_is_the_one_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/result.schema.json");
        let generated = String::from_utf8(crate::report::json::bytes(&schema()).unwrap()).unwrap();
        if std::env::var_os("BOOTPROOF_UPDATE_SCHEMAS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let checked_in = std::fs::read_to_string(path).unwrap();
        assert!(checked_in == generated, "run this test with BOOTPROOF_UPDATE_SCHEMAS=1 and look at the difference");
    }

    #[test]
    fn results_survive_being_written_and_read() {
        for (name, events) in sample::all() {
            let result = RunResult::of(&View::of(&events));
            let bytes = crate::report::json::bytes(&result).unwrap();
            assert_eq!(serde_json::from_slice::<RunResult>(&bytes).unwrap(), result, "{name}");
            if matches!(name, "passed" | "failed_deadline") {
                snapshot(&format!("result_{name}"), std::str::from_utf8(&bytes).unwrap());
            }
        }
    }

    #[test]
    fn the_story_is_the_one_that_tells_most() {
        let story = |events: &[crate::event::Event]| RunResult::of(&View::of(events)).failure.unwrap();
        let died = story(&sample::infrastructure());
        assert_eq!(died.expected.as_deref(), Some("marker boot"));
        assert_eq!(died.evidence.unwrap().file, "machines/node01/qemu.stderr");
        let interrupted = story(&sample::interrupted());
        assert_eq!((interrupted.kind, interrupted.step.as_deref()), (FailureKind::Interrupted, Some("expect")));
        assert_eq!(interrupted.expected.as_deref(), Some("marker boot"));
    }
}
