//! Serving the channel: one reader, one writer, and one thread for each stream.
//!
//! What always holds: the reader never waits for anything but the port, so a stream that is stuck holds up no other; when
//! a session ends, everything that was under way for it is taken back, commands with their process groups.

mod children;
mod connect;
mod connection;
mod exec;
mod facts;
mod files;
mod outgoing;
mod power;
mod session;
mod stream;
mod terminal;

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

pub use children::Children;
pub use connection::Connection;
pub use facts::boot_id;
pub(super) use stream::Stream;

use super::identity;
use super::marker::MarkerJournal;
use crate::channel::protocol::{Decoder, Identity, IdentityTaken, Role};
use outgoing::Outgoing;
use session::Session;

/// What all sessions of one agent share.
pub struct Agent {
    pub role: Role,
    /// Another one's after an identity was taken.
    markers: RwLock<MarkerJournal>,
    pub children: Arc<Children>,
    taking: Mutex<()>,
    tasks: Tasks,
}

impl Agent {
    pub fn new(role: Role, markers: MarkerJournal, children: Arc<Children>) -> Self {
        Self { role, markers: RwLock::new(markers), children, taking: Mutex::default(), tasks: Tasks::default() }
    }

    pub fn markers(&self) -> MarkerJournal {
        self.markers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn take_identity(&self, identity: &Identity) -> IdentityTaken {
        // One after the other, should it be asked for again.
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, markers) = identity::take(identity, self.role, &self.children);
        *self.markers.write().unwrap_or_else(PoisonError::into_inner) = markers;
        taken
    }
}

/// The threads that do what a session asked for.
#[derive(Default)]
struct Tasks {
    running: Mutex<usize>,
    changed: Condvar,
}

impl Tasks {
    fn begin(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.changed.notify_all();
    }

    /// Waits until all have ended, at most that long: one may be stuck in a file that never answers.
    fn wait(&self, at_most: Duration) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(running, at_most, |running| *running > 0));
    }
}

/// How long commands and files may take to be cleaned up once the connection is over.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Serves until the connection is over for good. A virtio-serial port that loses its host waits for the next one; a socket
/// ends with its peer.
///
/// # Errors
///
/// When the port can no longer be read, or threads cannot be started.
pub fn serve(connection: Connection, agent: Arc<Agent>) -> io::Result<()> {
    let outgoing = Arc::new(Outgoing::default());
    let (mut input, output, watch) = connection.into_parts();
    let writer = {
        let outgoing = outgoing.clone();
        std::thread::Builder::new().name("writer".into()).spawn(move || outgoing.write_to(output))?
    };
    let result = receive(&mut input, &watch, &outgoing, &agent);
    outgoing.close();
    // The caller may end the process, and commands must not outlive that.
    agent.tasks.wait(CLEAN_UP);
    // After a socket's end the writer's next write fails; on a port that is gone too. Either way it ends by itself.
    drop(writer);
    result
}

fn receive(
    input: &mut impl io::Read,
    watch: &connection::Watch,
    outgoing: &Arc<Outgoing>,
    agent: &Arc<Agent>,
) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; 32 << 10];
    watch.until_first_connected()?;
    let mut session = Session::begin(agent.clone(), outgoing.clone());
    loop {
        match input.read(&mut chunk) {
            Ok(0) => {
                session.end();
                decoder.clear();
                if !watch.until_connected()? {
                    return Ok(());
                }
                session = Session::begin(agent.clone(), outgoing.clone());
            }
            Ok(count) => decoder.push(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                session.end();
                return Err(error);
            }
        }
        while let Some(frame) = decoder.next_frame() {
            if session.handle(frame) == session::Next::Renew {
                session.end();
                session = Session::begin(agent.clone(), outgoing.clone());
            }
        }
    }
}
