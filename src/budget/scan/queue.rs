//! Folders that are yet to be read, shared by the threads that read them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Work that creates work. It is over when everybody waits for more.
pub struct Queue<Task> {
    state: Mutex<State<Task>>,
    more: Condvar,
    threads: usize,
    /// How many wait, for a look without the lock.
    hungry: AtomicUsize,
}

struct State<Task> {
    tasks: Vec<Task>,
    waiting: usize,
}

impl<Task> Queue<Task> {
    pub fn new(first: Task, threads: usize) -> Self {
        let state = State { tasks: vec![first], waiting: 0 };
        Self { state: Mutex::new(state), more: Condvar::new(), threads, hungry: AtomicUsize::new(0) }
    }

    /// Does all there is, with as many callers as there are threads. `work` puts what it finds at the end of its list.
    pub fn work(&self, mut work: impl FnMut(Task, &mut Vec<Task>)) {
        let mut own = Vec::new();
        while let Some(task) = own.pop().or_else(|| self.next()) {
            work(task, &mut own);
            // One's own list costs nothing; it is shared when somebody has nothing to do. What was found first has most below it.
            if own.len() > 1 && self.hungry.load(Ordering::Relaxed) > 0 {
                let given = own.len() / 2;
                self.lock().tasks.extend(own.drain(..given));
                self.more.notify_all();
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop() {
                return Some(task);
            }
            state.waiting += 1;
            if state.waiting == self.threads {
                self.more.notify_all();
                return None;
            }
            self.hungry.fetch_add(1, Ordering::Relaxed);
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            self.hungry.fetch_sub(1, Ordering::Relaxed);
            if state.waiting == self.threads {
                return None;
            }
            state.waiting -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<Task>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn everything_is_done_once_whoever_does_it() {
        for threads in [1, 2, 5] {
            // Each number below 10,000 has ten others below it.
            let (queue, sum) = (Queue::new(0u64, threads), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        queue.work(|number, found| {
                            sum.fetch_add(number, Ordering::Relaxed);
                            found.extend((1..=10).map(|next| number * 10 + next).filter(|next| *next < 10_000));
                        });
                    });
                }
            });
            assert_eq!(sum.into_inner(), (1..10_000u64).sum::<u64>());
        }
    }
}
