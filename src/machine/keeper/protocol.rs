//! What a run and a keeper say to each other: one JSON document a line. And what a keeper answers on its own socket to
//! whoever wants its machine to stop: one word, once the machine is gone.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::registry::MachineRecord;

/// How long a machine that was asked to stop may take before it is killed.
pub const TERMINATION_BOUND: Duration = Duration::from_secs(10);

/// A wish on the keeper's socket: to have the machine ended.
pub const STOP: &str = "stop";
/// The answer to a wish for a kept machine's console, which is a console's name: its bytes follow, both ways.
pub const CONNECTED: &str = "connected";
/// The answer to what cannot be had.
pub const REFUSED: &str = "refused";

/// The answer to a wish to stop: the machine ended by itself, having been asked to.
pub const STOPPED: &str = "stopped";
/// The answer to a wish to stop: the machine had to be killed.
pub const KILLED: &str = "killed";

/// First line on the keeper's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeeperSpec {
    pub program: PathBuf,
    /// `{fd:NAME}` stands for the descriptor of the socket of that name.
    pub arguments: Vec<String>,
    /// Listening unix sockets that the child inherits.
    pub sockets: Vec<SocketSpec>,
    /// Programs that the child needs: started before it, gone with it.
    #[serde(default)]
    pub servers: Vec<ServerSpec>,
    /// Where the child's standard error goes.
    pub stderr: PathBuf,
    /// The keeper's own socket, for `ps` and `stop`.
    pub control: PathBuf,
    /// The record by which the machine is found again; held under a lock as long as the keeper lives.
    pub record_path: PathBuf,
    pub record: MachineRecord,
    /// The run's folder, which counts as in use for as long as the keeper lives; removed by the last one to go.
    pub run_folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SocketSpec {
    pub name: String,
    pub path: PathBuf,
}

/// A program that serves one unix socket, which it inherits as descriptor 3 by systemd's convention.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerSpec {
    /// For messages.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub socket: PathBuf,
    /// Its working directory, and where it keeps temporary files.
    pub folder: PathBuf,
}

/// Later lines on the keeper's standard input. The end of input means: kill.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    Kill,
    /// Go on without the run. `consoles`: socket -> file that takes what the console prints from now on.
    Keep {
        consoles: Vec<(PathBuf, PathBuf)>,
        console_limit: u64,
        forwards: Vec<(u16, u16)>,
    },
}

/// Lines on the keeper's standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Started { pid: u32 },
    Failed { message: String },
    Kept,
    Exited { code: Option<i32>, signal: Option<i32> },
}
