//! A POSIX shell on a terminal line, as a way into a guest: the backdoor of NixOS' tests, and a login on a serial port.
//!
//! `greeting` gets as far as a shell: it waits for the backdoor's greeting, or logs in by a dialogue. `multiplexer.sh` is then
//! sent over the line and takes that shell's place; it runs several commands at once with what every POSIX system has (a
//! shell, FIFOs, `dd`, `cat`, `head`, `setsid`), so that nothing foreign is put into the guest. `wire` is what the two say to
//! each other, `session` the host's end, `command` a command's handles.
//!
//! What always holds: whatever the multiplexer says begins with the session's nonce; no more than `WINDOW` bytes of output
//! are under way, because QEMU throws away what its socket does not take at once; every chunk is counted and numbered, so
//! that bytes that were lost or came from elsewhere end the session with an error instead of passing for output.

mod command;
mod greeting;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::session::{Order, Pump, Standing};
use super::command::{Channel, Command, FileContent, Input};
use super::error::ChannelError;
use super::protocol::{ExecRequest, RefusalReason};
use super::shell_files;
use crate::lane::model::ChannelKind;
pub use greeting::{Answer, Greeting};

/// What may be under way of all outputs together, in bytes. A unix socket of the default size takes half as much again,
/// whatever it is cut into.
const WINDOW: usize = 60 << 10;
/// Commands at once; more wait for their turn.
const MOST_COMMANDS: usize = 16;

/// What the line is, and how to get a shell on it.
#[derive(Clone, Debug)]
pub struct LineOptions {
    pub kind: ChannelKind,
    /// As people know it: `hvc0`.
    pub device: String,
    pub greeting: Greeting,
    /// How long a boot may take until the shell answers.
    pub within: Duration,
    /// How much input may be under way, in bytes: a serial port's driver drops more than it has room for.
    pub input_chunk: usize,
}

impl LineOptions {
    /// Bytes of input at a time for a virtio console, which makes its sender wait.
    pub const VIRTIO_CHUNK: usize = 128 << 10;
    /// The same for a serial port.
    pub const SERIAL_CHUNK: usize = 16 << 10;
}

/// A way into one guest. Cheap to clone; when the last clone and the last handle made from it are gone, the connection is
/// closed.
#[derive(Clone)]
pub struct LineChannel {
    kind: ChannelKind,
    orders: mpsc::UnboundedSender<Order>,
    standing: watch::Receiver<Standing>,
    turns: Arc<Semaphore>,
}

impl LineChannel {
    /// Takes a connection to the guest's line, whether or not the guest is up; tasks pump it. Has to be called within a tokio
    /// runtime.
    pub fn start(stream: UnixStream, options: LineOptions) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        let (standing, watched) = watch::channel(Standing::Waiting);
        let kind = options.kind;
        tokio::spawn(Pump::run(stream, options, queue, standing));
        Self { kind, orders, standing: watched, turns: Arc::new(Semaphore::new(MOST_COMMANDS)) }
    }

    /// Says that the guest is known to be gone (it was reset): what is under way fails now, and the next greeting is waited
    /// for.
    pub fn forget_session(&self, reason: &str) {
        let _ = self.orders.send(Order::Forget { reason: reason.into() });
    }

    fn closed(&self) -> ChannelError {
        match &*self.standing.borrow() {
            Standing::Failed(error) => error.clone(),
            Standing::Waiting | Standing::Ready => ChannelError::Closed { reason: "nobody pumps it any more".into() },
        }
    }
}

impl Channel for LineChannel {
    fn kind(&self) -> ChannelKind {
        self.kind
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ChannelError>> {
        async {
            let mut standing = self.standing.clone();
            loop {
                match &*standing.borrow_and_update() {
                    Standing::Waiting => {}
                    Standing::Ready => return Ok(()),
                    Standing::Failed(error) => return Err(error.clone()),
                }
                if standing.changed().await.is_err() {
                    return Err(self.closed());
                }
            }
        }
        .boxed()
    }

    fn forget_session(&self, reason: &str) {
        LineChannel::forget_session(self, reason);
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Command, ChannelError>> {
        async move {
            let line = wire::command(&request)?;
            let turn = self.turns.clone().acquire_owned().await.map_err(|_| self.closed())?;
            let (answer, answered) = oneshot::channel();
            let order = Order::Exec { line, stdin: request.stdin, answer, turn };
            self.orders.send(order).map_err(|_| self.closed())?;
            let parts = answered.await.map_err(|_| self.closed())??;
            Ok(command::assemble(parts, self.clone()))
        }
        .boxed()
    }

    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<FileContent, ChannelError>> {
        shell_files::read(self, path).boxed()
    }

    fn write_file<'a>(&'a self, path: &'a str, mode: u32, source: Input) -> BoxFuture<'a, Result<u64, ChannelError>> {
        shell_files::write(self, path, mode, source).boxed()
    }
}

fn refused(reason: RefusalReason, message: impl Into<String>) -> ChannelError {
    ChannelError::Refused { reason, message: message.into() }
}
