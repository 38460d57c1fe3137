//! How a run that goes on stands: the same fold as every report's, looked at before its end.

use serde::Serialize;

use super::text::{duration, one_line};
use super::view::{MachineView, StepView, View};
use crate::event::Outcome;
use crate::lane::model::{Action, Expected, Lane, Step};
use crate::plan::action_text;

/// A run under way. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    pub run: String,
    pub lane: String,
    pub control: Option<String>,
    pub state: State,
    /// RFC 3339.
    pub began: Option<String>,
    pub elapsed_ms: u64,
    /// Where it stands still, and why.
    pub held: Option<String>,
    /// The step that goes on; the innermost where they are in groups.
    pub step: Option<StepStanding>,
    pub steps_done: usize,
    pub steps: usize,
    /// What has failed so far, decisive or not.
    pub failed: Vec<String>,
    pub machines: Vec<MachineStanding>,
    pub waiting_for: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Before the first machine: accelerator, preflight, images.
    Preparing,
    Running,
    /// It stands still for somebody to look.
    Held,
    /// The steps are over; machines end, reports are written.
    Ending,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepStanding {
    /// From 1, as the lane counts them.
    pub number: usize,
    pub name: String,
    pub what: String,
    pub on: Vec<String>,
    pub elapsed_ms: u64,
    pub deadline_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineStanding {
    pub machine: String,
    pub up: bool,
    /// How often it has booted; 0 before the first.
    pub epoch: u32,
    pub last_marker: Option<String>,
    /// How long ago that came.
    pub last_marker_ms: Option<u64>,
}

impl Standing {
    /// `lane`: as the run keeps it, for what its steps wait for; `now_ns`: since the run began.
    pub fn of(view: &View, lane: Option<&Lane>, now_ns: u64) -> Self {
        let run = view.run.as_ref();
        let is_going_on = |step: &&StepView| step.started_ns.is_some() && step.outcome.is_none();
        // A group begins before its members, and has the lower number.
        let current = view.steps.values().rfind(is_going_on);
        let ended = view.closed.is_some() || (view.steps_ended && current.is_none());
        let state = match (ended, view.machines.is_empty() && current.is_none()) {
            (true, _) => State::Ending,
            (false, _) if view.held.is_some() => State::Held,
            (false, true) => State::Preparing,
            (false, false) => State::Running,
        };
        let held = view.held.as_ref().map(|held| {
            let step = view.steps.get(&held.step).map_or("", |step| step.name.as_str());
            format!("at step {step}: {}", held.reason)
        });
        let since = |at_ns: u64| now_ns.saturating_sub(at_ns) / 1_000_000;
        let step = current.map(|step| {
            let known = lane.and_then(|lane| step_at(&lane.steps, step.index));
            StepStanding {
                number: step.index + 1,
                name: step.name.clone(),
                what: known.map_or_else(|| step.action.clone(), |known| action_text(&known.action)),
                on: step.on.clone(),
                elapsed_ms: since(step.started_ns.unwrap_or(now_ns)),
                deadline_ms: step.deadline_ms,
            }
        });
        let waiting = view.steps.values().filter(is_going_on);
        let waiting_for = waiting.flat_map(|step| expected_next(step, lane)).collect();
        Self {
            run: run.map(|run| run.run.clone()).unwrap_or_default(),
            lane: run.map(|run| run.lane.clone()).unwrap_or_default(),
            control: run.and_then(|run| run.control.clone()),
            state,
            began: view.first_wall.clone(),
            elapsed_ms: now_ns / 1_000_000,
            held,
            step,
            steps_done: view.steps.values().filter(|step| step.outcome.is_some()).count(),
            steps: view.steps.len(),
            failed: view
                .steps
                .values()
                .filter(|step| step.outcome == Some(Outcome::Failed))
                .map(|step| {
                    let why = step.failure.as_ref().map(|failure| format!(": {}", failure.message));
                    format!("{}{}", step.name, why.unwrap_or_default())
                })
                .collect(),
            machines: view.machines.iter().map(|(name, machine)| machine_standing(name, machine, since)).collect(),
            waiting_for,
        }
    }

    /// A few lines for people.
    pub fn text(&self) -> String {
        let control = self.control.as_ref().map(|control| format!(", control {control}")).unwrap_or_default();
        let state = match self.state {
            State::Preparing => "prepares",
            State::Running => "goes on",
            State::Held => "is held",
            State::Ending => "ends",
        };
        let mut lines =
            vec![format!("{}  {}{control}  {state}, for {} now", self.run, self.lane, duration(self.elapsed_ms))];
        lines.extend(self.held.iter().map(|held| format!("  held       {held}")));
        if let Some(step) = &self.step {
            let on = if step.on.is_empty() { String::new() } else { format!(" on {}", step.on.join(", ")) };
            let most = step.deadline_ms.map(|most| format!(" of at most {}", duration(most))).unwrap_or_default();
            let (number, steps, name, what) = (step.number, self.steps, &step.name, &step.what);
            let took = duration(step.elapsed_ms);
            lines.push(format!("  step {number} of {steps}  {name}: {what}{on}, for {took}{most}"));
        }
        lines.extend(self.waiting_for.iter().map(|what| format!("  waits for  {what}")));
        lines.extend(self.failed.iter().map(|what| format!("  failed     {what}")));
        for machine in &self.machines {
            let marker = match (&machine.last_marker, machine.last_marker_ms) {
                (Some(marker), Some(ago)) => format!("last marker {marker}, {} ago", duration(ago)),
                _ => "no marker yet".into(),
            };
            let up = if machine.up { "up" } else { "off" };
            lines.push(format!("  {}  {up}, boot {}, {marker}", machine.machine, machine.epoch));
        }
        lines.iter().map(|line| format!("{}\n", one_line(line))).collect()
    }
}

fn machine_standing(name: &str, machine: &MachineView, since: impl Fn(u64) -> u64) -> MachineStanding {
    MachineStanding {
        machine: name.into(),
        up: machine.epoch > 0 && machine.stopped.is_none(),
        epoch: machine.epoch,
        last_marker: machine.last_marker.as_ref().map(|marker| marker.text.clone()),
        last_marker_ms: machine.last_marker.as_ref().map(|marker| since(marker.at_ns)),
    }
}

/// The step of that number: depth first, a group before its members, as events count them.
fn step_at(steps: &[Step], index: usize) -> Option<&Step> {
    fn find<'a>(steps: &'a [Step], index: usize, next: &mut usize) -> Option<&'a Step> {
        for step in steps {
            let own = *next;
            *next += 1;
            if own == index {
                return Some(step);
            }
            if let Action::Parallel { steps } = &step.action
                && let Some(found) = find(steps, index, next)
            {
                return Some(found);
            }
        }
        None
    }
    find(steps, index, &mut 0)
}

/// What each machine of the step has to show next.
fn expected_next(step: &StepView, lane: Option<&Lane>) -> Vec<String> {
    let Some(Action::Expect { expectations, .. }) =
        lane.and_then(|lane| step_at(&lane.steps, step.index)).map(|step| &step.action)
    else {
        return Vec::new();
    };
    let next = |machine: &String| {
        let of_machine = step.expectations_met.iter().filter(|met| met.machine.as_ref() == Some(machine));
        let met = of_machine.map(|met| met.expectation + 1).max().unwrap_or(0);
        let what = match &expectations.get(met)?.what {
            Expected::Marker { name, arguments } => {
                let arguments: String = arguments.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                format!("marker {name}{arguments}")
            }
            Expected::Console { pattern } => format!("line /{pattern}/"),
        };
        Some(format!("{what} of {machine}"))
    };
    step.on.iter().filter_map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::sample;

    #[test]
    fn every_prefix_of_a_log_stands_somewhere_and_time_goes_on_without_events() {
        for (_, events) in sample::all() {
            let mut view = View::default();
            for event in &events {
                view.apply(event);
                let standing = Standing::of(&view, None, view.elapsed_ns + 5_000_000);
                assert!(standing.elapsed_ms >= 5);
                assert!(!standing.text().is_empty());
            }
            assert_eq!(Standing::of(&view, None, u64::MAX).state, State::Ending);
        }
    }
}
