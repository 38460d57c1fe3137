//! What the lane's deployer takes for itself: counted request by request, told when it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::deployer::accounted;
use crate::event::{Answering, Kind, Telling};

#[derive(Default)]
pub struct DeployerAccount(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    nodes: BTreeMap<String, Answering>,
    others: Answering,
    telling: Telling,
}

/// Counts a request. Its answer's body is yet to be sent then.
pub async fn count(State(account): State<Arc<DeployerAccount>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let (response, told) = accounted(next.run(request)).await;
    account.answered(told.node, begin.elapsed(), told.waited);
    response
}

impl DeployerAccount {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, node: Option<String>, took: Duration, waited: Duration) {
        let answering = microseconds(took.saturating_sub(waited));
        let one =
            Answering { requests: 1, answering_us: answering, longest_us: answering, waiting_us: microseconds(waited) };
        let mut counts = self.counts();
        match node {
            Some(node) => counts.nodes.entry(node).or_default().add(&one),
            None => counts.others.add(&one),
        }
    }

    pub fn change_told(&self, took: Duration) {
        let took = microseconds(took);
        self.counts().telling.add(&Telling { changes: 1, telling_us: took, longest_us: took });
    }

    pub fn told(&self) -> Kind {
        let counts = self.counts();
        Kind::DeployerEnded { nodes: counts.nodes.clone(), others: counts.others, telling: counts.telling }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
