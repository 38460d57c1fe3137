//! Standing still: a run that somebody wants to look into stops before a step, or after one that failed, with everything up.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::steps::StepContext;
use crate::event::{Kind, Release, Severity};

/// Where a run stands still, and who lets it go.
#[derive(Clone)]
pub struct Debugging {
    pub debugger: Arc<dyn Debugger>,
    /// The step before which it does; after one that failed it does in any case.
    pub at: Option<String>,
}

/// Is told that the run stands still, and says how it goes on.
pub trait Debugger: Send + Sync {
    fn held<'a>(&'a self, held: &'a Held) -> BoxFuture<'a, Release>;
}

/// A run that stands still.
#[derive(Clone, Debug)]
pub struct Held {
    /// The step before or after which.
    pub step: String,
    pub reason: String,
    /// The step has failed, and may be tried again.
    pub failed: bool,
    /// Machines that are up.
    pub machines: Vec<String>,
}

/// Stands still until it is let go, or stopped. Nothing of the run's own goes on meanwhile, and no deadline passes: the
/// caller adds the time that this took.
pub async fn hold(
    context: &StepContext,
    debugging: &Debugging,
    (index, step): (usize, &str),
    reason: String,
    failed: bool,
    cancel: &CancellationToken,
) -> Release {
    let began = Instant::now();
    let up = context.machines.iter().filter(|(_, machine)| machine.state.off().is_none());
    let machines = up.map(|(name, _)| name.clone()).collect();
    let reporter = context.reporter.correlated(format!("step:{index}"));
    let held = Held { step: step.into(), reason: reason.clone(), failed, machines };
    reporter.report(Severity::Warning, None, Kind::RunHeld { index, name: step.into(), reason });
    let how = tokio::select! {
        biased;
        () = cancel.cancelled() => Release::Stop,
        how = debugging.debugger.held(&held) => how,
    };
    let held_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    reporter.info(None, Kind::RunReleased { how, held_ms });
    how
}
