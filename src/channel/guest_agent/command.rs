//! A command with streams, of an agent that starts commands, reads files and writes files.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conversation::Conversation;
use crate::channel::{ChannelError, Command, CommandControl, ExecRequest, ExitStatus, Output, RefusalReason};

/// `$1` what the names of its files begin with, `$2` the working directory, variables up to `--`, then the program. The
/// outputs' files are open on the host's behalf already, and lose their names at once.
const START: &str = r#"f=$1; d=$2; shift 2
while [ "$1" != -- ]; do export "$1"; shift; done; shift
exec >>"$f.out" 2>>"$f.err" && rm -f "$f.out" "$f.err"
cd "$d" || exit 127
"#;
const NO_INPUT: &str = "exec </dev/null\n";
/// The feeder hands pieces on in the order in which their names come, and holds the pipe that they come by open itself, so
/// that the agent never waits for it.
const INPUT: &str = r#"( exec 3<>"$f.ctl"; trap "" HUP
while read -r n <&3; do [ "$n" = end ] && break; cat "$f.$n" || break; rm -f "$f.$n"; done
rm -f "$f".* ) >"$f.in" 2>/dev/null &
exec <"$f.in"
"#;
/// The agent starts a command in its own process group; what is to be killed by its group leads one, under the same number.
const LEADER: &str = r#"s=$1; shift; read -r a b c d g r </proc/$$/stat
if [ "$g" = "$$" ]; then eval "$s"; else exec setsid /bin/sh -c "$s" sh "$@"; fi"#;
/// Before the command leads its group it is alone.
const KILL: &str = r#"kill -KILL "-$1" 2>/dev/null || kill -KILL "$1""#;
const RUN: &str = r#"unset f d s a b c g r; exec "$@""#;
/// Makes the pipes of a command that has input.
const PIPES: &str = r#"mkfifo -m 600 "$1.ctl" "$1.in""#;

/// What is read of a file at once, in bytes.
const CHUNK: u64 = 1 << 20;
/// One piece of standard input, and how many may lie in the guest.
const PIECE: usize = 1 << 20;
const PIECES: u64 = 8;
/// What of each output may wait for its reader on this side.
const PIPE: usize = 256 << 10;
/// One argument of a process takes no more (`MAX_ARG_STRLEN`).
const LONGEST: usize = 128 << 10;

/// How often the guest is asked whether anything has happened: often at first, then less.
///
/// The agent has no notifications of any kind: it answers, and never begins. It has nothing that could be waited in either:
/// what blocks it blocks every other request, `kill` among them. So here, and nowhere else, it is asked again.
pub(super) struct Pace(Duration);

impl Pace {
    const FIRST: Duration = Duration::from_millis(2);
    const LONGEST: Duration = Duration::from_millis(100);

    pub fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The guest did something: ask at once again.
    pub fn reset(&mut self) {
        self.0 = Self::FIRST;
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 3 / 2).min(Self::LONGEST);
    }
}

/// One session with the agent: what was begun in it ends with it.
#[derive(Clone)]
pub(super) struct Session {
    pub conversation: Conversation,
    pub number: u64,
    /// A folder of the guest that only we look into.
    pub folder: String,
}

impl Session {
    pub async fn ask(&self, command: &str, arguments: Value) -> Result<Value, ChannelError> {
        self.conversation.ask(self.number, command, arguments).await
    }

    pub async fn open(&self, path: &str, mode: &str) -> Result<i64, ChannelError> {
        let handle = self.ask("guest-file-open", json!({ "path": path, "mode": mode })).await?;
        handle.as_i64().ok_or_else(|| nonsense("guest-file-open", &handle))
    }

    pub async fn close(&self, handle: i64) -> Result<(), ChannelError> {
        self.ask("guest-file-close", json!({ "handle": handle })).await.map(drop)
    }

    /// What follows in the file, and whether its end was seen.
    pub async fn read(&self, handle: i64) -> Result<(Vec<u8>, bool), ChannelError> {
        let answer = self.ask("guest-file-read", json!({ "handle": handle, "count": CHUNK })).await?;
        let bytes = answer["buf-b64"].as_str().and_then(|text| BASE64.decode(text).ok());
        let bytes = bytes.ok_or_else(|| nonsense("guest-file-read", &answer))?;
        Ok((bytes, answer["eof"] == true))
    }

    async fn write(&self, handle: i64, bytes: &[u8]) -> Result<(), ChannelError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let request = json!({ "handle": handle, "buf-b64": BASE64.encode(rest) });
            let answer = self.ask("guest-file-write", request).await?;
            let count = answer["count"].as_u64().and_then(|count| usize::try_from(count).ok());
            match count {
                Some(count @ 1..) if count <= rest.len() => rest = &rest[count..],
                _ => return Err(nonsense("guest-file-write", &answer)),
            }
        }
        Ok(())
    }

    async fn spawn(&self, argv: &[String], capture: bool) -> Result<i64, ChannelError> {
        let request = json!({ "path": argv[0], "arg": argv[1..], "capture-output": capture });
        let answer = self.ask("guest-exec", request).await?;
        answer["pid"].as_i64().filter(|pid| *pid > 1).ok_or_else(|| nonsense("guest-exec", &answer))
    }

    /// How a command ended; `None` while it runs. To be asked no more once it has ended.
    async fn status(&self, pid: i64) -> Result<Option<(ExitStatus, Value)>, ChannelError> {
        let answer = self.ask("guest-exec-status", json!({ "pid": pid })).await?;
        if answer["exited"] != true {
            return Ok(None);
        }
        let number = |name: &str| answer[name].as_i64().and_then(|number| i32::try_from(number).ok());
        let status = match (number("signal"), number("exitcode")) {
            (Some(signal), _) => ExitStatus::Signal(signal),
            (None, Some(code)) => ExitStatus::Code(code),
            (None, None) => return Err(nonsense("guest-exec-status", &answer)),
        };
        Ok(Some((status, answer)))
    }

    /// Runs a short script of ours to its end; gives its status and what it printed.
    pub async fn script(&self, script: &str, arguments: &[&str]) -> Result<(ExitStatus, String), ChannelError> {
        let words = ["/bin/sh", "-c", script, "sh"];
        let argv: Vec<String> = words.iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        let pid = self.spawn(&argv, true).await?;
        let mut pace = Pace::new();
        loop {
            if let Some((status, answer)) = self.status(pid).await? {
                let said = answer["out-data"].as_str().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
                return Ok((status, String::from_utf8_lossy(&said).trim_end().to_owned()));
            }
            pace.wait().await;
        }
    }
}

pub(super) fn nonsense(command: &str, answer: &Value) -> ChannelError {
    let answer: String = answer.to_string().chars().take(200).collect();
    ChannelError::Protocol { detail: format!("`{command}` was answered with `{answer}`") }
}

/// Starts a command. `name`: of its files, new for each.
pub(super) async fn start(session: &Session, name: &str, request: &ExecRequest) -> Result<Command, ChannelError> {
    let invalid = |message: String| ChannelError::Refused { reason: RefusalReason::Invalid, message };
    let files = format!("{}/{name}", session.folder);
    let input = if request.stdin { INPUT } else { NO_INPUT };
    let mut argv: Vec<String> = ["/bin/sh", "-c"].map(String::from).into();
    argv.extend([
        LEADER.into(),
        "sh".into(),
        format!("{START}{input}{RUN}"),
        files.clone(),
        request.directory.clone().unwrap_or_else(|| "/".into()),
    ]);
    argv.extend(request.environment.iter().map(|(name, value)| format!("{name}={value}")));
    argv.push("--".into());
    argv.extend(request.argv.iter().cloned());
    if request.argv.first().is_none_or(String::is_empty) || argv.iter().any(|word| word.contains('\0')) {
        return Err(invalid("a command has a program, and no NUL bytes".into()));
    }
    if argv.iter().any(|word| word.len() >= LONGEST) {
        return Err(invalid(format!("a word of the command is longer than {} KiB", LONGEST >> 10)));
    }
    let (stdout, stderr) =
        (session.open(&format!("{files}.out"), "w+").await?, session.open(&format!("{files}.err"), "w+").await?);
    let mut pipe = None;
    if request.stdin {
        let (status, _) = session.script(PIPES, &[&files]).await?;
        if !status.success() {
            return Err(ChannelError::Protocol { detail: format!("`mkfifo` failed in the guest ({status})") });
        }
        // For reading as well: opening one end alone would wait for the other.
        pipe = Some(session.open(&format!("{files}.ctl"), "r+").await?);
    }
    let pid = session.spawn(&argv, false).await?;
    let (outcome, result) = watch::channel(None);
    let shared = Arc::new(Shared {
        session: session.clone(),
        pid,
        outcome,
        exited: CancellationToken::new(),
        cancelled: CancellationToken::new(),
        failure: Mutex::default(),
    });
    tokio::spawn(shared.clone().watch());
    let stdin = pipe.map(|pipe| {
        let (stdin, input) = duplex(PIPE);
        let feeder = Feeder { shared: shared.clone(), files, pipe, sent: 0, taken: 0 };
        tokio::spawn(feeder.run(input));
        Box::new(stdin) as Output
    });
    let (stdout, stderr) = (shared.output(stdout), shared.output(stderr));
    Ok(Command::new(stdin, Box::new(stdout), Box::new(stderr), Box::new(Control { shared, outcome: result })))
}

type Outcome = Option<Result<ExitStatus, ChannelError>>;

/// What the tasks around one command share.
struct Shared {
    session: Session,
    pid: i64,
    outcome: watch::Sender<Outcome>,
    /// The command has ended, or nothing more can be known of it.
    exited: CancellationToken,
    cancelled: CancellationToken,
    failure: Mutex<Option<ChannelError>>,
}

impl Shared {
    /// Follows the command to its end. Also one that was taken back: the agent remembers it until then.
    async fn watch(self: Arc<Self>) {
        let mut pace = Pace::new();
        loop {
            match self.session.status(self.pid).await {
                Ok(None) => pace.wait().await,
                Ok(Some((status, _))) => {
                    self.ended(Ok(status));
                    break;
                }
                Err(error) => {
                    self.fail(error);
                    break;
                }
            }
        }
        self.exited.cancel();
    }

    fn fail(&self, error: ChannelError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        self.ended(Err(error));
    }

    /// The first word counts.
    fn ended(&self, outcome: Result<ExitStatus, ChannelError>) {
        self.outcome.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(outcome);
            }
            first
        });
    }

    /// Carries an output's file to a reader.
    fn output(self: &Arc<Self>, handle: i64) -> OutputPipe {
        let (pipe, mut sink) = duplex(PIPE);
        let shared = self.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.carry(handle, &mut sink).await {
                shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            drop(sink);
            let _ = shared.session.close(handle).await;
        });
        OutputPipe { pipe, shared: self.clone() }
    }

    async fn carry(&self, handle: i64, sink: &mut DuplexStream) -> Result<(), ChannelError> {
        let mut pace = Pace::new();
        loop {
            // Asked before the file is: what was written until then is in it.
            let exited = self.exited.is_cancelled();
            let (bytes, at_end) = self.session.read(handle).await?;
            if !bytes.is_empty() {
                pace.reset();
                tokio::select! {
                    written = sink.write_all(&bytes) => if written.is_err() {
                        // Nobody reads any more.
                        return Ok(());
                    },
                    () = self.cancelled.cancelled() => return Ok(()),
                }
            } else if at_end && exited {
                return Ok(());
            }
            if at_end && !exited {
                tokio::select! {
                    () = pace.wait() => {}
                    () = self.exited.cancelled() => {}
                    () = self.cancelled.cancelled() => return Ok(()),
                }
            }
        }
    }
}

/// One of a command's outputs.
struct OutputPipe {
    pipe: DuplexStream,
    shared: Arc<Shared>,
}

impl AsyncRead for OutputPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.pipe).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0 {
            let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(failure) = failure {
                return Poll::Ready(Err(failure.into_io()));
            }
        }
        read
    }
}

/// Hands standard input to the guest, piece by piece.
struct Feeder {
    shared: Arc<Shared>,
    /// What the names of the command's files begin with.
    files: String,
    /// By which the guest hears of pieces.
    pipe: i64,
    sent: u64,
    /// How many pieces are known to be read and gone.
    taken: u64,
}

impl Feeder {
    async fn run(mut self, input: DuplexStream) {
        let exited = self.shared.exited.clone();
        tokio::select! {
            fed = self.feed(input) => if let Err(error) = fed {
                self.shared.fail(error);
            },
            // Whoever writes learns it by the pipe that is dropped here.
            () = exited.cancelled() => {}
        }
        // Also to a command that has ended without reading all: the guest's feeder ends by it.
        let _ = self.say("end").await;
        let _ = self.shared.session.close(self.pipe).await;
    }

    async fn feed(&mut self, mut input: DuplexStream) -> Result<(), ChannelError> {
        let session = self.shared.session.clone();
        let mut piece = Vec::with_capacity(PIPE);
        loop {
            piece.clear();
            // What is there goes, up to a piece: who writes little wants it to arrive.
            if input.read_buf(&mut piece).await.unwrap_or(0) == 0 {
                return Ok(());
            }
            while piece.len() < PIECE
                && let Some(Ok(1..)) = input.read_buf(&mut piece).now_or_never()
            {}
            self.make_room(&session).await?;
            let name = self.sent.to_string();
            let handle = session.open(&format!("{}.{name}", self.files), "w").await?;
            session.write(handle, &piece).await?;
            session.close(handle).await?;
            self.say(&name).await?;
            self.sent += 1;
        }
    }

    /// Waits while too many pieces lie in the guest: it is gone when its feeder has handed it on.
    async fn make_room(&mut self, session: &Session) -> Result<(), ChannelError> {
        let mut pace = Pace::new();
        while self.sent - self.taken >= PIECES {
            match session.open(&format!("{}.{}", self.files, self.taken), "r").await {
                Ok(handle) => {
                    session.close(handle).await?;
                    pace.wait().await;
                }
                Err(error) if error.is_refused(RefusalReason::NotFound) => self.taken += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn say(&self, line: &str) -> Result<(), ChannelError> {
        self.shared.session.write(self.pipe, format!("{line}\n").as_bytes()).await?;
        self.shared.session.ask("guest-file-flush", json!({ "handle": self.pipe })).await.map(drop)
    }
}

/// How a command is waited for and ended.
struct Control {
    shared: Arc<Shared>,
    outcome: watch::Receiver<Outcome>,
}

impl CommandControl for Control {
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>> {
        let mut outcome = self.outcome.clone();
        async move {
            match outcome.wait_for(Option::is_some).await.map(|held| held.clone()) {
                Ok(Some(outcome)) => outcome,
                Ok(None) | Err(_) => Err(ChannelError::Lost { reason: "the guest agent's session ended".into() }),
            }
        }
        .boxed()
    }

    fn cancel(&self) {
        if self.outcome.borrow().is_some() {
            return;
        }
        self.shared.fail(ChannelError::Cancelled);
        self.shared.cancelled.cancel();
        let shared = self.shared.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A session that is over has taken the command with it.
                let _ = shared.session.script(KILL, &[&shared.pid.to_string()]).await;
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cancel();
    }
}
