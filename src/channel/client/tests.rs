//! The client against an agent that is played here, frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::{AgentChannel, ChannelEvent};
use crate::channel::ChannelError;
use crate::channel::protocol::{
    Decoder, ExecRequest, Frame, FrameKind, HEADER_LENGTH, Hello, HelloAck, MAX_PAYLOAD, Opened, PIPE_STDERR,
    PIPE_STDOUT, PROTOCOL_VERSION, Role, WINDOW, encode, encode_json, preamble,
};

/// Far longer than anything here takes; only so that a test that hangs says so.
const LONG: Duration = Duration::from_secs(20);

struct FakeAgent {
    stream: UnixStream,
    decoder: Decoder,
}

impl FakeAgent {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame() {
                return frame;
            }
            let mut chunk = [0; 4096];
            let count = timeout(LONG, self.stream.read(&mut chunk)).await.expect("the host says nothing").unwrap();
            assert!(count > 0, "the host has closed");
            self.decoder.push(&chunk[..count]);
        }
    }

    async fn expect(&mut self, kind: FrameKind) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == kind {
                return frame;
            }
        }
    }

    async fn greet(&mut self, nonce: &str, boot_id: &str) -> HelloAck {
        self.send(&hello(nonce, boot_id, PROTOCOL_VERSION)).await;
        serde_json::from_slice(&self.expect(FrameKind::HelloAck).await.payload).unwrap()
    }

    /// Takes a command's request and answers that it runs; the answer is its stream.
    async fn accept_exec(&mut self) -> u32 {
        let stream = self.expect(FrameKind::Open).await.stream;
        self.send(&encode_json(FrameKind::Opened, stream, &Opened::Exec { pid: 7, terminal: false }).unwrap()).await;
        stream
    }
}

fn hello(nonce: &str, boot_id: &str, protocol: u32) -> Vec<u8> {
    let hello = Hello {
        protocol,
        agent_version: "9.9".into(),
        boot_id: boot_id.into(),
        nonce: nonce.into(),
        hostname: "h".into(),
        kernel_release: "k".into(),
        architecture: "a".into(),
        role: Role::Init,
    };
    encode_json(FrameKind::Hello, 0, &hello).unwrap()
}

fn start() -> (AgentChannel, UnboundedReceiver<ChannelEvent>, FakeAgent) {
    let (host, guest) = UnixStream::pair().unwrap();
    let (channel, events) = AgentChannel::start(host);
    (channel, events, FakeAgent { stream: guest, decoder: Decoder::default() })
}

async fn ready() -> (AgentChannel, UnboundedReceiver<ChannelEvent>, FakeAgent) {
    let (channel, mut events, mut agent) = start();
    agent.greet("n1", "b1").await;
    assert_eq!(channel.ready().await.unwrap().nonce, "n1");
    assert!(matches!(events.recv().await, Some(ChannelEvent::Ready(_))));
    (channel, events, agent)
}

#[tokio::test]
async fn garbage_and_half_a_frame_before_the_hello_are_survived() {
    let (channel, _events, mut agent) = start();
    assert_eq!(channel.ping().await, Err(ChannelError::NotReady));
    agent.send(b"SeaBIOS says hello\r\n\xb0\x07\xf4\x1d").await;
    let half = encode(FrameKind::Data, 1, 9, &[1; MAX_PAYLOAD]);
    agent.send(&half[..1000]).await;
    agent.send(&preamble()).await;
    assert_eq!(agent.greet("n1", "b1").await.nonce, "n1");
    assert_eq!(timeout(LONG, channel.ready()).await.unwrap().unwrap().boot_id, "b1");
}

#[tokio::test]
async fn a_host_that_connects_late_asks_for_a_hello() {
    let (_channel, _events, mut agent) = start();
    agent.expect(FrameKind::Solicit).await;
}

#[tokio::test]
async fn a_new_hello_fails_what_is_under_way_and_begins_a_session() {
    let (channel, mut events, mut agent) = ready().await;
    let (execution, stream) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    let mut execution = execution.unwrap();
    let mut stdout = execution.stdout.take().unwrap();
    agent.send(&encode(FrameKind::Data, PIPE_STDOUT, stream, b"before")).await;
    let mut read = [0; 6];
    stdout.read_exact(&mut read).await.unwrap();

    agent.send(&encode(FrameKind::Data, PIPE_STDOUT, stream, &[9; 500])[..100]).await;
    agent.send(&preamble()).await;
    agent.greet("n2", "b2").await;
    let lost = ChannelError::Lost { reason: "the guest rebooted".into() };
    assert_eq!(execution.wait().await, Err(lost.clone()));
    let error = stdout.read_u8().await.unwrap_err();
    assert_eq!(ChannelError::from_io(&error), Some(&lost));
    assert_eq!(events.recv().await, Some(ChannelEvent::Lost { reason: "the guest rebooted".into() }));
    assert!(matches!(events.recv().await, Some(ChannelEvent::Ready(hello)) if hello.boot_id == "b2"));

    agent.greet("n3", "b2").await;
    assert_eq!(events.recv().await, Some(ChannelEvent::Lost { reason: "the guest's agent was restarted".into() }));
}

#[tokio::test]
async fn the_same_hello_twice_is_answered_twice_and_changes_nothing() {
    let (channel, mut events, mut agent) = ready().await;
    let (execution, _) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    agent.greet("n1", "b1").await;
    assert!(events.try_recv().is_err());
    drop(execution.unwrap());
    agent.expect(FrameKind::Reset).await;
}

#[tokio::test]
async fn another_version_is_said_clearly() {
    let (channel, mut events, mut agent) = start();
    agent.send(&hello("n1", "b1", 7)).await;
    let error = timeout(LONG, channel.ready()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the guest's agent (version 9.9) speaks protocol 7, and this bootproof speaks 1");
    assert_eq!(events.recv().await, Some(ChannelEvent::Lost { reason: error.to_string() }));
    // The agent is told as well, and one that fits is taken.
    agent.expect(FrameKind::HelloAck).await;
    agent.greet("n2", "b1").await;
    channel.ready().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_machine_goes() {
    let (channel, _events, mut agent) = ready().await;
    let (execution, _) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    let execution = execution.unwrap();
    let waiting = async { tokio::join!(execution.wait(), channel.ping()) };
    let leaving = async {
        agent.expect(FrameKind::Ping).await;
        drop(agent);
    };
    let ((waited, pinged), ()) = timeout(LONG, async { tokio::join!(waiting, leaving) }).await.unwrap();
    assert!(matches!(waited, Err(ChannelError::Closed { .. })), "{waited:?}");
    assert!(matches!(pinged, Err(ChannelError::Closed { .. })), "{pinged:?}");
    assert!(matches!(channel.ready().await, Err(ChannelError::Closed { .. })));
    assert!(matches!(channel.connect("127.0.0.1:1").await, Err(ChannelError::Closed { .. })));
}

#[tokio::test]
async fn an_agent_that_ignores_its_credit_is_stopped() {
    let (channel, _events, mut agent) = ready().await;
    let (execution, stream) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    let execution = execution.unwrap();
    let frame = encode(FrameKind::Data, PIPE_STDERR, stream, &[0; MAX_PAYLOAD]);
    for _ in 0..WINDOW / frame.len() {
        agent.send(&frame).await;
    }
    channel.ping_with(&mut agent).await;
    agent.send(&encode(FrameKind::Data, PIPE_STDERR, stream, b"!")).await;
    let error = timeout(LONG, execution.wait()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::Protocol { .. }), "{error}");
    agent.expect(FrameKind::Reset).await;
}

#[tokio::test]
async fn credit_comes_back_as_the_reader_reads() {
    let (channel, _events, mut agent) = ready().await;
    let (execution, stream) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    let mut execution = execution.unwrap();
    let frame = encode(FrameKind::Data, PIPE_STDOUT, stream, &[7; MAX_PAYLOAD]);
    agent.send(&frame).await;
    agent.send(&frame).await;
    let mut read = vec![0; 2 * MAX_PAYLOAD];
    execution.stdout.as_mut().unwrap().read_exact(&mut read).await.unwrap();
    let credit = agent.expect(FrameKind::Credit).await;
    assert_eq!((credit.stream, credit.pipe), (stream, PIPE_STDOUT));
    assert_eq!(credit.payload, (2 * (MAX_PAYLOAD + HEADER_LENGTH) as u32).to_le_bytes());
}

#[tokio::test]
async fn what_writes_wait_for_is_credit() {
    let (channel, _events, mut agent) = ready().await;
    let request = ExecRequest { stdin: true, ..ExecRequest::new(["x"]) };
    let (execution, stream) = tokio::join!(channel.exec(request), agent.accept_exec());
    let mut execution = execution.unwrap();
    let mut stdin = execution.stdin.take().unwrap();
    let mut queued = 0;
    while let Ok(result) = timeout(Duration::from_millis(50), stdin.write(&[1; 4096])).await {
        queued += result.unwrap();
    }
    assert!(queued < WINDOW && queued > WINDOW / 2, "{queued}");
    assert_eq!(agent.expect(FrameKind::Data).await.stream, stream);
}

#[tokio::test]
async fn a_reset_that_the_host_knows_of_asks_for_a_new_session() {
    let (channel, mut events, mut agent) = ready().await;
    channel.forget_session("the machine was reset");
    assert_eq!(events.recv().await, Some(ChannelEvent::Lost { reason: "the machine was reset".into() }));
    assert_eq!(channel.ping().await, Err(ChannelError::NotReady));
    agent.expect(FrameKind::Solicit).await;
    agent.greet("n2", "b2").await;
    assert_eq!(channel.ready().await.unwrap().nonce, "n2");
}

#[tokio::test]
async fn dropping_every_handle_closes_the_connection() {
    let (channel, _events, mut agent) = ready().await;
    let (execution, _) = tokio::join!(channel.exec(ExecRequest::new(["x"])), agent.accept_exec());
    drop(channel);
    let execution = execution.unwrap();
    channel_is_open(&mut agent).await;
    drop(execution);
    let mut rest = Vec::new();
    timeout(LONG, agent.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

/// A HELLO is still answered.
async fn channel_is_open(agent: &mut FakeAgent) {
    agent.greet("n1", "b1").await;
}

impl AgentChannel {
    /// A ping that the fake agent answers: everything that it sent before has been handled then.
    async fn ping_with(&self, agent: &mut FakeAgent) {
        let answer = async {
            let ping = agent.expect(FrameKind::Ping).await;
            agent.send(&encode(FrameKind::Pong, 0, 0, &ping.payload)).await;
        };
        let (round_trip, ()) = tokio::join!(self.ping(), answer);
        round_trip.unwrap();
    }
}
