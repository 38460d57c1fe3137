//! The report's content, apart from how it is written down: Markdown, HTML and the terminal show the same document.

use super::describe;
use super::result::{FailureKind, FailureResult, RunResult};
use super::story::{Story, TimelineEntry, TimelineRow};
use super::text;
use crate::event::{Answering, Evidence, MarkerStanding, Outcome, Verdict};

pub struct Document {
    pub title: String,
    pub verdict: Verdict,
    pub summary: Option<String>,
    pub facts: Vec<(&'static str, Cell)>,
    pub sections: Vec<Section>,
    pub footer: String,
}

pub struct Section {
    pub title: &'static str,
    pub blocks: Vec<Block>,
}

pub enum Block {
    Facts(Vec<(&'static str, Cell)>),
    Table {
        header: Vec<&'static str>,
        rows: Vec<Vec<Cell>>,
    },
    /// Lines of a file, with the file's name.
    Excerpt {
        file: String,
        lines: Vec<String>,
    },
    Text(String),
}

/// One entry. What a guest or a lane wrote may stand in every one of them.
pub enum Cell {
    Text(String),
    /// Something literal: a name, a command, a line.
    Code(String),
    Outcome(Outcome),
    Verdict(Verdict),
    Empty,
}

impl Cell {
    fn code(text: &Option<String>) -> Self {
        text.as_ref().map_or(Cell::Empty, |text| Cell::Code(text.clone()))
    }

    fn duration(milliseconds: Option<u64>) -> Self {
        milliseconds.map_or(Cell::Empty, |milliseconds| Cell::Text(text::duration(milliseconds)))
    }
}

impl Document {
    pub fn of(story: &Story) -> Self {
        let result = &story.result;
        let lane = result.lane.as_deref().unwrap_or("unknown lane");
        let title = match &result.control {
            Some(control) => format!("{lane}, control {}", control.name),
            None => lane.to_owned(),
        };
        let sections = [
            failure(story),
            findings(result),
            gates(result),
            steps(result),
            timeline(story),
            between_markers(result),
            deployer(result),
            faults(result),
            networks(result),
            machines(result),
            images(result),
            warnings(result),
            artifacts(result),
        ];
        Self {
            title,
            verdict: result.verdict,
            summary: result.summary.clone().filter(|summary| !summary.is_empty()),
            facts: facts(result),
            sections: sections.into_iter().flatten().collect(),
            footer: format!(
                "Written by bootproof {} from this run's log alone. `bootproof proof verify` tells whether its files are \
                 those that were sealed, `bootproof proof replay` whether they give this report again. Unsigned digests \
                 detect damage, not forgery.",
                result.tool_version.as_deref().unwrap_or("(version unknown)")
            ),
        }
    }
}

fn facts(result: &RunResult) -> Vec<(&'static str, Cell)> {
    let mut facts = vec![
        ("Verdict", Cell::Verdict(result.verdict)),
        ("Why", Cell::Text(result.reason.clone())),
        ("Exit code", Cell::Text(result.exit_code.to_string())),
        ("Duration", Cell::Text(text::duration(result.duration_ms))),
    ];
    let mut add = |label, cell| facts.push((label, cell));
    if let Some(started) = &result.started_at {
        add("Started", Cell::Text(started.clone()));
    }
    if !result.publishable {
        let machines = result.boots_unseen.join(", ");
        add(
            "Publishable",
            Cell::Text(format!("no: the run has not seen these boot, they began from a checkpoint: {machines}")),
        );
    }
    if let Some(score) = result.score {
        let minimum = result.minimum_score.map(|minimum| format!(", at least {minimum}%")).unwrap_or_default();
        add("Score", Cell::Text(format!("{}% ({} of {}{minimum})", score.percent, score.earned, score.possible)));
    }
    if let Some(control) = &result.control {
        add("Control", Cell::Code(control.name.clone()));
        add("Must fail at", Cell::code(&control.fails_at));
    }
    if let Some(profile) = &result.profile {
        add("Profile", Cell::Code(profile.clone()));
    }
    if let Some(accelerator) = &result.accelerator {
        let detail = if accelerator.detail.is_empty() { String::new() } else { format!(": {}", accelerator.detail) };
        let told = format!(
            "{} ({}){detail}; deadlines times {}",
            accelerator.mode, accelerator.proven_by, accelerator.deadline_factor
        );
        add("Accelerator", Cell::Text(told));
    }
    if let Some(resources) = &result.resources {
        let waited = match resources.waited_ms {
            0 => String::new(),
            waited => format!(", after waiting for {}", text::duration(waited)),
        };
        let (memory, disk) = (text::bytes(resources.memory), text::bytes(resources.disk));
        let processors = text::count(resources.processors, "processor");
        add("Reserved", Cell::Text(format!("{memory} of memory, {processors}, {disk} of disk{waited}")));
        if let (Some(memory), Some(disk)) = (resources.memory_peak, resources.disk_peak) {
            let told = format!("at most {} of memory, {} of disk", text::bytes(memory), text::bytes(disk));
            add("Used", Cell::Text(told));
        }
    }
    if let Some(run) = &result.run {
        add("Run", Cell::Code(run.clone()));
    }
    if let Some(digest) = &result.plan_digest {
        add("Plan", Cell::Code(digest.clone()));
    }
    facts
}

/// Where the evidence lies.
pub fn place(evidence: &Evidence) -> String {
    let end = evidence.offset.saturating_add(evidence.length);
    format!("{}, bytes {} to {end}", evidence.file, evidence.offset)
}

/// What is told of a failure, in the order in which it is asked for.
pub fn failure_facts(failure: &FailureResult) -> Vec<(&'static str, Cell)> {
    let mut facts = Vec::new();
    let mut add = |label, value: Option<Cell>| facts.extend(value.map(|value| (label, value)));
    add("Gate", failure.gate.clone().map(Cell::Code));
    add("Step", failure.step.clone().map(Cell::Code));
    add("Machine", failure.machine.clone().map(Cell::Code));
    add("Expected", failure.expected.clone().map(Cell::Code));
    add("Last marker", failure.last_marker.clone().map(Cell::Code));
    add("Waited", failure.waited_ms.map(|waited| Cell::Text(text::duration(waited))));
    add("Evidence", failure.evidence.as_ref().map(|evidence| Cell::Code(place(evidence))));
    facts
}

pub fn failure_kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Infrastructure => "infrastructure",
        FailureKind::Budget => "budget",
        FailureKind::Interrupted => "interrupted",
        FailureKind::Failed => "failed",
    }
}

fn failure(story: &Story) -> Option<Section> {
    let failure = story.result.failure.as_ref()?;
    let mut facts = vec![("What", Cell::Text(failure.message.clone()))];
    facts.extend(failure_facts(failure));
    let mut blocks = vec![Block::Facts(facts)];
    if let Some(excerpt) = &story.excerpt {
        blocks.push(Block::Excerpt { file: excerpt.file.clone(), lines: excerpt.lines.clone() });
    }
    let others: Vec<Vec<Cell>> = story
        .result
        .failures
        .iter()
        .filter(|other| other.message != failure.message)
        .map(|other| {
            vec![
                Cell::Text(text::since_start(other.at_ms.saturating_mul(1_000_000))),
                Cell::Text(failure_kind(other.kind).into()),
                Cell::code(&other.step),
                Cell::Text(other.message.clone()),
            ]
        })
        .collect();
    if !others.is_empty() {
        blocks.push(Block::Text("What else went wrong:".into()));
        blocks.push(Block::Table { header: vec!["Time", "Kind", "Step", "What"], rows: others });
        if story.result.failures_omitted > 0 {
            blocks.push(Block::Text(format!("{} more are in the log.", story.result.failures_omitted)));
        }
    }
    let title =
        if story.result.verdict == Verdict::Reproduced { "How the planted bug showed" } else { "What went wrong" };
    Some(Section { title, blocks })
}

fn table(title: &'static str, header: Vec<&'static str>, rows: Vec<Vec<Cell>>) -> Option<Section> {
    (!rows.is_empty()).then(|| Section { title, blocks: vec![Block::Table { header, rows }] })
}

fn findings(result: &RunResult) -> Option<Section> {
    let rows = result.findings.iter().map(|finding| {
        vec![
            Cell::Code(finding.check.clone()),
            Cell::Text(if finding.blocking { "in the way" } else { "to know" }.into()),
            Cell::Text(finding.message.clone()),
            Cell::code(&finding.remedy),
        ]
    });
    table("Preflight", vec!["Check", "Kind", "Finding", "Remedy"], rows.collect())
}

fn gates(result: &RunResult) -> Option<Section> {
    let rows = result.gates.iter().map(|gate| {
        vec![
            Cell::Code(gate.name.clone()),
            Cell::Outcome(gate.outcome),
            Cell::Text(if gate.hard { "hard".into() } else { format!("weight {}", gate.weight) }),
            Cell::code(&gate.step),
            Cell::duration(gate.duration_ms),
            gate.reason.clone().map_or(Cell::Empty, Cell::Text),
        ]
    });
    table("Gates", vec!["Gate", "Outcome", "Kind", "Step", "Took", "Reason"], rows.collect())
}

fn steps(result: &RunResult) -> Option<Section> {
    let rows = result.steps.iter().map(|step| {
        vec![
            Cell::Code(step.name.clone()),
            Cell::Outcome(step.outcome),
            Cell::Text(step.action.clone()),
            Cell::Text(step.on.join(", ")),
            Cell::duration(step.duration_ms),
            Cell::duration(step.deadline_ms),
        ]
    });
    table("Steps", vec!["Step", "Outcome", "Does", "On", "Took", "Within"], rows.collect())
}

fn timeline(story: &Story) -> Option<Section> {
    let rows = story.timeline.iter().map(|TimelineRow { at_ms, machine, epoch, what, step }| {
        let what = match what {
            TimelineEntry::Marker { text, standing: MarkerStanding::Counted } => Cell::Code(text.clone()),
            TimelineEntry::Marker { text, standing } => {
                Cell::Text(format!("{}, does not count: {text}", describe::standing(*standing)))
            }
            TimelineEntry::FailurePattern { pattern, line } => Cell::Text(format!("failure pattern {pattern}: {line}")),
            TimelineEntry::EpochBegan { origin } => Cell::Text(format!("epoch begins: {origin}")),
            TimelineEntry::Off { why } => Cell::Text(format!("off: {why}")),
            TimelineEntry::FaultBegan { name, description } => {
                Cell::Text(format!("fault {name} begins: {description}"))
            }
            TimelineEntry::FaultEnded { name, how } => Cell::Text(format!("fault {name} {how}")),
            TimelineEntry::Omitted { markers } => {
                Cell::Text(format!("{} not shown: see events.jsonl", text::count(*markers, "more marker")))
            }
        };
        vec![
            Cell::Text(text::since_start(at_ms.saturating_mul(1_000_000))),
            Cell::Text(machine.clone()),
            epoch.map_or(Cell::Empty, |epoch| Cell::Text(epoch.to_string())),
            what,
            Cell::code(step),
        ]
    });
    table("Timeline", vec!["Time", "Machine", "Epoch", "Marker", "Step"], rows.collect())
}

/// Machine by machine, as the timeline is not.
fn between_markers(result: &RunResult) -> Option<Section> {
    let rows = result.machines.iter().flat_map(|(name, machine)| {
        let counted = machine.markers.iter().filter(|marker| marker.standing == MarkerStanding::Counted);
        counted.map(|marker| {
            vec![
                Cell::Code(name.clone()),
                Cell::Text(marker.epoch.to_string()),
                Cell::Code(marker.marker.clone()),
                Cell::duration(marker.since_previous_ms),
                Cell::duration(marker.since_epoch_ms),
            ]
        })
    });
    let header = vec!["Machine", "Epoch", "Marker", "Since the one before", "Since the epoch began"];
    let mut section = table("Between markers", header, rows.collect())?;
    let omitted = result.machines.values().map(|machine| machine.markers_omitted).fold(0, u64::saturating_add);
    if omitted > 0 {
        section
            .blocks
            .push(Block::Text(format!("{} not shown: see events.jsonl", text::count(omitted, "more marker"))));
    }
    Some(section)
}

fn deployer(result: &RunResult) -> Option<Section> {
    let deployer = result.deployer.as_ref()?;
    let row = |who: Cell, answering: &Answering| {
        vec![
            who,
            Cell::Text(answering.requests.to_string()),
            Cell::Text(text::microseconds(answering.answering_us)),
            Cell::Text(text::microseconds(answering.longest_us)),
            Cell::Text(text::microseconds(answering.waiting_us)),
        ]
    };
    let mut rows: Vec<_> =
        deployer.nodes.iter().map(|(node, answering)| row(Cell::Code(node.clone()), answering)).collect();
    if deployer.others.requests > 0 {
        rows.push(row(Cell::Text("nobody known".into()), &deployer.others));
    }
    rows.push(row(Cell::Text("all".into()), &deployer.all));
    let header = vec!["Node", "Requests", "Answering", "Longest", "Waiting, as asked"];
    let told = format!(
        "{} of nodes reached the log within {} each.",
        text::count(deployer.telling.changes, "change"),
        text::microseconds(deployer.telling.longest_us)
    );
    let explained = "From a request's head to its answer's: a bundle that is streamed is not part of it. Requests that \
                     ask for it are held back until something changes; that is told apart.";
    let blocks = vec![Block::Table { header, rows }, Block::Text(explained.into()), Block::Text(told)];
    Some(Section { title: "The deployer's part", blocks })
}

fn faults(result: &RunResult) -> Option<Section> {
    let rows = result.faults.iter().map(|fault| {
        let lasted = fault.ended_ms.map(|ended| ended.saturating_sub(fault.began_ms));
        vec![
            Cell::Code(fault.name.clone()),
            Cell::Text(fault.description.clone()),
            Cell::Text(fault.targets.join(", ")),
            Cell::Text(text::since_start(fault.began_ms.saturating_mul(1_000_000))),
            Cell::duration(lasted),
            Cell::Text(fault.cause.map_or("not told", describe::fault_end).into()),
            Cell::Text(describe::effects_text(&fault.effects)),
        ]
    });
    let mut section =
        table("Faults", vec!["Fault", "What", "Where", "Began", "Lasted", "End", "Effects"], rows.collect())?;
    if result.faults_omitted > 0 {
        section.blocks.push(Block::Text(format!("{} more are in the log.", result.faults_omitted)));
    }
    Some(section)
}

fn networks(result: &RunResult) -> Option<Section> {
    let rows = result.networks.iter().flat_map(|(name, network)| {
        network.ports.iter().map(|(port, traffic)| {
            vec![
                Cell::Code(name.clone()),
                Cell::Text(network.subnet.clone()),
                Cell::Code(port.clone()),
                Cell::Text(traffic.received.to_string()),
                Cell::Text(traffic.sent.to_string()),
                Cell::Text(traffic.dropped.to_string()),
                Cell::Text(traffic.invalid.to_string()),
            ]
        })
    });
    let header = vec!["Network", "Subnet", "Port", "Frames from it", "Frames to it", "Dropped", "Invalid"];
    table("Networks", header, rows.collect())
}

fn machines(result: &RunResult) -> Option<Section> {
    let rows = result.machines.iter().map(|(name, machine)| {
        let epochs = machine.epochs.len() as u64 + machine.epochs_omitted;
        let state = match (&machine.stopped, machine.kept) {
            (_, true) => "kept running".to_owned(),
            (Some(stop), false) => describe::stop_cause(stop.cause).to_owned(),
            (None, false) => String::new(),
        };
        vec![
            Cell::Code(name.clone()),
            Cell::Text(epochs.to_string()),
            Cell::Text(format!(
                "{}, {} duplicate, {} damaged",
                machine.markers_counted, machine.markers_duplicate, machine.markers_damaged
            )),
            Cell::code(&machine.last_marker),
            Cell::Text(state),
        ]
    });
    table("Machines", vec!["Machine", "Epochs", "Markers", "Last marker", "At the end"], rows.collect())
}

fn images(result: &RunResult) -> Option<Section> {
    let rows = result.images.iter().map(|(name, image)| {
        vec![
            Cell::Code(name.clone()),
            Cell::Text(image.source.clone()),
            Cell::Text(image.lock.clone()),
            Cell::Text(if image.built {
                format!("now, in {}", text::duration(image.duration_ms))
            } else {
                "before".into()
            }),
            Cell::Code(image.digest.clone()),
        ]
    });
    table("Images", vec!["Image", "Source", "Lock", "Built", "Digest"], rows.collect())
}

fn warnings(result: &RunResult) -> Option<Section> {
    let rows = result.warnings.iter().map(|warning| {
        vec![
            Cell::Text(text::since_start(warning.at_ms.saturating_mul(1_000_000))),
            Cell::Text(warning.machine.clone().unwrap_or_default()),
            Cell::Text(warning.text.clone()),
        ]
    });
    let mut section = table("Warnings", vec!["Time", "Machine", "Warning"], rows.collect())?;
    if result.warnings_omitted > 0 {
        section.blocks.push(Block::Text(format!("{} more are in the log.", result.warnings_omitted)));
    }
    Some(section)
}

fn artifacts(result: &RunResult) -> Option<Section> {
    let rows = result.artifacts.iter().map(|artifact| {
        vec![
            Cell::Code(artifact.file.clone()),
            Cell::Text(text::bytes(artifact.bytes)),
            Cell::Code(artifact.sha256.clone()),
        ]
    });
    table("Artifacts", vec!["File", "Size", "SHA-256"], rows.collect())
}
