//! Waiting for something in the guest, for the host: a file, a unit of systemd's, a port.
//!
//! What always holds: whoever can tell of a change is listened to before anything is looked at, so nothing that happens
//! between is missed; it is looked at again when there is word, and not before; the host can take its request back at
//! any time. The one exception is a port where the kernel has no tracepoints.

mod file;
mod port;
mod tracepoints;
mod unit;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::serve::Stream;
use crate::channel::protocol::{AwaitEnd, AwaitRequest, Awaited, Condition, Outcome, RefusalReason, ToldBy};
use file::FileWatch;
use port::PortWatch;
use unit::UnitWatch;

/// What a look shows, in words where it is not yet what is awaited.
enum Sight {
    Holds(String),
    /// It cannot come any more.
    Impossible(String),
    NotYet(String),
}

/// Something that is waited for.
trait Watch {
    /// Has itself told of changes, then looks.
    fn look(&mut self) -> io::Result<Sight>;

    /// Readable, or with an urgent condition, when there is word.
    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)>;

    /// Takes the word in; whether it is worth a look.
    fn take(&mut self) -> io::Result<bool>;

    /// After how long it is worth a look without any word.
    fn look_after(&self) -> Option<Duration> {
        None
    }

    fn told_by(&self) -> ToldBy;
}

pub fn run(stream: &Stream, request: &AwaitRequest) {
    let begun: io::Result<Box<dyn Watch>> = match &request.condition {
        Condition::File { path, state } => FileWatch::new(path, state).map(|watch| Box::new(watch) as _),
        Condition::Unit { name, state } => UnitWatch::new(name, state).map(|watch| Box::new(watch) as _),
        Condition::Port { port, address } => Ok(Box::new(PortWatch::new(*port, *address))),
    };
    let deadline = Instant::now().checked_add(Duration::from_millis(request.within_ms));
    match begun.and_then(|mut watch| follow(stream, watch.as_mut(), deadline)) {
        Ok(Some(awaited)) => stream.finish(&Outcome::Awaited(awaited)),
        Ok(None) => stream.close(),
        Err(error) => {
            let message = format!("failed to wait for {}: {error}", request.condition);
            stream.refuse(RefusalReason::from_error(&error), message);
        }
    }
}

/// `None` when the host has taken it back.
fn follow(stream: &Stream, watch: &mut dyn Watch, deadline: Option<Instant>) -> io::Result<Option<Awaited>> {
    let mut looks = 0;
    loop {
        let sight = watch.look()?;
        looks += 1;
        let told_by = if looks == 1 { ToldBy::FirstLook } else { watch.told_by() };
        let ended = |end, last_seen| Ok(Some(Awaited { end, last_seen, told_by, looks }));
        let last_seen = match sight {
            Sight::Holds(seen) => return ended(AwaitEnd::Held, seen),
            Sight::Impossible(reason) => return ended(AwaitEnd::Impossible, reason),
            Sight::NotYet(seen) => seen,
        };
        let look_at = watch.look_after().map(|after| Instant::now() + after);
        loop {
            if stream.is_cancelled() {
                return Ok(None);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return ended(AwaitEnd::TimedOut, last_seen);
            }
            if look_at.is_some_and(|look_at| look_at <= now) {
                break;
            }
            let until = deadline.into_iter().chain(look_at).min();
            let mut descriptors: Vec<PollFd<'_>> =
                { watch.descriptors().into_iter() }.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            stream.wait_until(&mut descriptors, until)?;
            drop(descriptors);
            if watch.take()? {
                break;
            }
        }
    }
}
