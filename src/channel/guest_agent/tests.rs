//! Agents that are not as they should be. What a good one does is tried with qemu-guest-agent in real guests.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::GuestAgentChannel;
use crate::channel::{Channel, ChannelError, ExecRequest, RefusalReason};

/// Far longer than anything here takes; only so that a test that hangs says so.
const LONG: Duration = Duration::from_secs(30);
const BOUND: Duration = Duration::from_secs(2);

struct Agent {
    lines: tokio::io::Split<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Agent {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { lines: BufReader::new(reader).split(b'\n'), writer }
    }

    async fn hears(&mut self) -> serde_json::Value {
        let line = timeout(LONG, self.lines.next_segment()).await.unwrap().unwrap().expect("the host has closed");
        let line = line.strip_prefix(b"\xff").unwrap_or(&line);
        serde_json::from_slice(line).unwrap()
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Answers the synchronisation, after what an earlier conversation had left.
    async fn synchronise(&mut self) {
        let asked = self.hears().await;
        assert_eq!(asked["execute"], "guest-sync-delimited");
        let id = &asked["arguments"]["id"];
        self.says(b"{\"return\": {\"pid\": 7}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"\"}}\n").await;
        self.says(b"{\"retu\n\0").await;
        self.says(&[&b"\xff"[..], format!("{{\"return\": {id}}}\n").as_bytes()].concat()).await;
    }
}

fn pair() -> (GuestAgentChannel, Agent) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (GuestAgentChannel::start(ours, BOUND, BOUND), Agent::new(theirs))
}

#[tokio::test]
async fn an_agent_that_never_answers_is_told_in_time() {
    let (channel, _agent) = pair();
    let error = timeout(LONG, channel.ready()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::NeverGreeted { .. }), "{error:?}");
    assert!(error.to_string().contains("no qemu-guest-agent answered within 2 s"), "{error}");
}

#[tokio::test]
async fn an_agent_whose_commands_are_blocked_says_so() {
    let (channel, mut agent) = pair();
    let waiting = tokio::spawn(async move { channel.ready().await });
    agent.synchronise().await;
    assert_eq!(agent.hears().await["execute"], "guest-exec");
    agent
        .says(b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Command guest-exec has been disabled\"}}\n")
        .await;
    let error = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_refused(RefusalReason::PermissionDenied), "{error:?}");
    assert!(error.to_string().contains("`guest-exec`"), "{error}");
}

#[tokio::test]
async fn an_agent_that_stops_answering_fails_what_was_asked_and_is_asked_anew() {
    let (channel, mut agent) = pair();
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { channel.exec(ExecRequest::new(["true"])).await.map(drop) }
    });
    agent.synchronise().await;
    agent.hears().await;
    let error = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::Lost { .. } | ChannelError::NeverGreeted { .. }), "{error:?}");
    // In step again, whatever the late answer was.
    agent.says(b"{\"return\": {\"pid\": 9}}\n").await;
    agent.synchronise().await;
}

#[tokio::test]
async fn a_guest_that_is_gone_ends_what_is_under_way() {
    let (channel, mut agent) = pair();
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { channel.exec(ExecRequest::new(["true"])).await.map(drop) }
    });
    agent.synchronise().await;
    agent.hears().await;
    channel.forget_session("the machine was reset");
    let error = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error, ChannelError::Lost { reason: "the machine was reset".into() });
    drop(agent);
    let closed = timeout(LONG, channel.ready()).await.unwrap().unwrap_err();
    assert!(matches!(closed, ChannelError::Closed { .. } | ChannelError::NeverGreeted { .. }), "{closed:?}");
}
