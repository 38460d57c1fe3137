//! The way into a guest by SSH, as everything else uses it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::command::{End, Outcome, Pump, Running};
use super::connection::{Connection, NoConnection, SshLogin, open};
use super::keys::SshPublicKey;
use super::line::ByteStream;
use super::shell::{kill_line, line};
use crate::channel::{
    Channel, ChannelError, Command, CommandControl, ExecRequest, ExitStatus, FileContent, Input, shell_files,
};
use crate::lane::model::ChannelKind;
use crate::secret::{hex, random};

/// Makes a byte stream to the guest's SSH server.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> + Send + Sync>;
/// Finds the guest's host key; `None` while it is not known yet (it has not stood on the console).
pub type HostKeySource = Arc<dyn Fn() -> Option<SshPublicKey> + Send + Sync>;

/// The first wait before a server that was not there is tried again, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Connections that are kept for the next command.
const IDLE: usize = 2;

/// How a guest is reached by SSH.
#[derive(Clone)]
pub struct SshSettings {
    pub connector: Connector,
    pub login: SshLogin,
    pub host_key: HostKeySource,
    /// How long the guest may take until it lets the user in, from the first time that it is asked.
    pub within: Duration,
    /// Where its server is, for people.
    pub place: String,
}

/// SSH into one guest. Cheap to clone; the connections end with the last clone.
///
/// Commands do not share a connection while they run: one whose output nobody reads would hold up the others, since the
/// library widens a channel's window when data comes, not when it was taken. A command that has ended leaves its
/// connection to the next.
#[derive(Clone)]
pub struct SshChannel(Arc<Inner>);

struct Inner {
    settings: SshSettings,
    state: Mutex<State>,
}

struct State {
    idle: Vec<Arc<Connection>>,
    /// Ends every connection to the guest as it is now.
    cut: CancellationToken,
    _cut: DropGuard,
    /// Why those were ended.
    lost: Option<String>,
    /// What no further try can change.
    over: Option<ChannelError>,
}

impl SshChannel {
    /// Connects only when it is asked for something. Has to be used within a tokio runtime.
    pub fn new(settings: SshSettings) -> Self {
        let cut = CancellationToken::new();
        let state = State { idle: Vec::new(), _cut: cut.clone().drop_guard(), cut, lost: None, over: None };
        Self(Arc::new(Inner { settings, state: Mutex::new(state) }))
    }

    /// Says that the guest is known to be gone (it was reset, or its power was cut): what is under way fails now.
    pub fn forget_session(&self, reason: &str) {
        let mut state = self.state();
        state.lost = Some(reason.into());
        state.idle.clear();
        state.cut.cancel();
        state.cut = CancellationToken::new();
        state._cut = state.cut.clone().drop_guard();
    }

    /// As `forget_session`, for good.
    pub fn close(&self, reason: &str) {
        self.forget_session(reason);
        self.state().over = Some(ChannelError::Closed { reason: reason.into() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that no command uses: one that is there, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>, ChannelError> {
        let cut = {
            let mut state = self.state();
            state.idle.retain(|connection| !connection.handle.is_closed());
            if let Some(connection) = state.idle.pop() {
                return Ok(connection);
            }
            state.cut.clone()
        };
        self.connect(cut).await.map(Arc::new)
    }

    /// Tries until the guest lets us in, it is certain that it never will, or time is up.
    async fn connect(&self, cut: CancellationToken) -> Result<Connection, ChannelError> {
        let settings = &self.0.settings;
        let deadline = Instant::now() + settings.within;
        let mut wait = FIRST_WAIT;
        let mut last = "nothing was heard of it".to_owned();
        loop {
            if let Some(over) = self.state().over.clone() {
                return Err(over);
            }
            let lost = || ChannelError::Lost { reason: self.state().lost.clone().unwrap_or_default() };
            let attempt = tokio::select! {
                attempt = timeout_at(deadline, self.attempt(cut.child_token())) => attempt,
                () = cut.cancelled() => return Err(lost()),
            };
            match attempt {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(NoConnection::Final(error))) => {
                    self.state().over.get_or_insert(error.clone());
                    return Err(error);
                }
                Ok(Err(NoConnection::Yet(reason))) => last = reason,
                Err(_) => {}
            }
            if Instant::now() + wait >= deadline {
                let (place, within) = (&settings.place, settings.within.as_secs_f64());
                let detail = format!("no login by SSH at {place} within {within} s: {last}");
                return Err(ChannelError::NeverGreeted { detail });
            }
            // A port that is closed tells nobody when it opens. This, before the first login of a boot, is the one
            // place where a guest is asked again.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cut.cancelled() => return Err(lost()),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(&self, cut: CancellationToken) -> Result<Connection, NoConnection> {
        let settings = &self.0.settings;
        let Some(pinned) = (settings.host_key)() else {
            return Err(NoConnection::Yet("its host key has not stood on its console".into()));
        };
        let stream = (settings.connector)().await;
        let stream = stream.map_err(|error| match ChannelError::from_io(&error) {
            Some(over) => NoConnection::Final(over.clone()),
            None => NoConnection::Yet(format!("failed to connect: {error}")),
        })?;
        open(stream, &settings.login, &pinned, cut).await
    }

    /// Opens a channel for one command. A connection that was kept may have ended unseen: then a new one is made.
    async fn open_channel(&self) -> Result<(Arc<Connection>, russh::Channel<russh::client::Msg>), ChannelError> {
        let bound = self.0.settings.login.handshake;
        loop {
            let connection = self.connection().await?;
            match timeout(bound, connection.handle.channel_open_session()).await {
                Ok(Ok(channel)) => return Ok((connection, channel)),
                Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
                    let detail = format!("the SSH server opens no session: {reason:?}");
                    return Err(ChannelError::Protocol { detail });
                }
                Ok(Err(_)) if connection.handle.is_closed() => {}
                Ok(Err(error)) => return Err(ChannelError::Lost { reason: error.to_string() }),
                Err(_) => {
                    let reason = format!("the SSH server opens no session within {} s", bound.as_secs_f64());
                    return Err(ChannelError::Lost { reason });
                }
            }
        }
    }

    async fn start(&self, request: ExecRequest) -> Result<Command, ChannelError> {
        let word = word()?;
        let line = line(&request, &word)?;
        let (connection, channel) = self.open_channel().await?;
        let stdin = request.stdin;
        let (pump, mut running, writer) = Pump::new(connection.clone(), channel);
        let (started, start) = oneshot::channel();
        let keep = self.clone();
        // From here on a future that is dropped takes the command back.
        let guard = Control::new(self, &running);
        writer.exec(true, line.into_bytes()).await.map_err(|_| ChannelError::Lost { reason: connection.why() })?;
        let kept = connection.clone();
        tokio::spawn(async move {
            if pump.run(word, request, started).await == End::Closed {
                keep.keep(kept);
            }
        });
        let pid = start.await.map_err(|_| ChannelError::Lost { reason: connection.why() })?;
        let pid = match pid {
            Ok(pid) => pid,
            Err(ChannelError::Lost { reason }) => {
                let reason = self.state().lost.clone().unwrap_or(reason);
                return Err(ChannelError::Lost { reason });
            }
            Err(error) => return Err(error),
        };
        running.pid = pid;
        let control = guard.with_group(pid);
        let stdin = stdin.then(|| Box::new(running.stdin) as crate::channel::Output);
        Ok(Command::new(stdin, Box::new(running.stdout), Box::new(running.stderr), Box::new(control)))
    }

    fn keep(&self, connection: Arc<Connection>) {
        let mut state = self.state();
        if state.idle.len() < IDLE && !connection.handle.is_closed() && state.over.is_none() {
            state.idle.push(connection);
        }
    }

    /// Kills a process group, by a connection of its own: the command's may be held up.
    async fn kill(&self, group: u32) {
        let Ok((connection, mut channel)) = self.open_channel().await else { return };
        if channel.exec(true, kill_line(group)).await.is_err() {
            return;
        }
        while let Some(message) = channel.wait().await {
            if matches!(message, russh::ChannelMsg::Close) {
                self.keep(connection);
                return;
            }
        }
    }
}

/// A word that nobody in the guest knows.
fn word() -> Result<String, ChannelError> {
    let mut bytes = [0; 12];
    random(&mut bytes).map_err(|error| ChannelError::Source { kind: io::ErrorKind::Other, message: error.chain() })?;
    Ok(format!("bootproof-{}", hex(&bytes)))
}

/// How a command over SSH is waited for and ended.
struct Control {
    channel: SshChannel,
    outcome: watch::Receiver<Outcome>,
    cancel: CancellationToken,
    /// Its process group, once it runs.
    group: Option<u32>,
}

impl Control {
    fn new(channel: &SshChannel, running: &Running) -> Self {
        Self { channel: channel.clone(), outcome: running.outcome.clone(), cancel: running.cancel.clone(), group: None }
    }

    fn with_group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }
}

impl CommandControl for Control {
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>> {
        let mut outcome = self.outcome.clone();
        async move {
            let ended = outcome.wait_for(Option::is_some).await.map(|held| held.clone());
            match ended {
                Ok(Some(Err(ChannelError::Lost { reason }))) => {
                    let reason = self.channel.state().lost.clone().unwrap_or(reason);
                    Err(ChannelError::Lost { reason })
                }
                Ok(Some(outcome)) => outcome,
                Ok(None) | Err(_) => Err(ChannelError::Lost { reason: "the connection ended".into() }),
            }
        }
        .boxed()
    }

    fn cancel(&self) {
        if self.outcome.borrow().is_some() || self.cancel.is_cancelled() {
            return;
        }
        self.cancel.cancel();
        // The end of a channel kills nothing in the guest.
        if let (Some(group), Ok(runtime)) = (self.group, tokio::runtime::Handle::try_current()) {
            let channel = self.channel.clone();
            runtime.spawn(async move { channel.kill(group).await });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Channel for SshChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Ssh
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ChannelError>> {
        async {
            let connection = self.connection().await?;
            self.keep(connection);
            Ok(())
        }
        .boxed()
    }

    fn forget_session(&self, reason: &str) {
        SshChannel::forget_session(self, reason);
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Command, ChannelError>> {
        self.start(request).boxed()
    }

    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<FileContent, ChannelError>> {
        shell_files::read(self, path).boxed()
    }

    fn write_file<'a>(&'a self, path: &'a str, mode: u32, source: Input) -> BoxFuture<'a, Result<u64, ChannelError>> {
        shell_files::write(self, path, mode, source).boxed()
    }
}
