//! The run's side of a keeper.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::protocol::{KeeperSpec, Order, Status};
use crate::error::{Context, Error, Result};

/// A keeper and the machine that it holds. Dropping it kills the machine.
pub struct Keeper {
    pid: u32,
    stdin: ChildStdin,
    status: Lines<BufReader<ChildStdout>>,
    /// Reaped by tokio when it ends; never killed, since its death would be no orderly end.
    _process: Child,
}

/// How a machine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Keeper {
    /// Starts the keeper, which starts the machine. The sockets are connectable when this returns.
    pub async fn start(spec: &KeeperSpec) -> Result<Self> {
        let program = std::env::current_exe().infrastructure(|| "failed to find our own program".into())?;
        let mut process = Command::new(program)
            .arg("keeper")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .infrastructure(|| "failed to start the keeper".into())?;
        let mut stdin = process.stdin.take().expect("standard input is piped");
        let stdout = process.stdout.take().expect("standard output is piped");
        let mut status = BufReader::new(stdout).lines();
        write_line(&mut stdin, spec).await?;
        match next_status(&mut status).await? {
            Some(Status::Started { pid }) => Ok(Self { pid, stdin, status, _process: process }),
            Some(Status::Failed { message }) => Err(Error::infrastructure(message)),
            other => Err(Error::infrastructure(format!("the keeper said {other:?} instead of starting its machine"))),
        }
    }

    /// QEMU's process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills the machine at once; the exit follows through `exited`.
    pub async fn kill(&mut self) {
        // A keeper that no longer listens has no machine any more.
        let _ = write_line(&mut self.stdin, &Order::Kill).await;
    }

    /// Lets the machine go on without the run.
    ///
    /// `consoles`: socket -> file that takes what is printed from now on; `forwards`: for the record.
    pub async fn keep(
        mut self,
        consoles: Vec<(PathBuf, PathBuf)>,
        console_limit: u64,
        forwards: Vec<(u16, u16)>,
    ) -> Result<()> {
        write_line(&mut self.stdin, &Order::Keep { consoles, console_limit, forwards }).await?;
        match next_status(&mut self.status).await? {
            Some(Status::Kept) => Ok(()),
            other => Err(Error::infrastructure(format!("the keeper said {other:?} instead of keeping its machine"))),
        }
    }

    /// Waits until the machine's process has ended. Cancel-safe.
    pub async fn exited(&mut self) -> KeeperExit {
        loop {
            match next_status(&mut self.status).await {
                Ok(Some(Status::Exited { code, signal })) => return KeeperExit { code, signal },
                Ok(Some(_)) => {}
                // The keeper is gone, and with it, by the kernel's word, its machine.
                Ok(None) | Err(_) => return KeeperExit { code: None, signal: None },
            }
        }
    }
}

async fn write_line(stdin: &mut ChildStdin, message: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message).infrastructure(|| "failed to write to the keeper".into())?;
    line.push(b'\n');
    stdin.write_all(&line).await.infrastructure(|| "failed to write to the keeper".into())?;
    stdin.flush().await.infrastructure(|| "failed to write to the keeper".into())
}

async fn next_status(status: &mut Lines<BufReader<ChildStdout>>) -> Result<Option<Status>> {
    let line = status.next_line().await.infrastructure(|| "failed to read from the keeper".into())?;
    line.map(|line| serde_json::from_str(&line).infrastructure(|| format!("the keeper said `{line}`"))).transpose()
}
