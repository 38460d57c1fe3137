//! What a run takes from its host: reserved before it begins, watched while it runs.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::session::RunOptions;
use crate::budget::{Admission, Admitting, Decision, Demand, KEPT_FREE, Lack, Limits, Sizes, Watch, Watched, written};
use crate::error::Result;
use crate::event::{Finding, Kind, Reporter};
use crate::proof::ProofRoot;

pub struct Surroundings<'a> {
    pub options: &'a RunOptions,
    pub root: &'a ProofRoot,
    pub reporter: &'a Reporter,
    pub cancel: &'a CancellationToken,
}

/// What a run has, until this is dropped.
pub struct Held {
    watch: Watch,
    _reserved: Admitting,
}

impl Surroundings<'_> {
    /// Finishes preflight, whose `findings` so far are these, with whether there is room, and waits for it where that helps.
    /// `None`: the run is blocked.
    pub async fn admit(&self, mut findings: Vec<Finding>) -> Result<Option<Held>> {
        let RunOptions { plan, work_root, budget, .. } = self.options;
        let finished = |findings| self.reporter.info(None, Kind::PreflightFinished { findings });
        if findings.iter().any(|finding| finding.blocking) {
            finished(findings);
            return Ok(None);
        }
        let own = vec![self.root.path().to_owned(), work_root.join("runs").join(self.root.run())];
        let demand = Demand::of(plan);
        let mut admitting = Admitting::enter(work_root, budget, &plan.lane.name, self.root.run(), own.clone(), demand)?;
        let wait = match admitting.ask()? {
            Decision::Admit => false,
            Decision::Wait(_) if self.options.admission == Admission::Wait => true,
            Decision::Wait(lacks) | Decision::Block(lacks) => {
                findings.extend(lacks.iter().map(finding));
                finished(findings);
                return Ok(None);
            }
        };
        finished(findings);
        let began = Instant::now();
        if wait {
            let told = |lacks: &[Lack], runs| {
                let reasons = lacks.iter().map(|lack| lack.message.clone()).collect();
                self.reporter.info(None, Kind::AdmissionWaiting { reasons, runs });
            };
            admitting.wait(self.options.wait_at_most, self.cancel, told).await?;
        }
        let waited = if wait { began.elapsed().as_millis().max(1) } else { 0 };
        self.reporter.info(
            None,
            Kind::Admitted {
                memory: demand.memory,
                processors: demand.processors,
                disk: demand.disk,
                waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
            },
        );
        let total = match budget.hard.total {
            Some(limit) => {
                let others = Sizes::survey(work_root)?.total.bytes.saturating_sub(written(&own));
                Some((limit.bytes(), others))
            }
            None => None,
        };
        let limits = Limits {
            kept_free: budget.hard.free.unwrap_or(KEPT_FREE).bytes(),
            own: plan.lane.budget.disk.map(|limit| limit.bytes()),
            total,
        };
        let (reporter, cancel) = (self.reporter.clone(), self.cancel.clone());
        let watched = Watched { work_root: work_root.clone(), run: self.root.run().into(), own };
        let watch = Watch::start(watched, limits, move |crossed| {
            let (limit, used) = (crossed.limit, crossed.used);
            reporter.error(None, Kind::BudgetCrossed { what: crossed.what, limit, used });
            cancel.cancel();
        });
        Ok(Some(Held { watch, _reserved: admitting }))
    }
}

impl Held {
    /// The run is over: tells what it took, and gives back what it had.
    pub fn end(self, reporter: &Reporter) {
        let peak = self.watch.peak();
        reporter.info(None, Kind::ResourcesUsed { memory_peak: peak.memory, disk_peak: peak.disk });
    }
}

fn finding(lack: &Lack) -> Finding {
    Finding {
        check: lack.check.into(),
        blocking: true,
        message: lack.message.clone(),
        remedy: Some(lack.remedy.into()),
    }
}
