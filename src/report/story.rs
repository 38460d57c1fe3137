//! What there is to tell about a run: its result, one timeline over all machines, and the lines around the failure.

use std::path::Path;

use super::describe;
use super::excerpt::{Excerpt, excerpt};
use super::result::{FaultResult, MachineResult, RunResult};
use super::view::View;
use crate::event::MarkerStanding;

/// Everything that the renderings need; they read nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    pub result: RunResult,
    pub timeline: Vec<TimelineRow>,
    /// Around the decisive failure's evidence.
    pub excerpt: Option<Excerpt>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TimelineRow {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    pub machine: String,
    pub epoch: Option<u32>,
    pub what: TimelineEntry,
    /// Name of the step that waited for it.
    pub step: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TimelineEntry {
    Marker {
        text: String,
        standing: MarkerStanding,
    },
    FailurePattern {
        pattern: String,
        line: String,
    },
    EpochBegan {
        origin: String,
    },
    Off {
        why: String,
    },
    FaultBegan {
        name: String,
        description: String,
    },
    FaultEnded {
        name: String,
        how: String,
    },
    /// So many markers of the machine came here and are not listed.
    Omitted {
        markers: u64,
    },
}

impl Story {
    /// Tells what the view and the files below `root` say.
    pub fn of(view: &View, root: &Path) -> Self {
        let result = RunResult::of(view);
        let evidence = result.failure.as_ref().and_then(|failure| failure.evidence.as_ref());
        let excerpt = evidence.and_then(|evidence| excerpt(root, evidence));
        Self { timeline: timeline(&result), result, excerpt }
    }
}

fn timeline(result: &RunResult) -> Vec<TimelineRow> {
    let mut rows: Vec<TimelineRow> =
        result.machines.iter().flat_map(|(name, machine)| machine_rows(name, machine)).collect();
    rows.extend(result.faults.iter().flat_map(fault_rows));
    // Stable: what a machine did within one millisecond stays in its order.
    rows.sort_by_key(|row| row.at_ms);
    rows
}

fn fault_rows(fault: &FaultResult) -> Vec<TimelineRow> {
    let row = |at_ms, what| TimelineRow { at_ms, machine: fault.targets.join(", "), epoch: None, what, step: None };
    let began = TimelineEntry::FaultBegan { name: fault.name.clone(), description: fault.description.clone() };
    let mut rows = vec![row(fault.began_ms, began)];
    if let (Some(at_ms), Some(cause)) = (fault.ended_ms, fault.cause) {
        let effects = describe::effects_text(&fault.effects);
        let did = if effects.is_empty() { String::new() } else { format!(": {effects}") };
        let how = format!("{}{did}", describe::fault_end(cause));
        rows.push(row(at_ms, TimelineEntry::FaultEnded { name: fault.name.clone(), how }));
    }
    rows
}

fn machine_rows(name: &str, machine: &MachineResult) -> Vec<TimelineRow> {
    let row = |at_ms, epoch, what| TimelineRow { at_ms, machine: name.to_owned(), epoch, what, step: None };
    let mut rows = Vec::new();
    for epoch in &machine.epochs {
        rows.push(row(epoch.at_ms, Some(epoch.epoch), TimelineEntry::EpochBegan { origin: epoch.origin.clone() }));
    }
    for pattern in &machine.failure_patterns {
        let what = TimelineEntry::FailurePattern { pattern: pattern.pattern.clone(), line: pattern.line.clone() };
        rows.push(row(pattern.at_ms, Some(pattern.epoch), what));
    }
    // Where the middle is left out, the kept ones are the two ends, of equal length once anything is left out.
    let gap = if machine.markers_omitted > 0 { Some(machine.markers.len() / 2) } else { None };
    for (at, marker) in machine.markers.iter().enumerate() {
        if gap == Some(at) {
            let before = &machine.markers[at.saturating_sub(1)];
            rows.push(row(before.at_ms, None, TimelineEntry::Omitted { markers: machine.markers_omitted }));
        }
        let what = TimelineEntry::Marker { text: marker.marker.clone(), standing: marker.standing };
        rows.push(TimelineRow { step: marker.step.clone(), ..row(marker.at_ms, Some(marker.epoch), what) });
    }
    if let Some(stop) = &machine.stopped {
        let cause = describe::stop_cause(stop.cause);
        let why = if stop.detail.is_empty() { cause.to_owned() } else { format!("{cause} ({})", stop.detail) };
        rows.push(row(stop.at_ms, None, TimelineEntry::Off { why }));
    }
    rows
}
