//! Faults of a run: begun by its steps, ended by its steps or with the run.
//!
//! What always holds: every fault that began is in the log with its beginning and its end; what one step has begun is
//! not begun twice; what could be applied only in part is taken back.

mod apply;
mod guest;
mod link;
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::apply::{Applied, apply, take_back};
use super::networks::Networks;
use super::steps::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::event::{FailureReason, FaultEnd, Kind, Reporter};
use crate::lane::model::Fault;

pub use schedule::schedule;

type Effects = BTreeMap<String, u64>;

/// The faults that last at present, and what they are done with.
pub struct Faults {
    pub networks: Arc<Networks>,
    active: Mutex<BTreeMap<String, Active>>,
}

struct Active {
    began: Instant,
    applied: Vec<Applied>,
    /// What it did at its beginning.
    effects: Effects,
}

impl Faults {
    pub fn new(networks: Arc<Networks>) -> Self {
        Self { networks, active: Mutex::new(BTreeMap::new()) }
    }

    fn active(&self) -> MutexGuard<'_, BTreeMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a fault under a name of its own.
    pub async fn begin(
        &self,
        context: &StepContext,
        reporter: &Reporter,
        name: &str,
        fault: &Fault,
        machines: &[&RunningMachine],
    ) -> StepResult {
        let began = Instant::now();
        {
            let mut active = self.active();
            if active.contains_key(name) {
                let message = format!("the fault `{name}` lasts already");
                return Err(StepEnd::Failed(FailureReason::Refused, message));
            }
            // Before it is done: whoever breaks this off leaves something that the end of the run finds.
            active.insert(name.into(), Active { began, applied: Vec::new(), effects: Effects::new() });
        }
        reporter.info(
            None,
            Kind::FaultBegan {
                fault: name.into(),
                description: fault.to_string(),
                targets: targets(fault, machines),
                lasts: fault.lasts(),
            },
        );
        match apply(context, name, fault, machines).await {
            Ok((applied, effects)) if fault.lasts() => {
                self.active().insert(name.into(), Active { began, applied, effects });
                Ok(())
            }
            Ok((_, effects)) => {
                self.active().remove(name);
                ended(reporter, name, FaultEnd::Momentary, began, effects);
                Ok(())
            }
            Err(end) => {
                self.active().remove(name);
                ended(reporter, name, FaultEnd::Failed, began, Effects::new());
                Err(end)
            }
        }
    }

    /// Ends the faults of these names; all when there are none.
    pub async fn heal(&self, context: &StepContext, reporter: &Reporter, names: &[String]) -> StepResult {
        let names: Vec<String> =
            if names.is_empty() { self.active().keys().cloned().collect() } else { names.to_vec() };
        let mut result = Ok(());
        for name in names {
            let Some(fault) = self.active().remove(&name) else {
                let message = format!("the fault `{name}` does not last any more");
                result = result.and(Err(StepEnd::Failed(FailureReason::Refused, message)));
                continue;
            };
            let (effects, healed) = take_back(context, fault.applied).await;
            let cause = if healed.is_ok() { FaultEnd::Healed } else { FaultEnd::Failed };
            ended(reporter, &name, cause, fault.began, join(fault.effects, effects));
            result = result.and(healed);
        }
        result
    }

    /// The end of the run: what still lasts is told, and taken back on machines that go on without the run.
    pub async fn end(&self, context: &StepContext, machines_go_on: bool) {
        let active = std::mem::take(&mut *self.active());
        for (name, Active { began, mut applied, effects }) in active {
            // A machine that is off is not kept, and need not be switched on for that.
            applied.retain(|applied| !matches!(applied, Applied::Off { .. }));
            let healing = async {
                match machines_go_on {
                    true => take_back(context, applied).await,
                    false => (apply::effects(context, &applied), Ok(())),
                }
            };
            let (did, healed) = tokio::time::timeout(PATIENCE, healing).await.unwrap_or_else(|_| {
                (Effects::new(), Err(StepEnd::Failed(FailureReason::Deadline, "it took too long".into())))
            });
            if healed.is_err() {
                let text = format!("the fault `{name}` could not be healed on the machines that are kept");
                context.reporter.warning(None, Kind::Note { text });
            }
            ended(&context.reporter, &name, FaultEnd::RunEnded, began, join(effects, did));
        }
    }
}

fn join(mut effects: Effects, more: Effects) -> Effects {
    for (what, count) in more {
        let sum = effects.entry(what).or_default();
        *sum = sum.saturating_add(count);
    }
    effects
}

/// How long a fault may take to be healed once the run is over.
const PATIENCE: Duration = Duration::from_secs(30);

fn ended(reporter: &Reporter, name: &str, cause: FaultEnd, began: Instant, effects: Effects) {
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    reporter.info(None, Kind::FaultEnded { fault: name.into(), cause, duration_ms, effects });
}

fn targets(fault: &Fault, machines: &[&RunningMachine]) -> Vec<String> {
    match fault {
        Fault::Link { from, to, both_ways, .. } => {
            let arrow = if *both_ways { "<->" } else { "->" };
            vec![format!("{} {arrow} {}", from.join("+"), to.join("+"))]
        }
        _ => machines.iter().map(|machine| machine.state.name().to_owned()).collect(),
    }
}
