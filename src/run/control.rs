//! The run's own socket, by which others get into its machines while it goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::steps::RunningMachine;
use crate::attach::{Answer, Call, read_line, serve_command, write_line};
use crate::error::{Context, Result};
use crate::machine::ConsoleTap;

/// How long a caller may take to say what it wants.
const CALL_BOUND: Duration = Duration::from_secs(10);

/// Listening; ends with all that it serves when `end` is called.
pub struct Control {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Control {
    /// # Errors
    /// Infrastructure: the socket cannot be made.
    pub fn start(path: PathBuf, machines: BTreeMap<String, RunningMachine>) -> Result<Self> {
        let listener =
            UnixListener::bind(&path).infrastructure(|| format!("failed to listen on `{}`", path.display()))?;
        Ok(Self { task: tokio::spawn(listen(listener, Arc::new(machines))), path })
    }

    /// Nobody is in any machine by this way when it returns.
    pub async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn listen(listener: UnixListener, machines: Arc<BTreeMap<String, RunningMachine>>) {
    // Whoever is served goes with this.
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(served.spawn(serve(stream, machines.clone()))),
                // Out of descriptors, for instance: another caller's end makes room.
                Err(_) => match served.join_next().await {
                    Some(_) => {}
                    None => return,
                },
            },
            Some(_) = served.join_next() => {}
        }
    }
}

/// What cannot be told to the caller any more concerns nobody.
async fn serve(mut stream: UnixStream, machines: Arc<BTreeMap<String, RunningMachine>>) {
    let Ok(Ok(call)) = tokio::time::timeout(CALL_BOUND, read_line::<Call>(&mut stream)).await else { return };
    let name = match &call {
        Call::Console { machine, .. } | Call::Command { machine, .. } => machine.clone(),
    };
    let refuse = |message: String| Answer::Refused { message };
    let Some(machine) = machines.get(&name) else {
        let _ = write_line(&mut stream, &refuse(format!("there is no machine `{name}` in this run"))).await;
        return;
    };
    match call {
        Call::Console { console, .. } => match machine.machine.tap_console(&console).await {
            Some(tap) => {
                if write_line(&mut stream, &Answer::Connected).await.is_ok() {
                    serve_console(tap, stream).await;
                }
            }
            None => {
                let message = format!("`{name}` is off, or has no console that can be typed into");
                let _ = write_line(&mut stream, &refuse(message)).await;
            }
        },
        Call::Command { requests, patience_ms, .. } => match machine.machine.agent() {
            Some(channel) => {
                if write_line(&mut stream, &Answer::Connected).await.is_ok() {
                    let _ = serve_command(&channel, requests, Duration::from_millis(patience_ms), stream).await;
                }
            }
            None => {
                let _ = write_line(&mut stream, &refuse(format!("no agent of ours is in `{name}`"))).await;
            }
        },
    }
}

/// Until the machine goes off, or the caller goes away.
async fn serve_console(mut tap: ConsoleTap, stream: UnixStream) {
    let (mut reader, mut writer) = stream.into_split();
    let input = tap.input();
    let shown = async {
        while let Some(bytes) = tap.next().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let typed = async {
        let mut bytes = [0; 4 << 10];
        while let Ok(count @ 1..) = reader.read(&mut bytes).await {
            if input.send(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = shown => {}
        () = typed => {}
    }
}
