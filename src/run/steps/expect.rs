//! `expect`: markers and console lines in order, a deadline each.

use std::time::Instant;

use tokio::time::Instant as Deadline;

use super::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::event::{Failure, FailureReason, Kind};
use crate::lane::model::{Expectation, Expected};
use crate::marker::{Wait, WaitProgress};

/// Waits on one machine; `wait` is for these expectations. The deadlines of the expectations are the only ones: each runs from the one before.
pub async fn expect(
    context: &StepContext,
    index: usize,
    expectations: &[Expectation],
    wait: Wait,
    machine: &RunningMachine,
) -> StepResult {
    let began = Instant::now();
    let state = &machine.state;
    let mut wait = state.start_wait(wait);
    let mut due = expectations.iter();
    let next_deadline = |due: &mut std::slice::Iter<'_, Expectation>| {
        due.next().map(|expectation| Deadline::now() + expectation.within.scaled(context.factor).duration())
    };
    let mut deadline = next_deadline(&mut due);
    loop {
        let progress = match deadline {
            Some(at) => tokio::select! {
                biased;
                progress = wait.next() => progress,
                () = tokio::time::sleep_until(at) => Some(wait.deadline_passed()),
            },
            None => wait.next().await,
        };
        match progress {
            Some(WaitProgress::Met { expectation, finding }) => {
                let wanted = expectations.get(expectation).map_or_else(String::new, |wanted| describe(&wanted.what));
                let after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let met =
                    Kind::ExpectationMet { index, expectation, wanted, after_ms, evidence: finding.evidence.clone() };
                state.reporter().correlated(format!("step:{index}")).info(Some(state.epoch()), met);
                deadline = next_deadline(&mut due);
            }
            Some(WaitProgress::Done) => return Ok(()),
            Some(WaitProgress::Ended(end)) => {
                let waited_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Err(StepEnd::Because(Box::new(end.into_failure(state.name(), waited_ms))));
            }
            None => {
                let failure = Failure {
                    reason: FailureReason::MachineOff,
                    message: "the machine went off".into(),
                    machine: Some(state.name().into()),
                    expected: None,
                    last_marker: None,
                    waited_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    evidence: None,
                };
                return Err(StepEnd::Because(Box::new(failure)));
            }
        }
    }
}

fn describe(expected: &Expected) -> String {
    match expected {
        Expected::Marker { name, .. } => name.clone(),
        Expected::Console { pattern } => format!("/{pattern}/"),
    }
}
