//! Who may start: a run reserves what it may take at most, in memory, processors and disk, before it takes any of it.

mod decide;
mod place;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

pub use decide::{Decision, Demand, Lack};
use decide::{Holder, Host, decide};
use place::{Entry, Place, RESERVATION_VERSION, Reservation, Ticket};

use super::sizes::Sizes;
use super::{BudgetDocument, written};
use crate::error::{Error, ErrorKind, Result};
use crate::lane::units::{Size, Span};
use crate::plan::Plan;
use crate::preflight::host;

/// What stays free for the proof where `budget.toml` does not say.
pub const KEPT_FREE: Size = Size::mebibytes(256);

/// What happens to a run that does not fit now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// It waits for others to end. That two were started is no mistake of either, and both are wanted.
    #[default]
    Wait,
    /// It is blocked.
    Block,
}

/// A run in the line of those that want to start, or that has started: what it holds is free when this is dropped.
pub struct Admitting {
    place: Place,
    ticket: Ticket,
    demand: Demand,
    work_root: PathBuf,
    device: u64,
    kept_free: u64,
    hard_total: Option<u64>,
    /// What the others' ends tell.
    ended: (UnboundedSender<()>, UnboundedReceiver<()>),
    /// Whose ends are waited for already. Numbers are given again, runs' names are not.
    watched: BTreeSet<String>,
}

impl Demand {
    /// What a plan may take at most.
    pub fn of(plan: &Plan) -> Self {
        let machines = plan.lane.machines.values().filter(|machine| machine.backend.is_virtual());
        let memory = plan.memory_peak.max(plan.lane.requires.memory.unwrap_or_default());
        let processors = machines.map(|machine| u64::from(machine.cpus)).sum();
        Self { memory: memory.bytes(), processors, disk: plan.disk_peak.bytes() }
    }
}

impl Admitting {
    /// Enters the line. `own`: the folders that only this run writes to.
    ///
    /// # Errors
    /// Infrastructure: there is no place to leave word in. Usage: `budget.toml` is wrong.
    pub fn enter(
        work_root: &Path,
        budget: &BudgetDocument,
        lane: &str,
        run: &str,
        own: Vec<PathBuf>,
        demand: Demand,
    ) -> Result<Self> {
        let place = Place::of_this_host()?;
        let device = device(work_root);
        let ticket = place.enter(&Reservation {
            version: RESERVATION_VERSION,
            run: run.into(),
            lane: lane.into(),
            process: std::process::id(),
            work_root: work_root.into(),
            device,
            own,
            demand,
        })?;
        Ok(Self {
            place,
            ticket,
            demand,
            work_root: work_root.into(),
            device,
            kept_free: budget.hard.free.unwrap_or(KEPT_FREE).bytes(),
            hard_total: budget.hard.total.map(Size::bytes),
            ended: unbounded_channel(),
            watched: BTreeSet::new(),
        })
    }

    /// Whether it may start now; then it has what it wants.
    pub fn ask(&mut self) -> Result<Decision> {
        Ok(self.look()?.0)
    }

    fn look(&mut self) -> Result<(Decision, Vec<Entry>)> {
        // Counted before the look: others do not wait for that.
        let total = match self.hard_total {
            Some(limit) => Some((limit, Sizes::survey(&self.work_root)?.total.bytes)),
            None => None,
        };
        let host = Host {
            memory: host::total_memory().unwrap_or(u64::MAX),
            memory_available: host::available_memory().unwrap_or(u64::MAX),
            processors: host::cpu_count() as u64,
            disk_free: host::free_disk(&self.work_root).unwrap_or(u64::MAX),
            disk_kept: self.kept_free,
            total,
        };
        let (number, device, demand) = (self.ticket.number, self.device, self.demand);
        let work_root = self.work_root.clone();
        self.place.look(&mut self.ticket, |others| {
            let holders: Vec<Holder> = others.iter().map(|entry| holder(entry, number, device, &work_root)).collect();
            let decision = decide(&demand, &host, &holders);
            (decision == Decision::Admit, decision)
        })
    }

    /// Waits until it may start. `told` is told once why it waits, and for whom.
    ///
    /// # Errors
    /// Blocked: waiting does not help any more, or took too long. Interrupted: `cancel`.
    pub async fn wait(
        &mut self,
        longest: Duration,
        cancel: &CancellationToken,
        told: impl FnOnce(&[Lack], Vec<String>),
    ) -> Result<()> {
        let mut told = Some(told);
        let over = tokio::time::sleep(longest);
        tokio::pin!(over);
        loop {
            let (decision, others) = self.look()?;
            let lacks = match decision {
                Decision::Admit => return Ok(()),
                Decision::Block(lacks) => return Err(blocked(&lacks, "")),
                Decision::Wait(lacks) => lacks,
            };
            if let Some(told) = told.take() {
                // Those behind it take nothing from it.
                let number = self.ticket.number;
                let before = others.iter().filter(|entry| entry.admitted || entry.number < number);
                let name = |entry: &Entry| format!("{} ({})", entry.reservation.lane, entry.reservation.run);
                told(&lacks, before.map(name).collect());
            }
            self.watch(others);
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(Error::new(ErrorKind::Interrupted, "interrupted while waiting for other runs to end"));
                }
                () = &mut over => return Err(blocked(&lacks, &format!(" after waiting for {}", Span(longest)))),
                _ = self.ended.1.recv() => {}
            }
        }
    }

    /// Has it told when one of them ends.
    fn watch(&mut self, others: Vec<Entry>) {
        for entry in others {
            if self.watched.insert(entry.reservation.run.clone()) {
                let ended = self.ended.0.clone();
                // A blocking wait cannot be cancelled, so it gets a thread that nobody waits for.
                std::thread::spawn(move || {
                    let _ = flock(&entry.file, FlockOperation::LockShared);
                    drop(entry);
                    let _ = ended.send(());
                });
            }
        }
    }
}

fn blocked(lacks: &[Lack], after: &str) -> Error {
    let messages: Vec<&str> = lacks.iter().map(|lack| lack.message.as_str()).collect();
    let error = Error::blocked(format!("there is no room for the run{after}: {}", messages.join("; ")));
    lacks.iter().fold(error, |error, lack| error.hint(lack.remedy))
}

fn holder(entry: &Entry, number: u64, device: u64, work_root: &Path) -> Holder {
    let Reservation { demand, own, .. } = &entry.reservation;
    Holder {
        demand: *demand,
        ahead: entry.number < number,
        admitted: entry.admitted,
        same_disk: entry.reservation.device == device,
        same_work_root: entry.reservation.work_root == work_root,
        disk_used: written(own),
    }
}

/// The file system of a folder that need not exist yet.
fn device(path: &Path) -> u64 {
    path.ancestors().find_map(|ancestor| ancestor.metadata().ok()).map_or(0, |facts| facts.dev())
}
