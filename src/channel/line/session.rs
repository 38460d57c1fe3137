//! The host's end: one task that reads the line and never waits for a consumer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::command::{Parts, Status};
use super::greeting::{self, Next, Progress};
use super::wire::{Decoder, Said};
use super::{Greeting, LineOptions, WINDOW, refused};
use crate::channel::error::ChannelError;
use crate::channel::protocol::{ExitStatus, RefusalReason};

/// What takes the shell's place.
const MULTIPLEXER: &str = include_str!("multiplexer.sh");
/// Chunks of input that may be under way to one command: one that it reads, and one that follows.
const INPUT_CHUNKS: usize = 2;

/// Whether the guest answers.
#[derive(Clone, Debug)]
pub enum Standing {
    Waiting,
    Ready,
    Failed(ChannelError),
}

/// What handles want of the session.
pub enum Order {
    Exec {
        /// As `wire::command` gives it.
        line: String,
        stdin: bool,
        answer: oneshot::Sender<Result<Parts, ChannelError>>,
        turn: OwnedSemaphorePermit,
    },
    Feed {
        id: u64,
        bytes: Vec<u8>,
    },
    EndInput {
        id: u64,
    },
    /// A chunk of output was read.
    Credit {
        id: u64,
        stream: usize,
    },
    Cancel {
        id: u64,
    },
    Forget {
        reason: String,
    },
}

enum Phase {
    Greeting(Progress),
    /// A shell was told to make room for the multiplexer, and to say this word then.
    Preparing {
        word: String,
        printed: Vec<u8>,
    },
    /// The multiplexer was sent, or answers already.
    Session {
        decoder: Decoder,
        ready: bool,
    },
    /// Nothing is tried any more in this boot.
    GivenUp,
}

/// What goes to the guest.
enum Outgoing {
    Line(String),
    /// The bytes follow once the guest waits for them, and nothing else follows until they have arrived: some shells read
    /// ahead.
    Input {
        slot: usize,
        file: char,
        bytes: Vec<u8>,
    },
}

/// What the guest has to say before anything else is sent.
enum Awaiting {
    Nothing,
    Invitation(Vec<u8>),
    Arrival,
}

/// Where an output's chunks go.
type ChunkSender = mpsc::UnboundedSender<Result<Vec<u8>, ChannelError>>;

/// A command under way.
struct Running {
    slot: usize,
    /// The program and its folder, for what is said of them.
    words: String,
    answer: Option<(oneshot::Sender<Result<Parts, ChannelError>>, Parts)>,
    status: watch::Sender<Status>,
    /// `None` once they are over.
    outputs: [Option<ChunkSender>; 2],
    chunks: [u64; 2],
    ended: [bool; 2],
    /// `None` where it has no standard input.
    room: Option<Arc<Semaphore>>,
    fed_chunks: u64,
    /// The guest was told that no more comes.
    input_ended: bool,
    /// The guest has let go of the input.
    input_gone: bool,
    pid: Option<u32>,
    exited: bool,
    cancelled: bool,
    _turn: OwnedSemaphorePermit,
}

pub struct Pump {
    options: LineOptions,
    standing: watch::Sender<Standing>,
    line: mpsc::UnboundedSender<Vec<u8>>,
    phase: Phase,
    /// Until when the guest has to answer; `None` once it has, or was found not to.
    deadline: Option<Instant>,
    queue: VecDeque<Outgoing>,
    awaiting: Awaiting,
    commands: BTreeMap<u64, Running>,
    last_id: u64,
    slots: Vec<usize>,
}

impl Pump {
    pub async fn run(
        stream: UnixStream,
        options: LineOptions,
        mut orders: mpsc::UnboundedReceiver<Order>,
        standing: watch::Sender<Standing>,
    ) {
        let (mut reader, mut writer) = stream.into_split();
        let (line, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        // A guest that takes nothing holds up what is sent to it, and not what it says.
        let writing = tokio::spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut pump = Self {
            phase: Phase::Greeting(Progress::new(options.greeting.clone())),
            deadline: Some(Instant::now() + options.within),
            options,
            standing,
            line,
            queue: VecDeque::new(),
            awaiting: Awaiting::Nothing,
            commands: BTreeMap::new(),
            last_id: 0,
            slots: Vec::new(),
        };
        let mut buffer = vec![0; 64 << 10];
        let reason = loop {
            let deadline = pump.deadline;
            tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(0) => break "the machine's end of it is gone".to_owned(),
                    Ok(count) => pump.take(&buffer[..count]),
                    Err(error) => break format!("reading from it failed: {error}"),
                },
                order = orders.recv() => match order {
                    Some(order) => pump.obey(order),
                    None => break "it was closed on this side".into(),
                },
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    pump.overdue();
                }
            }
            pump.send_what_may_go();
        };
        writing.abort();
        let error = ChannelError::Closed { reason };
        pump.fail_commands(&error);
        pump.standing.send_replace(Standing::Failed(error));
    }

    fn overdue(&mut self) {
        self.deadline = None;
        let bound = crate::lane::units::Span(self.options.within);
        let device = &self.options.device;
        let detail = match &self.phase {
            Phase::Greeting(progress) => progress.describe(device),
            Phase::Preparing { .. } => format!("what answers on `{device}` is not a shell"),
            Phase::Session { .. } => format!("the shell on `{device}` does not do what it was asked for"),
            Phase::GivenUp => return,
        };
        // It may still come: then so be it.
        let error = ChannelError::NeverGreeted { detail: format!("{detail}, after {bound}") };
        self.standing.send_replace(Standing::Failed(error));
    }

    fn begin_anew(&mut self) {
        self.phase = Phase::Greeting(Progress::new(self.options.greeting.clone()));
        self.deadline = Some(Instant::now() + self.options.within);
        self.standing.send_replace(Standing::Waiting);
    }

    /// The session is over, for a reason that the guest does not survive.
    fn lose(&mut self, error: &ChannelError) {
        self.fail_commands(error);
        self.begin_anew();
    }

    fn fail_commands(&mut self, error: &ChannelError) {
        self.queue.clear();
        self.awaiting = Awaiting::Nothing;
        self.slots.clear();
        for running in std::mem::take(&mut self.commands).into_values() {
            running.fail(error);
        }
    }

    fn write(&self, bytes: Vec<u8>) {
        // A line that takes nothing more is found out by reading.
        let _ = self.line.send(bytes);
    }

    fn take(&mut self, bytes: &[u8]) {
        match &mut self.phase {
            Phase::Greeting(progress) => {
                progress.take(bytes);
                self.greet();
            }
            Phase::Preparing { word, printed } => {
                printed.extend_from_slice(bytes);
                if memchr::memmem::find(printed, word.as_bytes()).is_some() {
                    self.send_multiplexer();
                }
            }
            Phase::Session { decoder, .. } => {
                decoder.push(bytes);
                self.listen();
            }
            Phase::GivenUp => {}
        }
    }

    fn greet(&mut self) {
        loop {
            let Phase::Greeting(progress) = &mut self.phase else { return };
            match progress.next() {
                Next::Wait => return,
                Next::Say(text) => self.write([text.as_bytes(), b"\n"].concat()),
                Next::Shell => return self.prepare(),
                Next::Refused(said) => {
                    let device = &self.options.device;
                    let error = ChannelError::Authentication {
                        detail: format!("the login on `{device}` was answered with `{said}`"),
                    };
                    self.phase = Phase::GivenUp;
                    self.deadline = None;
                    self.standing.send_replace(Standing::Failed(error));
                    return;
                }
            }
        }
    }

    /// The shell may echo what it is told: the word comes in two halves, and only its answer holds them as one.
    fn prepare(&mut self) {
        let Some((first, second)) = nonce().zip(nonce()) else { return self.give_up("no randomness was to be had") };
        let nonce = &second[..16];
        let line = format!(
            " stty raw -echo; printf '%s%s\\n' {first} {second}; exec /bin/sh -c \"$(head -c {})\" sh {nonce} {WINDOW}\n",
            MULTIPLEXER.len()
        );
        self.write(line.into_bytes());
        self.phase = Phase::Preparing { word: format!("{first}{second}"), printed: Vec::new() };
    }

    fn send_multiplexer(&mut self) {
        let Phase::Preparing { word, .. } = &self.phase else { return };
        let decoder = Decoder::new(&word[word.len() / 2..][..16]);
        self.phase = Phase::Session { decoder, ready: false };
        self.write(MULTIPLEXER.as_bytes().to_vec());
    }

    fn give_up(&mut self, detail: &str) {
        self.phase = Phase::GivenUp;
        self.deadline = None;
        let error = ChannelError::NeverGreeted { detail: detail.into() };
        self.standing.send_replace(Standing::Failed(error));
    }

    fn listen(&mut self) {
        loop {
            let Phase::Session { decoder, .. } = &mut self.phase else { return };
            match decoder.next() {
                Ok(Some(said)) => {
                    if let Err(error) = self.hear(said) {
                        return self.damaged(&error);
                    }
                }
                Ok(None) => return,
                Err(error) => return self.damaged(&error),
            }
        }
    }

    /// Whatever comes after that cannot be believed.
    fn damaged(&mut self, error: &ChannelError) {
        self.fail_commands(error);
        self.phase = Phase::GivenUp;
        self.standing.send_replace(Standing::Failed(error.clone()));
    }

    fn hear(&mut self, said: Said) -> Result<(), ChannelError> {
        match said {
            Said::Ready => {
                if let Phase::Session { ready, .. } = &mut self.phase {
                    *ready = true;
                }
                self.deadline = None;
                self.standing.send_replace(Standing::Ready);
            }
            Said::Quit { reason } => match &self.phase {
                Phase::Session { ready: false, .. } => self.give_up(&reason),
                _ => self.lose(&ChannelError::Lost { reason: "its shell in the guest has ended".into() }),
            },
            Said::Noise { line } => {
                if matches!(self.options.greeting, Greeting::Backdoor) && greeting::is_backdoor(&line) {
                    self.lose(&ChannelError::Lost { reason: "the guest's backdoor was started anew".into() });
                    self.prepare();
                }
            }
            Said::InputAwaited => match std::mem::replace(&mut self.awaiting, Awaiting::Arrival) {
                Awaiting::Invitation(bytes) => self.write(bytes),
                Awaiting::Nothing | Awaiting::Arrival => return Err(out_of_turn()),
            },
            Said::InputArrived => self.awaiting = Awaiting::Nothing,
            Said::Output { id, stream, sequence, bytes } => {
                self.queue.push_front(Outgoing::Line("w".into()));
                let Some(running) = self.commands.get_mut(&id) else { return Err(out_of_turn()) };
                if running.chunks[stream] != sequence {
                    return Err(out_of_turn());
                }
                running.chunks[stream] += 1;
                let wanted = running.outputs[stream].as_ref().is_some_and(|output| output.send(Ok(bytes)).is_ok());
                if !wanted {
                    self.queue.push_back(Outgoing::Line(format!("g {} {}", running.slot, stream + 1)));
                }
            }
            other => self.hear_of_command(other)?,
        }
        Ok(())
    }

    fn hear_of_command(&mut self, said: Said) -> Result<(), ChannelError> {
        let (Said::Process { id, .. }
        | Said::Started { id }
        | Said::Refused { id, .. }
        | Said::EndOfOutput { id, .. }
        | Said::Exited { id, .. }
        | Said::InputConsumed { id }
        | Said::InputBroken { id }
        | Said::InputEnded { id }) = said
        else {
            return Ok(());
        };
        let Some(running) = self.commands.get_mut(&id) else { return Err(out_of_turn()) };
        match said {
            Said::Process { pid, .. } => {
                running.pid = Some(pid);
                if running.cancelled {
                    self.queue.push_back(Outgoing::Line(format!("k {pid}")));
                }
            }
            Said::Started { .. } => {
                if let Some((answer, parts)) = running.answer.take()
                    && answer.send(Ok(parts)).is_err()
                {
                    return self.cancel(id);
                }
            }
            Said::Refused { why, .. } => {
                let words = &running.words;
                let error = match why.as_str() {
                    "missing" => refused(RefusalReason::NotFound, format!("{words}: the program was not found")),
                    "denied" => refused(RefusalReason::PermissionDenied, format!("{words}: permission denied")),
                    _ => refused(RefusalReason::NotFound, format!("{words}: its working directory cannot be entered")),
                };
                if let Some((answer, _)) = running.answer.take() {
                    let _ = answer.send(Err(error));
                }
            }
            Said::EndOfOutput { stream, chunks, .. } => {
                if running.chunks[stream] != chunks {
                    return Err(out_of_turn());
                }
                running.outputs[stream] = None;
                running.ended[stream] = true;
            }
            Said::Exited { status, .. } => {
                running.exited = true;
                running.end(Ok(as_shells_say(status)));
                if let Some(room) = &running.room {
                    room.close();
                }
                self.end_input(id);
            }
            Said::InputConsumed { .. } => {
                if let Some(room) = &running.room {
                    room.add_permits(1);
                }
            }
            Said::InputBroken { .. } => {
                if let Some(room) = &running.room {
                    room.close();
                }
                self.end_input(id);
            }
            Said::InputEnded { .. } => running.input_gone = true,
            _ => {}
        }
        self.forget_if_over(id);
        Ok(())
    }

    fn forget_if_over(&mut self, id: u64) {
        let over = |running: &Running| running.exited && running.ended == [true; 2] && running.input_gone;
        if self.commands.get(&id).is_some_and(over)
            && let Some(running) = self.commands.remove(&id)
        {
            self.slots.push(running.slot);
        }
    }

    fn end_input(&mut self, id: u64) {
        if let Some(running) = self.commands.get_mut(&id)
            && running.room.is_some()
            && !running.input_ended
        {
            running.input_ended = true;
            self.queue.push_back(Outgoing::Line(format!("c {}", running.slot)));
        }
    }

    fn cancel(&mut self, id: u64) -> Result<(), ChannelError> {
        let Some(running) = self.commands.get_mut(&id).filter(|running| !running.exited && !running.cancelled) else {
            return Ok(());
        };
        running.cancelled = true;
        running.break_off(&ChannelError::Cancelled);
        if let Some(pid) = running.pid {
            self.queue.push_back(Outgoing::Line(format!("k {pid}")));
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Exec { line, stdin, answer, turn } => self.exec(&line, stdin, answer, turn),
            Order::Feed { id, bytes } => {
                if let Some(running) = self.commands.get_mut(&id).filter(|running| !running.input_ended) {
                    let file = if running.fed_chunks.is_multiple_of(2) { 'a' } else { 'b' };
                    running.fed_chunks += 1;
                    self.queue.push_back(Outgoing::Input { slot: running.slot, file, bytes });
                }
            }
            Order::EndInput { id } => self.end_input(id),
            Order::Credit { id, stream } => {
                if let Some(running) = self.commands.get(&id).filter(|running| !running.ended[stream]) {
                    self.queue.push_back(Outgoing::Line(format!("g {} {}", running.slot, stream + 1)));
                }
            }
            Order::Cancel { id } => {
                let _ = self.cancel(id);
            }
            Order::Forget { reason } => self.lose(&ChannelError::Lost { reason }),
        }
    }

    fn exec(
        &mut self,
        line: &str,
        stdin: bool,
        answer: oneshot::Sender<Result<Parts, ChannelError>>,
        turn: OwnedSemaphorePermit,
    ) {
        match &*self.standing.borrow() {
            Standing::Ready => {}
            Standing::Waiting => return drop(answer.send(Err(ChannelError::NotReady))),
            Standing::Failed(error) => return drop(answer.send(Err(error.clone()))),
        }
        self.last_id += 1;
        let id = self.last_id;
        // Numbers that are free are below the count of what runs.
        let slot = self.slots.pop().unwrap_or(self.commands.len());
        let room = stdin.then(|| Arc::new(Semaphore::new(INPUT_CHUNKS)));
        let (status, watched) = watch::channel(None);
        let ((out, stdout), (err, stderr)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let parts = Parts {
            id,
            room: room.clone(),
            input_chunk: self.options.input_chunk,
            outputs: [stdout, stderr],
            status: watched,
        };
        let words = line.split_once("' ").map_or(line, |(_, words)| words).replace("'\"$_bp_l\"'", " ");
        let running = Running {
            slot,
            words: words.chars().take(80).collect(),
            answer: Some((answer, parts)),
            status,
            outputs: [Some(out), Some(err)],
            chunks: [0; 2],
            ended: [false; 2],
            input_gone: room.is_none(),
            room,
            fed_chunks: 0,
            input_ended: false,
            pid: None,
            exited: false,
            cancelled: false,
            _turn: turn,
        };
        self.commands.insert(id, running);
        self.queue.push_back(Outgoing::Line(format!("x {id} {slot} {} {line}", u8::from(stdin))));
    }

    fn send_what_may_go(&mut self) {
        while matches!(self.awaiting, Awaiting::Nothing) {
            match self.queue.pop_front() {
                None => return,
                Some(Outgoing::Line(line)) => self.write(format!("{line}\n").into_bytes()),
                Some(Outgoing::Input { slot, file, bytes }) => {
                    self.write(format!("i {slot} {file} {}\n", bytes.len()).into_bytes());
                    self.awaiting = Awaiting::Invitation(bytes);
                }
            }
        }
    }
}

impl Running {
    fn end(&self, how: Result<ExitStatus, ChannelError>) {
        self.status.send_if_modified(|status| {
            let first = status.is_none();
            if first {
                *status = Some(how);
            }
            first
        });
    }

    fn break_off(&mut self, error: &ChannelError) {
        self.end(Err(error.clone()));
        for output in self.outputs.iter_mut().filter_map(Option::take) {
            let _ = output.send(Err(error.clone()));
        }
        if let Some(room) = &self.room {
            room.close();
        }
    }

    fn fail(mut self, error: &ChannelError) {
        self.break_off(error);
        if let Some((answer, _)) = self.answer.take() {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

/// A shell knows a signal by its number and 128; whoever ends with such a status is taken for having passed one on.
fn as_shells_say(status: i32) -> ExitStatus {
    if (129..=192).contains(&status) { ExitStatus::Signal(status - 128) } else { ExitStatus::Code(status) }
}

fn out_of_turn() -> ChannelError {
    ChannelError::Protocol { detail: "what came over the line does not follow from what was asked for".into() }
}

/// 32 hexadecimal digits that nobody knows.
fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    crate::secret::random(&mut bytes).ok()?;
    Some(crate::secret::hex(&bytes))
}
