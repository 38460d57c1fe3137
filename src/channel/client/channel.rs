//! The handle that everything else on the host uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use super::execution::Execution;
use super::file::FileReader;
use super::session::{Session, Standing};
use super::stream::{ChannelStream, Guard, PipeReader, PipeWriter};
use crate::channel::ChannelError;
use crate::channel::protocol::{
    AwaitRequest, Awaited, Condition, ExecRequest, Hello, Identity, IdentityTaken, Opened, Outcome, PIPE_MAIN, Request,
};

/// What the run has to know about a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// A session began: the guest booted, or its agent was restarted.
    Ready(Hello),
    /// The session is over; everything that was under way has failed. A new one may follow.
    Lost { reason: String },
}

/// A way into one guest. Cheap to clone; when the last clone and the last handle made from it are gone, the connection is
/// closed and the guest takes back whatever was under way.
#[derive(Clone)]
pub struct AgentChannel {
    session: Arc<Session>,
    _lifeline: Arc<Lifeline>,
}

/// Ends the pump when it is dropped.
struct Lifeline(Arc<Notify>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl AgentChannel {
    /// Takes a connection to the machine's virtio-serial port, whether or not the guest is up; a task pumps it. Events end
    /// after the last `Lost`, when the connection does. Has to be called within a tokio runtime.
    pub fn start(stream: UnixStream) -> (AgentChannel, mpsc::UnboundedReceiver<ChannelEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let session = Arc::new(Session::new(events));
        let stop = Arc::new(Notify::new());
        let (pumped, stopped) = (session.clone(), stop.clone());
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            let reason = tokio::select! {
                reason = pumped.pump(reader) => reason,
                error = pumped.outgoing.write_to(writer) => format!("writing to it failed: {error}"),
                () = stopped.notified() => "it was closed on this side".into(),
            };
            pumped.close(&reason);
        });
        (AgentChannel { session, _lifeline: Arc::new(Lifeline(stop)) }, receiver)
    }

    /// Waits for the session that is on, or else the next one. Ends at once when the connection does.
    pub async fn ready(&self) -> Result<Hello, ChannelError> {
        let mut standing = self.session.standing();
        loop {
            match &*standing.borrow_and_update() {
                Standing::Waiting => {}
                Standing::Ready(hello) => return Ok(Hello::clone(hello)),
                Standing::Mismatch(error) => return Err(error.clone()),
                Standing::Closed { reason } => return Err(ChannelError::Closed { reason: reason.clone() }),
            }
            // The sender lives in `self.session`.
            let _ = standing.changed().await;
        }
    }

    /// Says that the guest is known to be gone (it was reset): what is under way fails now instead of when the next HELLO
    /// comes, and `ready` waits for that. Does nothing while no session is on.
    pub fn forget_session(&self, reason: &str) {
        self.session.forget(reason);
    }

    /// Starts a command; answers once it runs.
    ///
    /// # Errors
    ///
    /// `Refused` with `NotFound` or `PermissionDenied` when the program or its working directory is the cause.
    pub async fn exec(&self, request: ExecRequest) -> Result<Execution, ChannelError> {
        let stdin = request.stdin;
        let guard = self.open(Request::Exec(request))?;
        match guard.stream.opened().await? {
            Opened::Exec { pid, terminal } => Ok(Execution::new(guard, pid, stdin, terminal)),
            other => Err(unexpected("a command", &other)),
        }
    }

    /// Opens a file of the guest for reading.
    pub async fn read_file(&self, path: &str) -> Result<FileReader, ChannelError> {
        let guard = self.open(Request::ReadFile { path: path.into() })?;
        match guard.stream.opened().await? {
            Opened::ReadFile { size, mode } => Ok(FileReader::new(PipeReader::new(guard, PIPE_MAIN), size, mode)),
            other => Err(unexpected("reading a file", &other)),
        }
    }

    /// Writes a file in the guest from `source`, with these permission bits; answers the bytes written once the file is
    /// there, whole and synced. Until then, and when this is dropped or fails, a file of that name stays as it was.
    pub async fn write_file(
        &self,
        path: &str,
        mode: u32,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<u64, ChannelError> {
        let guard = self.open(Request::WriteFile { path: path.into(), mode })?;
        guard.stream.opened().await?;
        let mut writer = PipeWriter::unfinished(guard.clone());
        let mut chunk = vec![0; 32 << 10];
        loop {
            let count = match source.read(&mut chunk).await {
                Ok(count) => count,
                Err(error) => return Err(ChannelError::Source { kind: error.kind(), message: error.to_string() }),
            };
            // A failed write has its reason in the outcome below.
            if count == 0 || writer.write_all(&chunk[..count]).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        match guard.stream.outcome().await? {
            Outcome::FileWritten { bytes } => Ok(bytes),
            other => Err(unexpected("writing a file", &other)),
        }
    }

    /// Connects to a TCP address (`127.0.0.1:6379`, `localhost:80`) from inside the guest.
    ///
    /// # Errors
    ///
    /// `Refused` with `ConnectionRefused`, `Unreachable`, `TimedOut` or `NotFound` (a name that the guest's `/etc/hosts`
    /// does not have: nothing else is asked).
    pub async fn connect(&self, address: &str) -> Result<ChannelStream, ChannelError> {
        let guard = self.open(Request::Connect { address: address.into() })?;
        match guard.stream.opened().await? {
            Opened::Connect { peer } => Ok(ChannelStream::new(guard, peer)),
            other => Err(unexpected("a connection", &other)),
        }
    }

    /// Emits a marker on the guest's console; answers its sequence number.
    pub async fn emit_marker(
        &self,
        name: &str,
        node: Option<&str>,
        arguments: &[(String, String)],
    ) -> Result<u64, ChannelError> {
        let request =
            Request::EmitMarker { name: name.into(), node: node.map(Into::into), arguments: arguments.to_vec() };
        match self.complete(request).await? {
            Outcome::MarkerEmitted { sequence } => Ok(sequence),
            other => Err(unexpected("a marker", &other)),
        }
    }

    /// Prints this boot's markers from sequence number `from` on the console again, unchanged; answers how many.
    pub async fn repeat_markers(&self, from: u64) -> Result<u64, ChannelError> {
        match self.complete(Request::RepeatMarkers { from }).await? {
            Outcome::MarkersRepeated { count } => Ok(count),
            other => Err(unexpected("repeating markers", &other)),
        }
    }

    /// How long the agent takes to answer.
    pub async fn ping(&self) -> Result<Duration, ChannelError> {
        let start = Instant::now();
        let pong = self.session.ping()?;
        pong.await.map_err(|_| self.session.absence())?;
        Ok(start.elapsed())
    }

    /// Switches the guest off in an orderly way. Answers when the guest has begun, and the session is over then.
    pub async fn power_off(&self) -> Result<(), ChannelError> {
        self.leave(Request::PowerOff, Outcome::PoweringOff, "the guest is switching itself off").await
    }

    /// Reboots the guest in an orderly way. Answers when the guest has begun; the session is over then, and `ready` waits
    /// for the next one.
    pub async fn reboot(&self) -> Result<(), ChannelError> {
        self.leave(Request::Reboot, Outcome::Rebooting, "the guest is rebooting").await
    }

    /// Lets the guest become another machine.
    pub async fn take_identity(&self, identity: Identity) -> Result<IdentityTaken, ChannelError> {
        match self.complete(Request::TakeIdentity(identity)).await? {
            Outcome::IdentityTaken(taken) => Ok(taken),
            other => Err(unexpected("taking an identity", &other)),
        }
    }

    /// Waits until something is so in the guest, at most that long: the agent is told of it and does not look again and
    /// again. Dropping this ends the wait in the guest.
    ///
    /// # Errors
    ///
    /// `Refused` when the guest has nothing that could be waited for: no systemd, a file that nothing tells about.
    pub async fn await_condition(&self, condition: &Condition, within: Duration) -> Result<Awaited, ChannelError> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        match self.complete(Request::Await(AwaitRequest { condition: condition.clone(), within_ms })).await? {
            Outcome::Awaited(awaited) => Ok(awaited),
            other => Err(unexpected("waiting", &other)),
        }
    }

    /// Closes the connection: everything under way fails, here and in the guest.
    pub fn close(&self) {
        self.session.close("it was closed on this side");
        self._lifeline.0.notify_one();
    }

    fn open(&self, request: Request) -> Result<Arc<Guard>, ChannelError> {
        let stream = self.session.open_stream(&request)?;
        Ok(Guard::new(stream, self.clone()))
    }

    async fn leave(&self, request: Request, wanted: Outcome, reason: &str) -> Result<(), ChannelError> {
        let nonce = self.session.nonce()?;
        let outcome = self.complete(request).await?;
        if outcome != wanted {
            return Err(unexpected(reason, &outcome));
        }
        self.session.end(&nonce, reason);
        Ok(())
    }

    async fn complete(&self, request: Request) -> Result<Outcome, ChannelError> {
        self.open(request)?.stream.outcome().await
    }
}

fn unexpected(what: &str, answer: &impl std::fmt::Debug) -> ChannelError {
    ChannelError::Protocol { detail: format!("{what} was answered with {answer:?}") }
}
