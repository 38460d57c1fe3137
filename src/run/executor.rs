//! Drives the machines through the lane's steps, in order.
//!
//! Around each step's work stands the same frame: a deadline, the watch over its machines, and the run's cancellation.
//! What always holds: a step that was started is finished in the log, with a reason where it failed; nothing is waited for
//! that can no longer come.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_ok};
use tokio_util::sync::CancellationToken;

use super::debugging::{Debugging, hold};
use super::steps::{self, RunningMachine, StepContext, StepEnd, StepResult, expect, happens_on_host};
use crate::event::{Evidence, Failure, FailureReason, Kind, Outcome, Release, Severity, StepSummary};
use crate::lane::model::{Action, Step};
use crate::marker::{Wait, WaitProgress};
use crate::plan;

/// The name of an action, as the normalised lane's `kind` has it.
pub fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Expect { .. } => "expect",
        Action::Await { .. } => "await",
        Action::Exec { .. } => "exec",
        Action::Host { .. } => "host",
        Action::Http { .. } => "http",
        Action::Tcp { .. } => "tcp",
        Action::CopyProgram { .. } => "copy-program",
        Action::CopyIn { .. } => "copy-in",
        Action::CopyOut { .. } => "copy-out",
        Action::Power { .. } => "power",
        Action::Reboot {} => "reboot",
        Action::Checkpoint { .. } => "checkpoint",
        Action::Restore { .. } => "restore",
        Action::Hold { .. } => "hold",
        Action::Script { .. } => "script",
        Action::Parallel { .. } => "parallel",
        Action::Fault { .. } => "fault",
        Action::Heal { .. } => "heal",
        Action::Deployer { .. } => "deployer",
        Action::Schedule { .. } => "schedule",
    }
}

/// A step with the number that events know it by: depth first, a group before its members.
struct Numbered<'a> {
    index: usize,
    step: &'a Step,
    members: Vec<Numbered<'a>>,
}

fn number<'a>(steps: &'a [Step], next: &mut usize) -> Vec<Numbered<'a>> {
    let mut numbered = Vec::new();
    for step in steps {
        let index = *next;
        *next += 1;
        let members = match &step.action {
            Action::Parallel { steps } => number(steps, next),
            _ => Vec::new(),
        };
        numbered.push(Numbered { index, step, members });
    }
    numbered
}

/// Every step of the lane as the log's readers need to know it.
pub fn summaries(steps: &[Step]) -> Vec<StepSummary> {
    fn collect(numbered: &[Numbered<'_>], group: Option<usize>, summaries: &mut Vec<StepSummary>) {
        for Numbered { index, step, members } in numbered {
            let gate = step.gate.as_ref();
            summaries.push(StepSummary {
                index: *index,
                name: step.name.clone(),
                action: action_name(&step.action).into(),
                gate: gate.map(|gate| gate.name.clone()),
                hard: gate.is_none_or(|gate| gate.hard),
                weight: gate.map_or(1, |gate| gate.weight),
                group,
            });
            collect(members, Some(*index), summaries);
        }
    }
    let mut summaries = Vec::new();
    collect(&number(steps, &mut 0), None, &mut summaries);
    summaries
}

/// Runs all steps. Returns early, with what is marked `always` done, once one has failed that decides.
/// With `debugging` the run stands still after each failure that decides, and before the step named.
pub async fn execute(
    context: &StepContext,
    steps: &[Step],
    deadline: Duration,
    debugging: Option<&Debugging>,
    cancel: &CancellationToken,
) {
    let mut until = tokio::time::Instant::now() + deadline;
    let mut failed = false;
    let numbered = number(steps, &mut 0);
    let mut rest = numbered.iter();
    let mut again = None;
    while let Some(numbered) = again.take().or_else(|| rest.next()) {
        let place = (numbered.index, numbered.step.name.as_str());
        if failed && !numbered.step.always {
            continue;
        }
        if cancel.is_cancelled() {
            return;
        }
        if let Some(debugging) = debugging.filter(|debugging| debugging.at.as_deref() == Some(place.1)) {
            let began = tokio::time::Instant::now();
            hold(context, debugging, place, "it is asked for before this step".into(), false, cancel).await;
            until += began.elapsed();
        }
        let step = run_step(context, numbered, cancel);
        match tokio::time::timeout_at(until, step).await {
            Ok(None) => {}
            Ok(Some(reason)) => {
                let Some(debugging) = debugging.filter(|_| !cancel.is_cancelled()) else {
                    failed = true;
                    continue;
                };
                let began = tokio::time::Instant::now();
                match hold(context, debugging, place, reason, true, cancel).await {
                    Release::Retry => again = Some(numbered),
                    Release::GoOn | Release::Stop => failed = true,
                }
                until += began.elapsed();
            }
            Err(_) => {
                let deadline_ms = milliseconds(deadline);
                let failure = Failure {
                    reason: FailureReason::Deadline,
                    message: "the run's own deadline passed".into(),
                    machine: None,
                    expected: None,
                    last_marker: None,
                    waited_ms: deadline_ms,
                    evidence: None,
                };
                let reason = failure.message.clone();
                finish(context, numbered, Outcome::Failed, Some(failure), Duration::ZERO);
                context.reporter.error(None, Kind::DeadlinePassed { deadline_ms });
                if let Some(debugging) = debugging {
                    hold(context, debugging, place, reason, false, cancel).await;
                }
                return;
            }
        }
    }
}

/// One step in its frame; why it failed, where it did and so ends the run.
fn run_step<'a>(
    context: &'a StepContext,
    numbered: &'a Numbered<'a>,
    cancel: &'a CancellationToken,
) -> BoxFuture<'a, Option<String>> {
    async move {
        let Numbered { index, step, .. } = numbered;
        let began = Instant::now();
        let deadline = plan::step_deadline(step, context.factor).duration();
        let started = Kind::StepStarted {
            index: *index,
            name: step.name.clone(),
            action: action_name(&step.action).into(),
            on: step.on.clone(),
            deadline_ms: milliseconds(deadline),
        };
        context.reporter.correlated(format!("step:{index}")).info(None, started);
        let end = tokio::select! {
            end = perform(context, numbered, deadline, cancel) => end,
            () = cancel.cancelled() => Err(StepEnd::Failed(FailureReason::Cancelled, "the run was stopped".into())),
        };
        let (outcome, failure) = match end {
            Ok(()) => (Outcome::Passed, None),
            Err(StepEnd::Skipped(reason)) => {
                (Outcome::Skipped, Some(plain_failure(FailureReason::Cancelled, reason, began.elapsed())))
            }
            Err(StepEnd::Because(failure)) => (Outcome::Failed, Some(*failure)),
            Err(StepEnd::Failed(reason, message)) => {
                (Outcome::Failed, Some(plain_failure(reason, message, began.elapsed())))
            }
            Err(StepEnd::ChannelLost(reason)) => {
                let message = format!("the guest's agent was lost: {reason}");
                (Outcome::Failed, Some(plain_failure(FailureReason::Refused, message, began.elapsed())))
            }
        };
        let reason = failure.as_ref().map_or_else(|| "it failed".into(), |failure| failure.message.clone());
        finish(context, numbered, outcome, failure, began.elapsed());
        let decides = outcome == Outcome::Failed && step.gate.as_ref().is_none_or(|gate| gate.hard);
        decides.then_some(reason)
    }
    .boxed()
}

fn finish(context: &StepContext, numbered: &Numbered<'_>, outcome: Outcome, failure: Option<Failure>, took: Duration) {
    let Numbered { index, step, .. } = numbered;
    let reporter = context.reporter.correlated(format!("step:{index}"));
    let failure = failure.map(|failure| Failure {
        evidence: failure.evidence.clone().or_else(|| console_end(context, failure.machine.as_deref()?)),
        ..failure
    });
    let reason = failure.as_ref().map(|failure| failure.message.clone());
    let severity = if outcome == Outcome::Failed { Severity::Error } else { Severity::Info };
    let finished = Kind::StepFinished {
        index: *index,
        name: step.name.clone(),
        outcome,
        failure,
        duration_ms: milliseconds(took),
    };
    reporter.report(severity, None, finished);
    if let Some(gate) = &step.gate {
        let decided =
            Kind::GateDecided { gate: gate.name.clone(), hard: gate.hard, weight: gate.weight, outcome, reason };
        reporter.report(severity, None, decided);
    }
}

/// Where the machine's console stands now: what came last says most about what did not come.
fn console_end(context: &StepContext, machine: &str) -> Option<Evidence> {
    let file = format!("machines/{machine}/console.raw");
    let length = std::fs::metadata(context.root.join(&file)).ok()?.len();
    (length > 0).then(|| Evidence { file, offset: length - 1, length: 1 })
}

fn plain_failure(reason: FailureReason, message: String, waited: Duration) -> Failure {
    Failure {
        reason,
        message,
        machine: None,
        expected: None,
        last_marker: None,
        waited_ms: milliseconds(waited),
        evidence: None,
    }
}

/// The step's work, where it happens, under its deadline.
async fn perform(
    context: &StepContext,
    numbered: &Numbered<'_>,
    deadline: Duration,
    cancel: &CancellationToken,
) -> StepResult {
    let Numbered { index, step, members } = numbered;
    if !members.is_empty() {
        return parallel(context, members, longest(step, deadline), cancel).await;
    }
    let machines = step.on.iter().map(|name| context.machine(name)).collect::<Result<Vec<_>, _>>()?;
    if happens_on_host(&step.action) {
        let work = bounded(steps::on_host(context, *index, step), deadline);
        return broken_off(work, step, &machines).await;
    }
    // The first machine that fails ends the waits of the others.
    let each = machines.iter().map(|machine| {
        async move {
            let began = Instant::now();
            let end = on_one_machine(context, *index, step, machine, deadline).await;
            // `select_ok` waits for a success: here that is the first failure.
            match end {
                Ok(()) => Err(()),
                Err(end) => Ok(in_the_name_of(machine, end, began.elapsed())),
            }
        }
        .boxed()
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() {
        return Err(StepEnd::Failed(FailureReason::Harness, "the step happens on no machine".into()));
    }
    match select_ok(each).await {
        Ok((end, _)) => Err(end),
        Err(()) => Ok(()),
    }
}

/// Members of a group at the same time; the first failure cancels the others.
async fn parallel(
    context: &StepContext,
    members: &[Numbered<'_>],
    deadline: Duration,
    cancel: &CancellationToken,
) -> StepResult {
    let group = cancel.child_token();
    let each = members.iter().map(|member| {
        let group = &group;
        async move {
            let failed = run_step(context, member, group).await.is_some();
            if failed {
                group.cancel();
            }
            failed.then(|| member.step.name.clone())
        }
    });
    match tokio::time::timeout(deadline, join_all(each)).await {
        Ok(ends) => match ends.into_iter().flatten().next() {
            Some(name) => Err(StepEnd::Failed(FailureReason::Refused, format!("step `{name}` of the group failed"))),
            None => Ok(()),
        },
        Err(_) => Err(StepEnd::Failed(FailureReason::Deadline, "the group did not end in time".into())),
    }
}

async fn on_one_machine(
    context: &StepContext,
    index: usize,
    step: &Step,
    machine: &RunningMachine,
    deadline: Duration,
) -> StepResult {
    if let Action::Expect { expectations, forbid, across_reboot } = &step.action {
        let wait = Wait::new(expectations, forbid);
        let wait = if *across_reboot { wait.across_reboot() } else { wait };
        return expect(context, index, expectations, wait, machine).await;
    }
    let work = bounded(steps::on_machine(context, index, step, machine, deadline), longest(step, deadline));
    broken_off(work, step, &[machine]).await
}

/// A wait's own deadline ends it with what was there last; only an agent that is stuck goes on for longer.
fn longest(step: &Step, deadline: Duration) -> Duration {
    match &step.action {
        Action::Await { .. } => deadline.saturating_add(steps::ANSWER),
        Action::Parallel { steps } => steps.iter().map(|step| longest(step, deadline)).max().unwrap_or(deadline),
        _ => deadline,
    }
}

async fn bounded(work: impl Future<Output = StepResult>, deadline: Duration) -> StepResult {
    match tokio::time::timeout(deadline, work).await {
        Ok(end) => end,
        Err(_) => {
            let message = format!("it did not end within {}", crate::lane::units::Span(deadline));
            Err(StepEnd::Failed(FailureReason::Deadline, message))
        }
    }
}

/// Work that ends early when a machine shows a failure or goes away.
async fn broken_off(work: impl Future<Output = StepResult>, step: &Step, machines: &[&RunningMachine]) -> StepResult {
    let began = Instant::now();
    let watches = machines.iter().map(|machine| {
        let mut watch = machine.state.start_wait(steps::watch_for(&step.action));
        async move {
            loop {
                match watch.next().await {
                    Some(WaitProgress::Ended(end)) => return (machine.state.name(), end),
                    Some(_) => {}
                    // The machine went off and that is as it should be: it has nothing more to say.
                    None => std::future::pending().await,
                }
            }
        }
        .boxed()
    });
    let watches: Vec<_> = watches.collect();
    if watches.is_empty() {
        return work.await;
    }
    let mut trouble = futures_util::future::select_all(watches);
    let explained = |name: &str, end: crate::marker::WaitEnd| {
        Err(StepEnd::Because(Box::new(end.into_failure(name, milliseconds(began.elapsed())))))
    };
    let end = tokio::select! {
        biased;
        ((name, end), _, _) = &mut trouble => return explained(name, end),
        end = work => end,
    };
    match end {
        // The way in is lost before the machine's own end has been told: that is the better explanation.
        Err(StepEnd::ChannelLost(reason)) => match tokio::time::timeout(EXPLANATION, trouble).await {
            Ok(((name, end), _, _)) => explained(name, end),
            Err(_) => Err(StepEnd::ChannelLost(reason)),
        },
        end => end,
    }
}

/// How long a lost channel may wait for the machine's own end to explain it.
const EXPLANATION: Duration = Duration::from_secs(2);

/// A failure that does not know its machine yet gets its name and its last marker.
fn in_the_name_of(machine: &RunningMachine, end: StepEnd, waited: Duration) -> StepEnd {
    let failure = match end {
        StepEnd::Failed(reason, message) => plain_failure(reason, message, waited),
        StepEnd::ChannelLost(reason) => {
            plain_failure(FailureReason::Refused, format!("the guest's agent was lost: {reason}"), waited)
        }
        StepEnd::Because(failure) => *failure,
        StepEnd::Skipped(reason) => return StepEnd::Skipped(reason),
    };
    StepEnd::Because(Box::new(Failure {
        machine: failure.machine.or_else(|| Some(machine.state.name().into())),
        last_marker: failure.last_marker.or_else(|| machine.state.last_marker()),
        ..failure
    }))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
