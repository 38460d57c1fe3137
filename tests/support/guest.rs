//! The real agent program over a unix socket, and a client connected to it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bootproof::channel::{AgentChannel, ChannelEvent, Role};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// Far longer than anything here takes; only so that a test that hangs says so.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Guest {
    pub channel: AgentChannel,
    pub events: UnboundedReceiver<ChannelEvent>,
    pub agent: Child,
    pub scratch: TempDir,
}

impl Guest {
    pub async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let socket = scratch.path().join("socket");
        let console = scratch.path().join("console");
        std::fs::write(&console, "").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_bootproof-agent"))
            .args(["serve", "--socket"])
            .arg(&socket)
            .arg("--console")
            .arg(&console)
            .arg("--run-directory")
            .arg(scratch.path().join("run"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let (channel, events) = AgentChannel::start(stream);
        let hello = timeout(LONG, channel.ready()).await.unwrap().unwrap();
        assert_eq!(hello.role, Role::Service);
        Self { channel, events, agent, scratch }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.channel.close();
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
