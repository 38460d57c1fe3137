//! What can happen in a run: the vocabulary of the log. Depends on nothing but plain data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the log's format; stands in the first event.
pub const LOG_VERSION: u32 = 1;

/// One durable fact of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// From 1, without gaps.
    pub sequence: u64,
    /// RFC 3339 with offset, milliseconds.
    pub wall: String,
    /// Nanoseconds since the run began.
    pub monotonic_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// From 1; absent where there is no machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    pub severity: Severity,
    /// Joins events of one step or one command: `step:3`, `exec:17`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    pub event: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
}

/// A range of a file in the proof root: events point to bytes, they do not carry them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Path relative to the proof root.
    pub file: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// The first event of every log.
    RunStarted {
        log_version: u32,
        run: String,
        lane: String,
        profile: Option<String>,
        summary: String,
        control: Option<String>,
        /// The gate at which the control must fail.
        control_fails_at: Option<String>,
        plan_digest: String,
        tool_version: String,
        minimum_score: Option<u8>,
    },
    /// All gates that the lane has, in order, so that those never reached can be told.
    StepsPlanned {
        steps: Vec<StepSummary>,
    },
    PreflightFinished {
        findings: Vec<Finding>,
    },
    AcceleratorChosen {
        /// `kvm` or `tcg`.
        mode: String,
        /// How it was proven: `probe-guest`, `cached-probe`, `requested`, `no-device`.
        proven_by: String,
        detail: String,
        deadline_factor: f64,
    },
    ImageReady {
        image: String,
        source: String,
        digest: String,
        lock: String,
        built: bool,
        duration_ms: u64,
    },
    /// Machines may begin from this one.
    CheckpointReady {
        image: String,
        /// `sha256:<hex>`.
        digest: String,
        /// RFC 3339: when the boot that it holds happened.
        made: String,
        made_now: bool,
        duration_ms: u64,
    },
    /// The machine boots, because there is no checkpoint for it.
    CheckpointUnavailable {
        reason: String,
    },
    /// The machine began as a fork, and is one of its own now.
    MachineForked {
        checkpoint: String,
        made: String,
        machine_id: String,
        boot_id: String,
        /// SHA-256 of the first randomness that its kernel gave.
        random_sample: String,
    },
    /// The lane saved machines, all at the same moment.
    CheckpointSaved {
        name: String,
        machines: Vec<String>,
        bytes: u64,
        /// Frames that were between machines at that moment: they are in no checkpoint.
        frames_dropped: u64,
        paused_ms: u64,
    },
    /// Machines went back to where they were.
    CheckpointRestored {
        name: String,
        machines: Vec<String>,
        duration_ms: u64,
    },
    MachineStarted {
        pid: u32,
        firmware: String,
        command_line_file: String,
    },
    /// A new boot of the machine began; `origin` says why (`power-on`, `reset`, `reboot`, `checkpoint:<digest>`,
    /// `restore:<name>`).
    EpochBegan {
        origin: String,
    },
    /// The guest's agent answered.
    ChannelReady {
        agent_version: String,
        boot_id: String,
    },
    ChannelLost {
        reason: String,
    },
    ForwardOpened {
        guest_port: u16,
        host_port: u16,
    },
    /// A marker line, whether or not the lane waits for it.
    MarkerSeen {
        name: String,
        node: Option<String>,
        arguments: BTreeMap<String, String>,
        /// The agent's sequence number.
        marker_sequence: Option<u64>,
        standing: MarkerStanding,
        evidence: Evidence,
    },
    FailurePatternSeen {
        pattern: String,
        line: String,
        evidence: Evidence,
    },
    /// The console's cap was reached: what follows is neither recorded nor interpreted.
    ConsoleCapped {
        limit: u64,
    },
    /// The machine went off.
    MachineStopped {
        cause: StopCause,
        detail: String,
    },
    StepStarted {
        index: usize,
        name: String,
        action: String,
        on: Vec<String>,
        deadline_ms: u64,
    },
    ExpectationMet {
        index: usize,
        expectation: usize,
        wanted: String,
        after_ms: u64,
        evidence: Evidence,
    },
    CommandFinished {
        index: usize,
        argv: Vec<String>,
        status: Option<i32>,
        duration_ms: u64,
        stdout: Option<Evidence>,
        stderr: Option<Evidence>,
    },
    /// An `await` on one machine has ended.
    AwaitEnded {
        index: usize,
        condition: String,
        held: bool,
        /// What was there then, as the agent says it.
        last_seen: String,
        /// Something in the guest told of it; it was neither so from the start nor looked for again and again.
        notified: bool,
        told_by: String,
        /// How often the agent looked.
        looks: u64,
        duration_ms: u64,
    },
    StepFinished {
        index: usize,
        name: String,
        outcome: Outcome,
        failure: Option<Failure>,
        duration_ms: u64,
    },
    GateDecided {
        gate: String,
        hard: bool,
        weight: u32,
        outcome: Outcome,
        reason: Option<String>,
    },
    ArtifactSaved {
        file: String,
        bytes: u64,
        sha256: String,
    },
    /// A network is switched from now on.
    NetworkOpened {
        network: String,
        /// `10.20.0.0/24`.
        subnet: String,
        /// The host's own address in it.
        host: String,
    },
    /// A network's end: what every port sent, and what was lost on the way to it for want of room, in frames.
    NetworkClosed {
        network: String,
        ports: BTreeMap<String, PortTraffic>,
    },
    /// The lane's deployer ended, at the end of the run or to be started again: what its own part in this life was.
    DeployerEnded {
        nodes: BTreeMap<String, Answering>,
        /// Requests that came from nobody known.
        others: Answering,
        telling: Telling,
    },
    /// A disturbance begins.
    FaultBegan {
        /// Unique while it lasts: its step's name, with a number where a schedule begins it.
        fault: String,
        /// In words.
        description: String,
        /// Machines, or links (`node01 -> node02`).
        targets: Vec<String>,
        /// There is something that can be healed.
        lasts: bool,
    },
    /// A disturbance is over.
    FaultEnded {
        fault: String,
        cause: FaultEnd,
        duration_ms: u64,
        /// What it did, in numbers: `frames dropped`, `processes`.
        effects: BTreeMap<String, u64>,
    },
    /// No step begins any more; the machines end now, or are kept.
    StepsEnded {},
    /// The run stands still for somebody to look at its machines: before a step, or after one that failed.
    RunHeld {
        /// The step's number.
        index: usize,
        name: String,
        reason: String,
    },
    /// It goes on.
    RunReleased {
        how: Release,
        held_ms: u64,
    },
    /// A signal asked the run to stop.
    Interrupted {
        signal: String,
    },
    /// The run's own deadline passed.
    DeadlinePassed {
        deadline_ms: u64,
    },
    /// The run does not fit beside others, and waits for one of them to end.
    AdmissionWaiting {
        /// What there is too little of.
        reasons: Vec<String>,
        /// The other runs.
        runs: Vec<String>,
    },
    /// The run has reserved what it may take at most.
    Admitted {
        /// Bytes of guest memory.
        memory: u64,
        processors: u64,
        /// Bytes below the work root.
        disk: u64,
        waited_ms: u64,
    },
    /// The most that was seen of what the run took.
    ResourcesUsed {
        /// Bytes, of all its machines' processes.
        memory_peak: u64,
        /// Bytes allocated below the work root.
        disk_peak: u64,
    },
    BudgetCrossed {
        what: String,
        limit: u64,
        used: u64,
    },
    InfrastructureFailed {
        what: String,
        detail: String,
    },
    MachineKept {
        pid: u32,
        name: String,
    },
    Note {
        text: String,
    },
    /// The last event: a log without it is `incomplete`.
    RunClosed {
        verdict: Verdict,
    },
}

/// A step as the plan has it: enough to report on one that never ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSummary {
    pub index: usize,
    pub name: String,
    pub action: String,
    pub gate: Option<String>,
    pub hard: bool,
    pub weight: u32,
    /// Index of the `parallel` step that it is a member of: that decides where the member has no gate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
}

/// Something that preflight has to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// `qemu`, `memory`, `disk`, `work-root`, ...
    pub check: String,
    /// The run must not start.
    pub blocking: bool,
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MarkerStanding {
    /// It counts.
    Counted,
    /// Seen before in this epoch with the same sequence number or, without one, the same text.
    Duplicate,
    /// Its checksum does not fit, or it has none and the lane demands one: it does not count.
    Damaged,
}

/// What went through one port of a network, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortTraffic {
    /// From the machine.
    pub received: u64,
    /// To the machine.
    pub sent: u64,
    /// Not sent to the machine, because it did not read what was waiting already.
    pub dropped: u64,
    /// From the machine, and no frames at all.
    pub invalid: u64,
}

/// What a deployer's answers took: from a request's head to its answer's, so that bodies of requests count and bodies of
/// answers do not. In microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answering {
    pub requests: u64,
    pub answering_us: u64,
    /// The longest of them.
    pub longest_us: u64,
    /// Not part of the above: what requests waited because they asked to, until the change that they waited for.
    pub waiting_us: u64,
}

impl Answering {
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.answering_us = self.answering_us.saturating_add(more.answering_us);
        self.longest_us = self.longest_us.max(more.longest_us);
        self.waiting_us = self.waiting_us.saturating_add(more.waiting_us);
    }
}

/// How long it took from a node's change, once it was durable, until it stood in line for the log. In microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    pub changes: u64,
    pub telling_us: u64,
    pub longest_us: u64,
}

impl Telling {
    pub fn add(&mut self, more: &Self) {
        self.changes = self.changes.saturating_add(more.changes);
        self.telling_us = self.telling_us.saturating_add(more.telling_us);
        self.longest_us = self.longest_us.max(more.longest_us);
    }
}

/// How a run that stood still was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// With what comes next.
    GoOn,
    /// With the failed step once more.
    Retry,
    /// With nothing: it was stopped.
    Stop,
}

/// Why a disturbance is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultEnd {
    /// It was a matter of an instant.
    Momentary,
    /// The lane healed it.
    Healed,
    /// The run ended, and healed what was left.
    RunEnded,
    /// It could not be begun, or not be healed: the step says why.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// The guest switched itself off.
    GuestShutdown,
    /// The lane asked for it.
    Requested,
    /// The run is over and its machines with it.
    RunEnded,
    /// QEMU ended by itself, without a word from the guest.
    Died,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
    NotRun,
}

/// Why a step failed: what the terminal and every report tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub reason: FailureReason,
    /// One line for people.
    pub message: String,
    pub machine: Option<String>,
    /// What was expected next.
    pub expected: Option<String>,
    /// The last marker that counted before.
    pub last_marker: Option<String>,
    pub waited_ms: u64,
    /// Where to look.
    pub evidence: Option<Evidence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    Deadline,
    ForbiddenMarker,
    OutOfOrder,
    FailurePattern,
    /// The machine went off while something was awaited.
    MachineOff,
    /// A new epoch began while something was awaited of the old one.
    UnexpectedReboot,
    ExitStatus,
    OutputMismatch,
    Refused,
    /// QEMU died by itself: infrastructure, not product.
    MachineDied,
    ConsoleCapped,
    Cancelled,
    Harness,
}

/// How a run ended. The order of the variants is not the order of precedence: see `report::verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    Failed,
    Blocked,
    Infrastructure,
    Budget,
    Interrupted,
    /// The log has no closing event.
    Incomplete,
    /// A control failed at its gate, as it must.
    Reproduced,
}

impl Verdict {
    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed | Verdict::Reproduced => 0,
            Verdict::Failed => 1,
            Verdict::Blocked => 3,
            Verdict::Infrastructure | Verdict::Incomplete => 4,
            Verdict::Budget => 5,
            Verdict::Interrupted => 130,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Blocked => "blocked",
            Verdict::Infrastructure => "infrastructure",
            Verdict::Budget => "budget",
            Verdict::Interrupted => "interrupted",
            Verdict::Incomplete => "incomplete",
            Verdict::Reproduced => "reproduced",
        }
    }
}
