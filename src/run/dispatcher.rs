//! The one owner of a run's state: it numbers and stamps reports, has them on disk, then folds and hands them on.
//!
//! A thread of its own, since it blocks on the disk for every batch. Under load a batch grows by itself: whatever has
//! queued up while the disk was busy goes out with one sync.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::error::{Context, Error, Result};
use crate::event::log::LogWriter;
use crate::event::{Event, Kind, Report, Reporter, Severity};
use crate::report::view::View;

/// Reports that may wait for the disk before whoever reports is slowed down.
const QUEUE: usize = 4096;
/// Events that go out with one sync at most.
const BATCH: usize = 1024;

/// Is told of every event once it is on disk and folded.
pub type Observer = Box<dyn FnMut(&Event, &View) + Send>;

/// What the dispatcher has found wrong with the log itself.
#[derive(Clone, Default)]
pub struct LogTrouble(Arc<Mutex<Option<Arc<Error>>>>);

impl LogTrouble {
    /// The first error of the log; a run with one cannot pass.
    pub fn get(&self) -> Option<Arc<Error>> {
        self.0.lock().expect("nobody panics while storing an error").clone()
    }

    fn set(&self, error: Error) {
        self.0.lock().expect("nobody panics while reading an error").get_or_insert(Arc::new(error));
    }
}

/// A running dispatcher. Closing it writes the last event and gives back the view.
pub struct Dispatcher {
    queue: SyncSender<Report>,
    thread: JoinHandle<View>,
    trouble: LogTrouble,
}

impl Dispatcher {
    /// Creates the log and starts. `cancel` is triggered when the log can no longer be written.
    pub fn start(log: &Path, began: Instant, observers: Vec<Observer>, cancel: CancellationToken) -> Result<Self> {
        let log = LogWriter::create(log)?;
        let (queue, reports) = sync_channel(QUEUE);
        let trouble = LogTrouble::default();
        let state = State { log, began, view: View::default(), next: 1, observers, cancel, trouble: trouble.clone() };
        let thread = std::thread::Builder::new()
            .name("dispatcher".into())
            .spawn(move || state.run(&reports))
            .infrastructure(|| "failed to start the dispatcher's thread".into())?;
        Ok(Self { queue, thread, trouble })
    }

    pub fn reporter(&self) -> Reporter {
        Reporter::new(self.queue.clone())
    }

    pub fn trouble(&self) -> LogTrouble {
        self.trouble.clone()
    }

    /// Writes what is queued and the closing event with the fold's verdict; later reports are dropped.
    pub fn close(self) -> View {
        let marker = Kind::RunClosed { verdict: crate::event::Verdict::Incomplete };
        self.reporter().info(None, marker);
        drop(self.queue);
        self.thread.join().expect("the dispatcher does not panic: the fold is total and the log's errors are values")
    }
}

struct State {
    log: LogWriter,
    began: Instant,
    view: View,
    next: u64,
    observers: Vec<Observer>,
    cancel: CancellationToken,
    trouble: LogTrouble,
}

impl State {
    fn run(mut self, reports: &Receiver<Report>) -> View {
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(report) = reports.recv() {
            let mut closing = false;
            let mut next = Some(report);
            while let Some(report) = next {
                // The closing event needs the verdict, and that stands on all that came before it.
                closing = matches!(report.kind, Kind::RunClosed { .. });
                if closing {
                    break;
                }
                batch.push(self.stamp(report));
                next = if batch.len() < BATCH { reports.try_recv().ok() } else { None };
            }
            self.commit(&mut batch);
            if closing {
                self.close(&mut batch);
                break;
            }
        }
        self.view
    }

    fn close(&mut self, batch: &mut Vec<Event>) {
        let verdict = crate::report::decide(&self.view).verdict;
        let report = Report {
            machine: None,
            epoch: None,
            severity: Severity::Info,
            correlation: None,
            kind: Kind::RunClosed { verdict },
        };
        batch.push(self.stamp(report));
        self.commit(batch);
    }

    fn stamp(&mut self, report: Report) -> Event {
        let sequence = self.next;
        self.next += 1;
        Event {
            sequence,
            wall: crate::event::wall_clock(),
            monotonic_ns: u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            machine: report.machine,
            epoch: report.epoch,
            severity: report.severity,
            correlation: report.correlation,
            event: report.kind,
        }
    }

    /// To disk first; only what is there is folded and told.
    fn commit(&mut self, batch: &mut Vec<Event>) {
        if let Err(error) = self.log.append(batch) {
            self.trouble.set(error);
            self.cancel.cancel();
            batch.clear();
            return;
        }
        for event in batch.drain(..) {
            self.view.apply(&event);
            for observer in &mut self.observers {
                observer(&event, &self.view);
            }
        }
    }
}
