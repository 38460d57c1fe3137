//! One line for each kind of event, for people. What a guest printed stands in it as it came: whoever shows the line
//! makes it harmless for where it is shown.

use std::collections::BTreeMap;

use super::text;
use crate::event::{FaultEnd, Kind, MarkerStanding, Outcome, PortTraffic, Release, StopCause};

/// `name[.node] [key=value ...]`
pub fn marker_text(name: &str, node: Option<&str>, arguments: &BTreeMap<String, String>) -> String {
    let mut line = name.to_owned();
    if let Some(node) = node {
        line.push('.');
        line.push_str(node);
    }
    for (key, value) in arguments {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        line.push_str(value);
    }
    line
}

pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Skipped => "skipped",
        Outcome::NotRun => "not run",
    }
}

pub fn stop_cause(cause: StopCause) -> &'static str {
    match cause {
        StopCause::GuestShutdown => "the guest switched itself off",
        StopCause::Requested => "the lane switched it off",
        StopCause::RunEnded => "switched off at the end of the run",
        StopCause::Died => "QEMU ended by itself",
    }
}

pub fn standing(standing: MarkerStanding) -> &'static str {
    match standing {
        MarkerStanding::Counted => "counted",
        MarkerStanding::Duplicate => "duplicate",
        MarkerStanding::Damaged => "damaged",
    }
}

pub fn fault_end(cause: FaultEnd) -> &'static str {
    match cause {
        FaultEnd::Momentary => "is over",
        FaultEnd::Healed => "is healed",
        FaultEnd::RunEnded => "ends with the run",
        FaultEnd::Failed => "failed",
    }
}

pub fn release(how: Release) -> &'static str {
    match how {
        Release::GoOn => "goes on",
        Release::Retry => "tries the step again",
        Release::Stop => "is stopped",
    }
}

/// `3 frames dropped, 1 frames delayed`
pub fn effects_text(effects: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = effects.iter().map(|(what, count)| format!("{count} {what}")).collect();
    parts.join(", ")
}

/// The event in one line.
pub fn describe(kind: &Kind) -> String {
    match kind {
        Kind::RunStarted { lane, control: Some(control), .. } => format!("lane {lane} with control {control}"),
        Kind::RunStarted { lane, control: None, summary, .. } => format!("lane {lane}: {summary}"),
        Kind::StepsPlanned { steps } => format!("{} planned", text::count(steps.len() as u64, "step")),
        Kind::PreflightFinished { findings } => {
            match findings.iter().filter(|finding| finding.blocking).count() as u64 {
                0 => "preflight: nothing is missing".into(),
                blocking => format!("preflight: {} in the way", text::count(blocking, "finding")),
            }
        }
        Kind::AcceleratorChosen { mode, proven_by, detail, deadline_factor: _ } => {
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            format!("accelerator {mode} ({proven_by}){detail}")
        }
        Kind::ImageReady { image, source, built: true, duration_ms, .. } => {
            format!("image {image} built from {source} in {}", text::duration(*duration_ms))
        }
        Kind::ImageReady { image, source, built: false, .. } => format!("image {image} ready ({source})"),
        Kind::MachineStarted { pid, firmware, command_line_file: _ } => {
            format!("started with {firmware}, process {pid}")
        }
        Kind::CheckpointReady { image, made_now: true, duration_ms, .. } => {
            format!("checkpoint of {image} made in {}", text::duration(*duration_ms))
        }
        Kind::CheckpointReady { image, made, .. } => format!("checkpoint of {image} ready (made {made})"),
        Kind::CheckpointUnavailable { reason } => format!("it boots, since there is no checkpoint: {reason}"),
        Kind::MachineForked { made, machine_id, .. } => {
            format!("forked from the checkpoint of {made}, machine id {machine_id}")
        }
        Kind::CheckpointSaved { name, machines, bytes, frames_dropped, paused_ms } => {
            let frames = match frames_dropped {
                0 => String::new(),
                count => format!("; {} between them not saved", text::count(*count, "frame")),
            };
            let (machines, bytes) = (machines.join(", "), text::bytes(*bytes));
            format!("checkpoint {name} of {machines} saved, {bytes}, paused for {}{frames}", text::duration(*paused_ms))
        }
        Kind::CheckpointRestored { name, machines, duration_ms } => {
            format!("{} back at checkpoint {name} after {}", machines.join(", "), text::duration(*duration_ms))
        }
        Kind::EpochBegan { origin } => format!("new epoch: {origin}"),
        Kind::ChannelReady { agent_version, boot_id: _ } => format!("the agent answers (version {agent_version})"),
        Kind::ChannelLost { reason } => format!("the channel to the agent is lost: {reason}"),
        Kind::ForwardOpened { guest_port, host_port } => format!("guest port {guest_port} is 127.0.0.1:{host_port}"),
        Kind::MarkerSeen { name, node, arguments, marker_sequence: _, standing: how, evidence: _ } => {
            let marker = marker_text(name, node.as_deref(), arguments);
            match how {
                MarkerStanding::Counted => format!("marker {marker}"),
                MarkerStanding::Duplicate | MarkerStanding::Damaged => format!("marker {marker} ({})", standing(*how)),
            }
        }
        Kind::FailurePatternSeen { pattern, line, evidence: _ } => format!("failure pattern {pattern}: {line}"),
        Kind::ConsoleCapped { limit } => {
            format!("the console reached its cap of {}: what follows is not recorded", text::bytes(*limit))
        }
        Kind::MachineStopped { cause, detail } if detail.is_empty() => format!("off: {}", stop_cause(*cause)),
        Kind::MachineStopped { cause, detail } => format!("off: {} ({detail})", stop_cause(*cause)),
        Kind::StepStarted { index: _, name, action, on, deadline_ms } => {
            let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(", ")) };
            format!("step {name}: {action}{on}, within {}", text::duration(*deadline_ms))
        }
        Kind::ExpectationMet { wanted, after_ms, .. } => format!("{wanted} after {}", text::duration(*after_ms)),
        Kind::CommandFinished { argv, status, duration_ms, .. } => {
            let status = status.map_or_else(|| "no exit status".into(), |status| format!("exit status {status}"));
            format!("{}: {status} after {}", argv.join(" "), text::duration(*duration_ms))
        }
        Kind::AwaitEnded { condition, held, last_seen, told_by, duration_ms, index: _, notified: _, looks: _ } => {
            let how = if *held { "held" } else { "did not come" };
            format!("{condition}: {how} after {} ({last_seen}; {told_by})", text::duration(*duration_ms))
        }
        Kind::StepFinished { name, outcome: how, failure, duration_ms, index: _ } => {
            let why = failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
            format!("step {name} {} after {}{why}", outcome(*how), text::duration(*duration_ms))
        }
        Kind::GateDecided { gate, outcome: how, reason, hard: _, weight: _ } => {
            let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("gate {gate} {}{why}", outcome(*how))
        }
        Kind::ArtifactSaved { file, bytes, sha256: _ } => format!("saved {file} ({})", text::bytes(*bytes)),
        Kind::NetworkOpened { network, subnet, host } => {
            format!("network {network} is up: {subnet}, the host is {host}")
        }
        Kind::NetworkClosed { network, ports } => {
            let sum = |count: fn(&PortTraffic) -> u64| ports.values().map(count).fold(0, u64::saturating_add);
            let (carried, dropped) = (sum(|port| port.received), sum(|port| port.dropped));
            format!("network {network} is down: {} received, {dropped} dropped", text::count(carried, "frame"))
        }
        Kind::DeployerEnded { nodes, others, telling: _ } => {
            let mut all = *others;
            nodes.values().for_each(|answering| all.add(answering));
            let requests = text::count(all.requests, "request");
            format!("the deployer is down: {requests} answered in {} altogether", text::microseconds(all.answering_us))
        }
        Kind::FaultBegan { fault, description, targets, lasts: _ } => {
            let on = if targets.is_empty() { String::new() } else { format!(" on {}", targets.join(", ")) };
            format!("fault {fault} begins: {description}{on}")
        }
        Kind::FaultEnded { fault, cause, duration_ms, effects } => {
            let effects = effects_text(effects);
            let did = if effects.is_empty() { String::new() } else { format!(": {effects}") };
            format!("fault {fault} {} after {}{did}", fault_end(*cause), text::duration(*duration_ms))
        }
        Kind::StepsEnded {} => "the steps are over".into(),
        Kind::RunHeld { index: _, name, reason } => format!("held at step {name}: {reason}"),
        Kind::RunReleased { how, held_ms } => {
            format!("{} after {}", release(*how), text::duration(*held_ms))
        }
        Kind::Interrupted { signal } => format!("{signal}: the run stops"),
        Kind::DeadlinePassed { deadline_ms } => {
            format!("the run's own deadline of {} passed", text::duration(*deadline_ms))
        }
        Kind::AdmissionWaiting { reasons, runs } => {
            format!("waiting for other runs: {} (there are {})", reasons.join("; "), runs.join(", "))
        }
        Kind::Admitted { memory, processors, disk, waited_ms } => {
            let waited = match waited_ms {
                0 => String::new(),
                waited => format!(", after waiting for {}", text::duration(*waited)),
            };
            let (memory, disk) = (text::bytes(*memory), text::bytes(*disk));
            let processors = text::count(*processors, "processor");
            format!("reserved {memory} of memory, {processors} and {disk} of disk{waited}")
        }
        Kind::ResourcesUsed { memory_peak, disk_peak } => {
            format!("used {} of memory and {} of disk at most", text::bytes(*memory_peak), text::bytes(*disk_peak))
        }
        Kind::BudgetCrossed { what, limit, used } => {
            format!("{what}: {} of {} would be crossed", text::bytes(*used), text::bytes(*limit))
        }
        Kind::InfrastructureFailed { what, detail } if detail.is_empty() => what.clone(),
        Kind::InfrastructureFailed { what, detail } => format!("{what}: {detail}"),
        Kind::MachineKept { pid, name } => format!("{name} is kept running, process {pid}"),
        Kind::Note { text } => text.clone(),
        Kind::RunClosed { verdict } => format!("run closed: {}", verdict.as_str()),
    }
}
