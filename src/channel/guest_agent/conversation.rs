//! One request after another, over a port that anything may have been left in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::channel::{ChannelError, RefusalReason};

/// Ends whatever the agent's parser was in the middle of, and comes back before the answer to `guest-sync-delimited`.
const SENTINEL: u8 = 0xff;
/// More than the largest answer that is asked for, as base64 in JSON.
const LONGEST_ANSWER: usize = 8 << 20;

/// How the agent stands.
#[derive(Clone, Debug)]
enum Standing {
    /// It has not answered yet.
    Waiting,
    /// In step; a number that is new each time.
    Ready(u64),
    Closed(String),
}

struct Job {
    /// The session that it belongs to.
    session: u64,
    line: Vec<u8>,
    what: String,
    answer: oneshot::Sender<Result<Value, ChannelError>>,
}

/// The host's end. Cheap to clone.
#[derive(Clone)]
pub(super) struct Conversation {
    jobs: mpsc::Sender<Job>,
    standing: watch::Receiver<Standing>,
    control: Arc<Control>,
}

/// What reaches the task from outside the queue.
#[derive(Default)]
struct Control {
    forget: Notify,
    reason: Mutex<Option<String>>,
}

impl Control {
    fn reason(&self) -> String {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reason.unwrap_or_else(|| "the guest agent began anew".into())
    }
}

impl Conversation {
    /// `bound`: how long the agent may take for one request; nothing that is asked of it takes it long.
    pub fn start(stream: UnixStream, bound: Duration) -> Self {
        // One that waits is one too many already: the agent does one thing at a time.
        let (jobs, queue) = mpsc::channel(1);
        let (told, standing) = watch::channel(Standing::Waiting);
        let control = Arc::new(Control::default());
        let task = Task { stream, buffer: Vec::new(), told, control: control.clone(), bound, session: 0 };
        tokio::spawn(task.run(queue));
        Self { jobs, standing, control }
    }

    /// Waits until the agent is in step; gives the session's number.
    pub async fn ready(&self) -> Result<u64, ChannelError> {
        let mut standing = self.standing.clone();
        loop {
            match &*standing.borrow_and_update() {
                Standing::Waiting => {}
                Standing::Ready(session) => return Ok(*session),
                Standing::Closed(reason) => return Err(ChannelError::Closed { reason: reason.clone() }),
            }
            if standing.changed().await.is_err() {
                return Err(ChannelError::Closed { reason: "the machine is gone".into() });
            }
        }
    }

    /// The guest is known to be gone: what is under way fails now.
    pub fn forget(&self, reason: &str) {
        *self.control.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
        self.control.forget.notify_one();
    }

    /// Asks within a session; fails when that is over.
    pub async fn ask(&self, session: u64, command: &str, arguments: Value) -> Result<Value, ChannelError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string().into_bytes();
        line.push(b'\n');
        let (answer, answered) = oneshot::channel();
        let closed = || match &*self.standing.borrow() {
            Standing::Closed(reason) => ChannelError::Closed { reason: reason.clone() },
            Standing::Waiting | Standing::Ready(_) => ChannelError::Lost { reason: self.control.reason() },
        };
        self.jobs.send(Job { session, line, what: command.into(), answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

struct Task {
    stream: UnixStream,
    /// What has come and was not taken yet.
    buffer: Vec<u8>,
    told: watch::Sender<Standing>,
    control: Arc<Control>,
    bound: Duration,
    session: u64,
}

/// Why a stretch of the conversation is over.
enum Over {
    /// Begin anew.
    Lost,
    /// Nobody asks any more, or the connection is over.
    Closed(String),
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let reason = loop {
            self.told.send_replace(Standing::Waiting);
            if let Over::Closed(reason) = self.session(&mut queue).await {
                break reason;
            }
        };
        self.told.send_replace(Standing::Closed(reason));
    }

    async fn session(&mut self, queue: &mut mpsc::Receiver<Job>) -> Over {
        let control = self.control.clone();
        let synchronised = tokio::select! {
            synchronised = self.synchronise() => synchronised,
            () = control.forget.notified() => return Over::Lost,
            // Who asks now asks a session that is over.
            over = refuse(queue, &control) => return over,
        };
        if let Err(reason) = synchronised {
            return Over::Closed(reason);
        }
        self.session += 1;
        self.told.send_replace(Standing::Ready(self.session));
        loop {
            let job = tokio::select! {
                job = queue.recv() => job,
                () = control.forget.notified() => return Over::Lost,
            };
            let Some(Job { session, line, what, answer }) = job else {
                return Over::Closed("it was closed on this side".into());
            };
            if session != self.session {
                let _ = answer.send(Err(ChannelError::Lost { reason: control.reason() }));
                continue;
            }
            let bound = self.bound;
            let answered = tokio::select! {
                answered = timeout(bound, self.exchange(&line)) => answered,
                () = control.forget.notified() => {
                    let _ = answer.send(Err(ChannelError::Lost { reason: control.reason() }));
                    return Over::Lost;
                }
            };
            match answered {
                Ok(Ok(value)) => drop(answer.send(judge(&what, value))),
                Ok(Err(reason)) => {
                    let _ = answer.send(Err(ChannelError::Lost { reason: reason.clone() }));
                    return Over::Closed(reason);
                }
                Err(_) => {
                    let reason = format!("the guest agent has not answered `{what}` within {} s", bound.as_secs_f64());
                    *control.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
                    let _ = answer.send(Err(ChannelError::Lost { reason }));
                    return Over::Lost;
                }
            }
        }
    }

    /// Gets in step with the agent, whatever it was doing and whatever is still under way to us. QEMU holds what we say
    /// back until the guest has opened the port: so this waits through a boot, and is answered when the agent starts.
    async fn synchronise(&mut self) -> Result<(), String> {
        let mut bytes = [0; 4];
        crate::secret::random(&mut bytes).map_err(|error| error.chain())?;
        let wanted = i64::from(u32::from_le_bytes(bytes));
        let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": wanted } });
        let request = [&[SENTINEL], line.to_string().as_bytes(), b"\n"].concat();
        self.stream.write_all(&request).await.map_err(|error| error.to_string())?;
        loop {
            let line = self.line().await?;
            // Only what follows a sentinel can be the answer.
            let Some(start) = memchr::memrchr(SENTINEL, &line) else { continue };
            let answer: Option<Value> = serde_json::from_slice(&line[start + 1..]).ok();
            if answer.is_some_and(|answer| answer["return"] == wanted) {
                return Ok(());
            }
        }
    }

    async fn exchange(&mut self, line: &[u8]) -> Result<Value, String> {
        self.stream.write_all(line).await.map_err(|error| error.to_string())?;
        let line = self.line().await?;
        serde_json::from_slice(&line).map_err(|error| format!("the guest agent's answer cannot be read: {error}"))
    }

    /// The next whole line. Dropped in the middle, it has taken nothing.
    async fn line(&mut self) -> Result<Vec<u8>, String> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let rest = self.buffer.split_off(searched + end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len();
            if searched > LONGEST_ANSWER {
                return Err("the guest agent's answer has no end".into());
            }
            self.buffer.reserve(64 << 10);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("QEMU has closed the guest agent's port".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

async fn refuse(queue: &mut mpsc::Receiver<Job>, control: &Control) -> Over {
    while let Some(job) = queue.recv().await {
        let _ = job.answer.send(Err(ChannelError::Lost { reason: control.reason() }));
    }
    Over::Closed("it was closed on this side".into())
}

/// What an answer means: `return`, or an `error` in words of the guest's.
fn judge(what: &str, mut answer: Value) -> Result<Value, ChannelError> {
    if let Some(value) = answer.get_mut("return") {
        return Ok(value.take());
    }
    let error = &answer["error"];
    let said = error["desc"].as_str().unwrap_or("no reason was given");
    let missing = error["class"] == "CommandNotFound" || said.contains("has been disabled");
    if missing {
        let message = format!("the guest agent does not do `{what}`: {said}; its configuration blocks it");
        return Err(ChannelError::Refused { reason: RefusalReason::PermissionDenied, message });
    }
    // The C library's words end the message.
    let reason = match said.rsplit(": ").next().unwrap_or_default() {
        "No such file or directory" => RefusalReason::NotFound,
        "Permission denied" | "Read-only file system" => RefusalReason::PermissionDenied,
        "Is a directory" | "Not a directory" => RefusalReason::Invalid,
        "No space left on device" => RefusalReason::NoSpace,
        _ => RefusalReason::Other,
    };
    Err(ChannelError::Refused { reason, message: format!("`{what}`: {said}") })
}
