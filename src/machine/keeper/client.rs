//! The run's side of a keeper.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::protocol::{KeeperSpec, Order, Status};
use crate::error::{Context, Error, Result};

/// A keeper and the machine that it holds. Dropping it kills the machine.
pub struct Keeper {
    pid: u32,
    stdin: ChildStdin,
    status: Lines<BufReader<ChildStdout>>,
    /// Never killed: its death would be no orderly end.
    process: Child,
    /// Becomes readable when the machine's process has ended; `None` where that was so from the start.
    machine: Option<Arc<OwnedFd>>,
    /// For a keeper that cannot remove it any more.
    record_path: PathBuf,
    exit: Option<KeeperExit>,
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
        let mut command = Command::new(program);
        command.arg("keeper").stdin(Stdio::piped()).stdout(Stdio::piped());
        // A terminal's Ctrl-C is for the run: the run decides what happens to its machines. And a terminal that is closed
        // takes no kept machine along.
        // SAFETY: between fork and exec only one async-signal-safe system call happens: setsid.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
        let mut process = command.spawn().infrastructure(|| "failed to start the keeper".into())?;
        let mut stdin = process.stdin.take().expect("standard input is piped");
        let stdout = process.stdout.take().expect("standard output is piped");
        let mut status = BufReader::new(stdout).lines();
        write_line(&mut stdin, spec).await?;
        match next_status(&mut status).await? {
            Some(Status::Started { pid }) => {
                let machine = watch(pid)?;
                let record_path = spec.record_path.clone();
                Ok(Self { pid, stdin, status, process, machine, record_path, exit: None })
            }
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

    /// Waits until the machine's process and its keeper have ended. Cancel-safe.
    pub async fn exited(&mut self) -> KeeperExit {
        let exit = loop {
            if let Some(exit) = self.exit {
                break exit;
            }
            match next_status(&mut self.status).await {
                Ok(Some(Status::Exited { code, signal })) => self.exit = Some(KeeperExit { code, signal }),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.exit = Some(KeeperExit { code: None, signal: None }),
            }
        };
        // A keeper that was killed could not wait for its machine, which the kernel ends then.
        if let Some(machine) = self.machine.clone() {
            let _ = tokio::task::spawn_blocking(move || wait_for_end(&machine)).await;
        }
        let _ = self.process.wait().await;
        if exit == (KeeperExit { code: None, signal: None }) {
            let _ = std::fs::remove_file(&self.record_path);
        }
        exit
    }
}

/// For the end of a process that is no child of ours; `None` when it has ended already.
fn watch(pid: u32) -> Result<Option<Arc<OwnedFd>>> {
    let failed = || format!("failed to watch process {pid}");
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| Error::infrastructure(failed()))?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(descriptor) => Ok(Some(Arc::new(descriptor))),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error).infrastructure(failed),
    }
}

fn wait_for_end(process: &OwnedFd) {
    while poll(&mut [PollFd::new(process, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
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
