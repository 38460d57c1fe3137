//! A command that runs in the guest over one SSH channel.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::shell::{Preface, Started};
use crate::channel::{ChannelError, ExecRequest, ExitStatus};

/// What of each output, and of the input, may wait for its reader. Beyond it the command is held up.
const PIPE: usize = 256 << 10;

/// How a command came out; `None` while it runs.
pub(super) type Outcome = Option<Result<ExitStatus, ChannelError>>;

/// Both sides of a command's pipes, and what it came to.
pub(super) struct Running {
    pub pid: u32,
    pub stdin: DuplexStream,
    pub stdout: Output,
    pub stderr: Output,
    pub outcome: watch::Receiver<Outcome>,
    /// Takes the command back.
    pub cancel: CancellationToken,
}

/// One of a command's outputs. Its end is only given where the output has ended: anything else is an error.
pub(super) struct Output {
    pipe: DuplexStream,
    failure: Arc<Mutex<Option<ChannelError>>>,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.pipe).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0 {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(failure) = failure {
                return Poll::Ready(Err(failure.into_io()));
            }
        }
        read
    }
}

/// Pumps one channel until it is closed.
pub(super) struct Pump {
    connection: Arc<Connection>,
    reader: ChannelReadHalf,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    outcome: watch::Sender<Outcome>,
    failure: Arc<Mutex<Option<ChannelError>>>,
    cancel: CancellationToken,
    /// The command has ended: it takes no more input.
    finished: CancellationToken,
}

/// How a pump came to its end.
#[derive(PartialEq, Eq)]
pub(super) enum End {
    /// The channel is closed: the connection may serve another command.
    Closed,
    /// The connection is over.
    Lost,
}

impl Pump {
    /// Makes the pipes of a command whose channel is open.
    pub fn new(
        connection: Arc<Connection>,
        channel: russh::Channel<client::Msg>,
    ) -> (Pump, Running, Arc<ChannelWriteHalf<client::Msg>>) {
        let (reader, writer) = channel.split();
        let writer = Arc::new(writer);
        let (stdin, input) = duplex(PIPE);
        let (stdout, their_stdout) = duplex(PIPE);
        let (stderr, their_stderr) = duplex(PIPE);
        let (outcome, result) = watch::channel(None);
        let failure = Arc::new(Mutex::new(None));
        let cancel = CancellationToken::new();
        let finished = cancel.child_token();
        tokio::spawn(feed(input, writer.clone(), finished.clone()));
        let output = |pipe| Output { pipe, failure: failure.clone() };
        let running = Running {
            pid: 0,
            stdin,
            stdout: output(stdout),
            stderr: output(stderr),
            outcome: result,
            cancel: cancel.clone(),
        };
        let (stdout, stderr) = (Some(their_stdout), Some(their_stderr));
        let pump = Pump { connection, reader, stdout, stderr, outcome, failure, cancel, finished };
        (pump, running, writer)
    }

    /// `started` hears of the beginning, or why there was none.
    pub async fn run(
        mut self,
        word: String,
        request: ExecRequest,
        started: oneshot::Sender<Result<u32, ChannelError>>,
    ) -> End {
        let mut preface = Preface::new(&word);
        let mut started = Some(started);
        let mut refusal = Vec::new();
        let end = loop {
            let message = tokio::select! {
                message = self.reader.wait() => message,
                () = self.cancel.cancelled(), if !self.is_discarding() => {
                    self.discard();
                    continue;
                }
            };
            match message {
                Some(ChannelMsg::Data { data }) => match started.take() {
                    None => self.pass(true, &data).await,
                    Some(waiting) => match preface.push(&data, &request) {
                        None => started = Some(waiting),
                        Some(Started::Refused(error)) => drop(waiting.send(Err(error))),
                        Some(Started::Runs { pid, output }) => {
                            let _ = waiting.send(Ok(pid));
                            self.pass(true, &output).await;
                        }
                    },
                },
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => {
                    if started.is_some() && refusal.len() < 1024 {
                        refusal.extend_from_slice(&data);
                    }
                    self.pass(false, &data).await;
                }
                Some(ChannelMsg::Failure) => {
                    if let Some(waiting) = started.take() {
                        let detail = "the SSH server does not execute commands".into();
                        let _ = waiting.send(Err(ChannelError::Protocol { detail }));
                    }
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.ended(Ok(ExitStatus::Code(i32::try_from(exit_status).unwrap_or(i32::MAX))));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => self.ended(number_of(&signal_name)),
                Some(ChannelMsg::Eof) => (self.stdout, self.stderr) = (None, None),
                Some(ChannelMsg::Close) => break End::Closed,
                // Windows and successes are the library's to follow.
                Some(_) => {}
                None => break End::Lost,
            }
        };
        // The library closes the channel's queue also where the whole connection is gone.
        let lost = end == End::Lost || self.connection.handle.is_closed();
        let error = if lost {
            ChannelError::Lost { reason: self.connection.why() }
        } else {
            ChannelError::Protocol { detail: "the SSH server closed the command without saying how it ended".into() }
        };
        if let Some(waiting) = started {
            let said = format!("{} {}", preface.text(), String::from_utf8_lossy(&refusal).trim());
            let error = match (lost, said.trim()) {
                (true, _) | (false, "") => error.clone(),
                (false, said) => ChannelError::Protocol { detail: format!("the login shell only said `{said}`") },
            };
            let _ = waiting.send(Err(error));
        }
        if lost && (self.stdout.is_some() || self.stderr.is_some()) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        }
        self.ended(Err(error));
        if lost { End::Lost } else { End::Closed }
    }

    /// The first word counts.
    fn ended(&self, outcome: Result<ExitStatus, ChannelError>) {
        self.finished.cancel();
        self.outcome.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(outcome);
            }
            first
        });
    }

    fn is_discarding(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.outcome.borrow().is_some()
    }

    fn discard(&mut self) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ChannelError::Cancelled);
        self.ended(Err(ChannelError::Cancelled));
        (self.stdout, self.stderr) = (None, None);
    }

    /// Hands output on. A reader that is gone holds nobody up; one that is slow holds up the command.
    async fn pass(&mut self, stdout: bool, data: &[u8]) {
        let pipe = if stdout { &mut self.stdout } else { &mut self.stderr };
        let Some(open) = pipe else { return };
        let written = tokio::select! {
            written = open.write_all(data) => written.is_ok(),
            () = self.cancel.cancelled() => false,
        };
        if !written {
            *pipe = None;
        }
    }
}

/// Carries standard input to the guest, and its end.
async fn feed(mut input: DuplexStream, writer: Arc<ChannelWriteHalf<client::Msg>>, finished: CancellationToken) {
    let mut chunk = vec![0; 32 << 10];
    loop {
        let read = tokio::select! {
            read = input.read(&mut chunk) => read,
            () = finished.cancelled() => return,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let sent = tokio::select! {
                    sent = writer.data(&chunk[..count]) => sent,
                    () = finished.cancelled() => return,
                };
                // Nobody takes any more; whoever writes learns it by the pipe that is dropped here.
                if sent.is_err() {
                    return;
                }
            }
        }
    }
    let _ = writer.eof().await;
}

fn number_of(signal: &Sig) -> Result<ExitStatus, ChannelError> {
    use rustix::process::Signal;
    let signal = match signal {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::FPE => Signal::FPE,
        Sig::HUP => Signal::HUP,
        Sig::ILL => Signal::ILL,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::SEGV => Signal::SEGV,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => Signal::USR2,
            "BUS" => Signal::BUS,
            "TRAP" => Signal::TRAP,
            "XCPU" => Signal::XCPU,
            "XFSZ" => Signal::XFSZ,
            "SYS" => Signal::SYS,
            // OpenSSH calls all others `SIG@openssh.com`.
            other => {
                let detail = format!("the command was ended by a signal that SSH only calls `{other}`");
                return Err(ChannelError::Protocol { detail });
            }
        },
    };
    Ok(ExitStatus::Signal(signal.as_raw()))
}
