//! `await`: what the agent is told by the guest's kernel, or by its systemd.

use std::time::{Duration, Instant};

use super::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::channel::protocol::{AwaitEnd, ToldBy};
use crate::event::{Failure, FailureReason, Kind};
use crate::lane::model::Condition;

/// How much later than the deadline the step itself may end: the agent knows what was there last, and says it then.
pub const ANSWER: Duration = Duration::from_secs(5);

pub async fn wait(
    context: &StepContext,
    index: usize,
    condition: &Condition,
    deadline: Duration,
    machine: &RunningMachine,
) -> StepResult {
    let began = Instant::now();
    let elapsed = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let failed = |reason, message: String| {
        StepEnd::Because(Box::new(Failure {
            reason,
            message,
            machine: Some(machine.state.name().into()),
            expected: Some(condition.to_string()),
            last_marker: None,
            waited_ms: elapsed(),
            evidence: None,
        }))
    };
    let Ok(agent) = tokio::time::timeout(deadline, context.agent(machine)).await else {
        let message = format!("`{condition}` was not seen: the guest's agent did not answer in time");
        return Err(failed(FailureReason::Deadline, message));
    };
    let left = deadline.saturating_sub(began.elapsed());
    let awaited = agent?.await_condition(&condition.asked(), left).await?;
    let last_seen = crate::console::sanitize(&awaited.last_seen).into_owned();
    let ended = Kind::AwaitEnded {
        index,
        condition: condition.to_string(),
        held: awaited.end == AwaitEnd::Held,
        last_seen: last_seen.clone(),
        notified: !matches!(awaited.told_by, ToldBy::FirstLook | ToldBy::Polling),
        told_by: awaited.told_by.to_string(),
        looks: awaited.looks,
        duration_ms: elapsed(),
    };
    machine.state.reporter().correlated(format!("step:{index}")).info(Some(machine.state.epoch()), ended);
    match awaited.end {
        AwaitEnd::Held => Ok(()),
        AwaitEnd::Impossible => {
            Err(failed(FailureReason::Refused, format!("`{condition}` cannot come any more: {last_seen}")))
        }
        AwaitEnd::TimedOut => {
            let within = crate::lane::units::Span(deadline);
            let message = format!("`{condition}` was not so within {within}; last seen: {last_seen}");
            Err(failed(FailureReason::Deadline, message))
        }
    }
}
