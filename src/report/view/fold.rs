//! One event at a time.

use super::facts::*;
use super::trouble::{Trouble, TroubleKind};
use crate::event::{Event, Evidence, Failure, Kind, MarkerStanding, Outcome, Severity, StepSummary, StopCause};
use crate::report::describe::{describe, marker_text};
use crate::report::text::shorten;

/// Longest text that the view keeps of what a guest printed, in characters.
const LONGEST_TEXT: usize = 400;

/// What events of machines are filed under when they name none.
const NO_MACHINE: &str = "(no machine)";

impl View {
    /// Folds a whole log.
    pub fn of<'event>(events: impl IntoIterator<Item = &'event Event>) -> Self {
        let mut view = Self::default();
        for event in events {
            view.apply(event);
        }
        view
    }

    /// Takes one more event into account. Total: no event, whatever came before it, makes this fail.
    pub fn apply(&mut self, event: &Event) {
        if self.closed.is_some() {
            self.events_after_closing = self.events_after_closing.saturating_add(1);
        }
        self.events = self.events.saturating_add(1);
        self.first_wall.get_or_insert_with(|| event.wall.clone());
        self.last_wall = Some(event.wall.clone());
        self.elapsed_ns = self.elapsed_ns.max(event.monotonic_ns);
        self.fold(event);
        self.warn(event);
    }

    fn fold(&mut self, event: &Event) {
        let at_ns = event.monotonic_ns;
        match &event.event {
            Kind::RunStarted {
                log_version,
                run,
                lane,
                profile,
                summary,
                control,
                control_fails_at,
                plan_digest,
                tool_version,
                minimum_score,
            } => {
                self.run.get_or_insert_with(|| RunFacts {
                    log_version: *log_version,
                    run: run.clone(),
                    lane: lane.clone(),
                    profile: profile.clone(),
                    summary: summary.clone(),
                    control: control.clone(),
                    control_fails_at: control_fails_at.clone(),
                    plan_digest: plan_digest.clone(),
                    tool_version: tool_version.clone(),
                    minimum_score: *minimum_score,
                });
            }
            Kind::StepsPlanned { steps } => {
                self.steps_planned = true;
                for step in steps {
                    self.plan_step(step);
                }
            }
            Kind::PreflightFinished { findings } => self.preflight.get_or_insert_default().extend_from_slice(findings),
            Kind::AcceleratorChosen { mode, proven_by, detail, deadline_factor } => {
                self.accelerator = Some(AcceleratorFacts {
                    mode: mode.clone(),
                    proven_by: proven_by.clone(),
                    detail: detail.clone(),
                    deadline_factor: *deadline_factor,
                });
            }
            Kind::ImageReady { image, source, digest, lock, built, duration_ms } => {
                self.images.insert(
                    image.clone(),
                    ImageFacts {
                        source: source.clone(),
                        digest: digest.clone(),
                        lock: lock.clone(),
                        built: *built,
                        duration_ms: *duration_ms,
                    },
                );
            }
            Kind::MachineStarted { pid, firmware, command_line_file } => {
                let machine = self.machine(event);
                machine.pid = Some(*pid);
                machine.firmware = Some(firmware.clone());
                machine.command_line_file = Some(command_line_file.clone());
                machine.stopped = None;
            }
            Kind::EpochBegan { origin } => {
                let machine = self.machine(event);
                machine.forked |= origin.starts_with("checkpoint:");
                machine.epoch = event.epoch.unwrap_or(machine.epoch.saturating_add(1));
                machine.epochs.push(EpochView { number: machine.epoch, origin: origin.clone(), at_ns });
                machine.channel = None;
            }
            Kind::ChannelReady { agent_version, boot_id } => {
                self.machine(event).channel = Some(ChannelView {
                    agent_version: shorten(agent_version, LONGEST_TEXT),
                    boot_id: shorten(boot_id, LONGEST_TEXT),
                });
            }
            Kind::ChannelLost { reason: _ } => {
                let machine = self.machine(event);
                machine.channel = None;
                machine.channel_losses = machine.channel_losses.saturating_add(1);
            }
            Kind::ForwardOpened { guest_port, host_port } => {
                self.machine(event).forwards.insert(*guest_port, *host_port);
            }
            Kind::MarkerSeen { name, node, arguments, marker_sequence: _, standing, evidence } => {
                let text = shorten(&marker_text(name, node.as_deref(), arguments), LONGEST_TEXT);
                self.see_marker(event, text, *standing, evidence);
            }
            Kind::FailurePatternSeen { pattern, line, evidence } => {
                let machine = self.machine(event);
                machine.patterns.push(PatternView {
                    at_ns,
                    epoch: event.epoch.unwrap_or(machine.epoch),
                    pattern: pattern.clone(),
                    line: shorten(line, LONGEST_TEXT),
                    evidence: evidence.clone(),
                });
            }
            Kind::ConsoleCapped { limit } => {
                self.machine(event).console_capped = Some(*limit);
                self.plain_trouble(event, TroubleKind::Budget);
            }
            Kind::MachineStopped { cause, detail } => {
                self.machine(event).stopped = Some(StopView { cause: *cause, detail: detail.clone(), at_ns });
                match cause {
                    StopCause::Died => self.plain_trouble(event, TroubleKind::Infrastructure),
                    StopCause::GuestShutdown | StopCause::Requested | StopCause::RunEnded => {}
                }
            }
            Kind::StepStarted { index, name, action, on, deadline_ms } => {
                let step = self.step(*index, name);
                step.action = action.clone();
                step.on = on.clone();
                step.deadline_ms = Some(*deadline_ms);
                step.started_ns = Some(at_ns);
            }
            Kind::ExpectationMet { index, expectation, wanted, after_ms, evidence } => {
                let step = self.step(*index, "");
                step.expectations_met.push(ExpectationView {
                    machine: event.machine.clone(),
                    expectation: *expectation,
                    wanted: shorten(wanted, LONGEST_TEXT),
                    after_ms: *after_ms,
                });
                let name = step.name.clone();
                // The marker that met it is one of the newest: look from there.
                let timeline = &mut self.machine(event).timeline;
                if let Some(marker) = timeline.iter_mut().rev().find(|marker| marker.evidence == *evidence) {
                    marker.step = Some(name);
                }
            }
            Kind::CommandFinished { index, argv, status, duration_ms, stdout, stderr } => {
                let step = self.step(*index, "");
                step.commands.push(CommandView {
                    machine: event.machine.clone(),
                    argv: argv.clone(),
                    status: *status,
                    duration_ms: *duration_ms,
                    stdout: stdout.clone(),
                    stderr: stderr.clone(),
                });
            }
            Kind::StepFinished { index, name, outcome, failure, duration_ms } => {
                self.finish_step(event, *index, name, *outcome, failure.as_ref(), *duration_ms);
            }
            Kind::GateDecided { gate, hard, weight, outcome, reason } => {
                self.decide_gate(event, gate, *hard, *weight, *outcome, reason.as_deref());
            }
            Kind::ArtifactSaved { file, bytes, sha256 } => {
                self.artifacts.push(ArtifactFacts { file: file.clone(), bytes: *bytes, sha256: sha256.clone() });
            }
            Kind::NetworkOpened { network, subnet, host } => {
                let view = self.networks.entry(network.clone()).or_default();
                view.subnet = subnet.clone();
                view.host = host.clone();
            }
            Kind::NetworkClosed { network, ports } => {
                self.networks.entry(network.clone()).or_default().ports = ports.clone();
            }
            Kind::DeployerEnded { nodes, others, telling } => {
                let view = self.deployer.get_or_insert_default();
                for (node, answering) in nodes {
                    view.nodes.entry(node.clone()).or_default().add(answering);
                }
                view.others.add(others);
                view.telling.add(telling);
            }
            Kind::FaultBegan { fault, description, targets, lasts: _ } => self.faults.push(FaultView {
                name: fault.clone(),
                description: description.clone(),
                targets: targets.clone(),
                began_ns: at_ns,
                ended: None,
            }),
            Kind::FaultEnded { fault, cause, duration_ms: _, effects } => {
                let open = self.faults.iter_mut().rev().find(|view| view.name == *fault && view.ended.is_none());
                match open {
                    Some(view) => {
                        view.ended = Some(FaultEndView { cause: *cause, at_ns, effects: effects.clone() });
                    }
                    None => self.faults_ended_unseen = self.faults_ended_unseen.saturating_add(1),
                }
            }
            Kind::StepsEnded {} => self.steps_ended = true,
            Kind::RunHeld { index, name: _, reason } => {
                self.holds = self.holds.saturating_add(1);
                self.held = Some(HoldView { step: *index, reason: reason.clone(), at_ns });
            }
            Kind::RunReleased { how: _, held_ms: _ } => self.held = None,
            Kind::Interrupted { signal } => {
                self.interruptions.push(Interruption { at_ns, signal: signal.clone() });
                self.plain_trouble(event, TroubleKind::Interrupted);
            }
            Kind::DeadlinePassed { deadline_ms: _ } => self.plain_trouble(event, TroubleKind::Failed),
            Kind::AdmissionWaiting { reasons: _, runs: _ } => {}
            Kind::Admitted { memory, processors, disk, waited_ms } => {
                let (memory, processors, disk) = (*memory, *processors, *disk);
                let reserved = ResourcesFacts { memory, processors, disk, waited_ms: *waited_ms, peak: None };
                self.resources = Some(reserved);
            }
            Kind::ResourcesUsed { memory_peak, disk_peak } => {
                if let Some(resources) = &mut self.resources {
                    resources.peak = Some((*memory_peak, *disk_peak));
                }
            }
            Kind::BudgetCrossed { what: _, limit: _, used: _ } => self.plain_trouble(event, TroubleKind::Budget),
            Kind::InfrastructureFailed { what: _, detail: _ } => {
                self.plain_trouble(event, TroubleKind::Infrastructure);
            }
            Kind::MachineKept { pid, name } => {
                self.machines.entry(name.clone()).or_default().kept = Some(*pid);
            }
            Kind::AwaitEnded { .. }
            | Kind::CheckpointReady { .. }
            | Kind::CheckpointUnavailable { .. }
            | Kind::MachineForked { .. }
            | Kind::CheckpointSaved { .. }
            | Kind::CheckpointRestored { .. }
            | Kind::Note { text: _ } => {}
            Kind::RunClosed { verdict } => {
                self.closed.get_or_insert(Closing { verdict: *verdict, at_ns });
            }
        }
    }

    fn machine(&mut self, event: &Event) -> &mut MachineView {
        self.machines.entry(event.machine.as_deref().unwrap_or(NO_MACHINE).to_owned()).or_default()
    }

    /// The step with this index; one that the log has not planned is decisive, since no gate softens it.
    fn step(&mut self, index: usize, name: &str) -> &mut StepView {
        let step = self.steps.entry(index).or_insert_with(|| StepView { index, decisive: true, ..StepView::default() });
        if step.name.is_empty() {
            step.name = if name.is_empty() { format!("step {index}") } else { name.to_owned() };
        }
        step
    }

    fn plan_step(&mut self, summary: &StepSummary) {
        // A group comes before its members.
        let group = summary.group.filter(|group| *group < summary.index);
        let group_decides = group.and_then(|group| self.steps.get(&group)).is_none_or(|group| group.decisive);
        let step = self.step(summary.index, &summary.name);
        step.group = group;
        step.name = summary.name.clone();
        step.action = summary.action.clone();
        step.gate = summary.gate.clone();
        step.decisive = if summary.gate.is_some() { summary.hard } else { group_decides };
        let Some(name) = &summary.gate else { return };
        match self.gates.iter_mut().find(|gate| gate.name == *name) {
            Some(gate) => {
                gate.hard |= summary.hard;
                gate.step = Some(summary.index);
            }
            None => self.gates.push(GateView {
                name: name.clone(),
                step: Some(summary.index),
                hard: summary.hard,
                weight: summary.weight,
                outcome: Outcome::NotRun,
                reason: None,
                decided: false,
            }),
        }
    }

    fn see_marker(&mut self, event: &Event, text: String, standing: MarkerStanding, evidence: &Evidence) {
        let machine = self.machine(event);
        let epoch = event.epoch.unwrap_or(machine.epoch);
        let counts = standing == MarkerStanding::Counted;
        let began = machine.epochs.iter().rev().find(|began| counts && began.number == epoch);
        let marker = MarkerView {
            sequence: event.sequence,
            at_ns: event.monotonic_ns,
            epoch,
            text,
            standing,
            step: None,
            previous_ns: machine.last_marker.as_ref().filter(|_| counts).map(|previous| previous.at_ns),
            epoch_began_ns: began.map(|began| began.at_ns),
            evidence: evidence.clone(),
        };
        let count = match standing {
            MarkerStanding::Counted => {
                machine.last_marker = Some(marker.clone());
                &mut machine.markers_counted
            }
            MarkerStanding::Duplicate => &mut machine.markers_duplicate,
            MarkerStanding::Damaged => &mut machine.markers_damaged,
        };
        *count = count.saturating_add(1);
        machine.timeline.push(marker);
    }

    fn finish_step(
        &mut self,
        event: &Event,
        index: usize,
        name: &str,
        outcome: Outcome,
        failure: Option<&Failure>,
        duration_ms: u64,
    ) {
        let step = self.step(index, name);
        step.duration_ms = Some(duration_ms);
        // A step that has failed stays failed, whatever is said about it later.
        if step.outcome != Some(Outcome::Failed) {
            step.outcome = Some(outcome);
            step.failure = failure.cloned();
        }
        let (gate, decisive, name) = (step.gate.clone(), step.decisive, step.name.clone());
        match outcome {
            Outcome::Failed => {}
            Outcome::Passed | Outcome::Skipped | Outcome::NotRun => return,
        }
        let kind = failure.map_or(TroubleKind::Failed, |failure| TroubleKind::of(failure.reason));
        self.trouble(Trouble {
            kind,
            sequence: event.sequence,
            at_ns: event.monotonic_ns,
            // Only the product's failures can be softened by a weighted gate.
            decisive: decisive || kind != TroubleKind::Failed,
            message: failure.map_or_else(|| format!("step `{name}` failed"), |failure| failure.message.clone()),
            machine: failure.and_then(|failure| failure.machine.clone()).or_else(|| event.machine.clone()),
            step: Some(index),
            gate,
            failure: failure.cloned(),
        });
    }

    fn decide_gate(
        &mut self,
        event: &Event,
        name: &str,
        hard: bool,
        weight: u32,
        outcome: Outcome,
        reason: Option<&str>,
    ) {
        let at = match self.gates.iter().position(|gate| gate.name == name) {
            Some(at) => at,
            None => {
                self.gates.push(GateView {
                    name: name.to_owned(),
                    step: None,
                    hard,
                    weight,
                    outcome: Outcome::NotRun,
                    reason: None,
                    decided: false,
                });
                self.gates.len() - 1
            }
        };
        let gate = &mut self.gates[at];
        gate.hard |= hard;
        gate.decided = true;
        if gate.outcome != Outcome::Failed {
            gate.outcome = outcome;
            gate.reason = reason.map(str::to_owned);
        }
        let (step, hard) = (gate.step, gate.hard);
        match outcome {
            Outcome::Failed => {}
            Outcome::Passed | Outcome::Skipped | Outcome::NotRun => return,
        }
        // Its step has usually told the story already; a gate may also be decided without a step that failed.
        if self.troubles.iter().any(|trouble| trouble.gate.as_deref() == Some(name)) {
            return;
        }
        self.trouble(Trouble {
            kind: TroubleKind::Failed,
            sequence: event.sequence,
            at_ns: event.monotonic_ns,
            decisive: hard,
            message: reason.map_or_else(|| format!("gate `{name}` failed"), str::to_owned),
            machine: event.machine.clone(),
            step,
            gate: Some(name.to_owned()),
            failure: None,
        });
    }

    /// A trouble that the event itself tells in full.
    fn plain_trouble(&mut self, event: &Event, kind: TroubleKind) {
        self.trouble(Trouble {
            kind,
            sequence: event.sequence,
            at_ns: event.monotonic_ns,
            decisive: true,
            message: match &event.machine {
                Some(machine) => format!("{machine}: {}", describe(&event.event)),
                None => describe(&event.event),
            },
            machine: event.machine.clone(),
            step: None,
            gate: None,
            failure: None,
        });
    }

    fn trouble(&mut self, trouble: Trouble) {
        if trouble.decisive {
            match self.first_troubles.get_mut(&trouble.kind) {
                // What was merely cancelled makes room for what it was cancelled for.
                Some(first) if first.is_consequence() && !trouble.is_consequence() => *first = trouble.clone(),
                Some(_) => {}
                None => {
                    self.first_troubles.insert(trouble.kind, trouble.clone());
                }
            }
        }
        self.troubles.push(trouble);
    }

    fn warn(&mut self, event: &Event) {
        // What is a trouble is told as one.
        let told = self.troubles.newest().is_some_and(|trouble| trouble.sequence == event.sequence);
        match event.severity {
            Severity::Warning | Severity::Error if !told => self.warnings.push(Notice {
                at_ns: event.monotonic_ns,
                severity: event.severity,
                machine: event.machine.clone(),
                text: shorten(&describe(&event.event), LONGEST_TEXT),
            }),
            Severity::Debug | Severity::Info | Severity::Warning | Severity::Error => {}
        }
    }
}
