//! The thread that owns the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::deployer::nodes;
use crate::deployer::publish::Publisher;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::error::{Context, Result};

/// So many requests are committed together at most: the first of them waits for the last.
const BATCH: usize = 128;
/// So many wait; whoever comes then waits to wait.
const QUEUE: usize = 4096;

/// What a request works on: everything that is committed so far, and what was done before it in its batch.
pub struct Work<'c> {
    pub connection: &'c Connection,
    pub now: Timestamp,
    /// Names of nodes that are not as they were.
    pub changed: Vec<String>,
}

/// Told whether what was done is on the disk.
type Answer = Box<dyn FnOnce(bool) + Send>;

type Job = Box<dyn FnOnce(&mut Work<'_>) -> (bool, Answer) + Send>;

pub struct Store {
    /// `None` once it ends.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    pub fn start(connection: Connection, publisher: Arc<Publisher>) -> Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("deployer-state".into())
            .spawn(move || write(&connection, queue, &publisher))
            .infrastructure(|| "failed to start the thread of the deployer's database".into())?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does something with the state. The answer comes when it is on the disk; on a refusal nothing was changed. Whoever
    /// stops waiting does not undo it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Work<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |state| {
            let outcome = work(state);
            let done = outcome.is_ok();
            let answer = move |committed: bool| {
                // Whoever asked may have gone.
                let _ = sender.send(if committed || !done { outcome } else { Err(Refusal::storage()) });
            };
            (done, Box::new(answer))
        });
        let jobs = self.jobs.as_ref().ok_or_else(Refusal::storage)?;
        jobs.send(job).await.map_err(|_| Refusal::storage())?;
        // A job that panicked never answers.
        receiver.await.map_err(|_| Refusal::new(500, "internal", "the deployer failed; nothing was changed"))?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What was taken is done, and the database is closed properly.
            let _ = thread.join();
        }
    }
}

fn write(connection: &Connection, mut queue: mpsc::Receiver<Job>, publisher: &Publisher) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let mut answers = Vec::with_capacity(jobs.len());
        let committed = match batch(connection, jobs.drain(..), &mut answers) {
            Ok(changed) => {
                changed.into_iter().for_each(|status| publisher.publish(status));
                true
            }
            Err(error) => {
                tracing::error!(%error, "failed to write the deployer's database");
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                false
            }
        };
        jobs.clear();
        answers.into_iter().for_each(|answer| answer(committed));
    }
}

fn batch(
    connection: &Connection,
    jobs: impl Iterator<Item = Job>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<Vec<nodes::NodeStatus>> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut changed: Vec<String> = Vec::new();
    for job in jobs {
        connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let mut work = Work { connection, now: Timestamp::now(), changed: Vec::new() };
        let outcome = catch_unwind(AssertUnwindSafe(|| job(&mut work)));
        let done = match outcome {
            Ok((done, answer)) => {
                answers.push(answer);
                done
            }
            Err(_) => {
                tracing::error!("a request to the deployer's database panicked");
                false
            }
        };
        if done {
            changed.append(&mut work.changed);
        } else {
            connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        connection.prepare_cached("RELEASE job")?.execute([])?;
    }
    changed.sort();
    changed.dedup();
    let statuses = changed
        .iter()
        .filter_map(|name| nodes::status(connection, name).transpose())
        .collect::<rusqlite::Result<Vec<_>>>()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(statuses)
}
