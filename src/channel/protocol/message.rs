//! Messages: JSON in the payload of HELLO, HELLO-ACK, SOLICIT, OPEN, OPENED, FINISHED and RESET.
//!
//! A reader ignores fields that it does not know: versions are compared before anything else is believed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::awaiting::{AwaitRequest, Awaited};

/// Who the agent is and what it runs on. Nothing here changes while the session lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// The agent's own version.
    #[serde(default)]
    pub agent_version: String,
    /// `/proc/sys/kernel/random/boot_id`: tells a rebooted guest from a restarted agent.
    #[serde(default)]
    pub boot_id: String,
    /// 32 hexadecimal digits, new for every session.
    pub nonce: String,
    #[serde(default)]
    pub hostname: String,
    /// As `uname -r` gives it.
    #[serde(default)]
    pub kernel_release: String,
    /// As `uname -m` gives it.
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub role: Role,
}

/// What the agent is in its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The guest's init: it powers off by itself and stands in for commands that the image lacks.
    Init,
    /// A service beside a real init.
    #[default]
    Service,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    pub protocol: u32,
    /// The HELLO's.
    pub nonce: String,
    #[serde(default)]
    pub host_version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solicit {
    pub protocol: u32,
}

/// What a stream is opened for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Exec(ExecRequest),
    /// The file's bytes come on the main pipe.
    ReadFile {
        path: String,
    },
    /// The file's bytes go on the main pipe; the file appears whole, or not at all.
    WriteFile {
        path: String,
        mode: u32,
    },
    /// A TCP connection from inside the guest; both directions on the main pipe.
    Connect {
        address: String,
    },
    EmitMarker {
        name: String,
        node: Option<String>,
        arguments: Vec<(String, String)>,
    },
    /// Print this boot's markers again, unchanged, from this sequence number on.
    RepeatMarkers {
        from: u64,
    },
    /// Become this machine: for a guest that was forked from a checkpoint, or went back to one.
    TakeIdentity(Identity),
    /// Wait until something is so in the guest.
    Await(AwaitRequest),
    PowerOff,
    Reboot,
}

/// What makes a guest that was forked one of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Hexadecimal digits that nobody else has, for the kernel's random generator; it is left as it is when absent.
    #[serde(default)]
    pub entropy: Option<String>,
    /// Wall clock, since 1970.
    pub unix_milliseconds: i64,
    /// A guest that goes back to where it was itself keeps its names.
    #[serde(default)]
    pub names: Option<IdentityNames>,
    /// Units of systemd's that have drawn randomness before, where they run.
    #[serde(default)]
    pub restart: Vec<String>,
}

/// What a machine is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityNames {
    pub hostname: String,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// In the form of a UUID.
    pub boot_id: String,
    /// DMI's serial number of the product.
    pub serial: String,
    /// DMI's number of the product, in the form of a UUID.
    pub uuid: String,
    /// What the kernel would have been told; networks and names are taken from it.
    pub command_line: String,
    /// MAC addresses of the cards that have to be there first.
    #[serde(default)]
    pub cards: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityTaken {
    /// The first 32 bytes that the generator gave, as hexadecimal digits.
    pub random_sample: String,
    /// What could not be had, in words.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A command to run in the guest, in a process group of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program (looked up in `PATH` when it has no slash) and its arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The working directory; the agent's own when absent, which is `/`.
    #[serde(default)]
    pub directory: Option<String>,
    /// Whether the host sends standard input; it is empty otherwise.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal of this size takes the place of all three streams; what it shows comes as standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// In characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

impl TerminalSize {
    /// As the payload of RESIZE.
    pub fn to_bytes(self) -> [u8; 4] {
        let ([one, two], [three, four]) = (self.rows.to_le_bytes(), self.columns.to_le_bytes());
        [one, two, three, four]
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [one, two, three, four] = *bytes else { return None };
        Some(Self { rows: u16::from_le_bytes([one, two]), columns: u16::from_le_bytes([three, four]) })
    }
}

impl ExecRequest {
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// A request that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opened {
    Exec {
        pid: u32,
        /// It has the terminal that was asked for; agents before there were terminals do not say.
        #[serde(default)]
        terminal: bool,
    },
    /// Size in bytes as the file system gives it (0 for files under `/proc`), and the mode's permission bits.
    ReadFile {
        size: u64,
        mode: u32,
    },
    WriteFile,
    Connect {
        peer: String,
    },
}

/// How a request came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Exited(ExitStatus),
    FileRead { bytes: u64 },
    FileWritten { bytes: u64 },
    Disconnected,
    MarkerEmitted { sequence: u64 },
    MarkersRepeated { count: u64 },
    IdentityTaken(IdentityTaken),
    Awaited(Awaited),
    PoweringOff,
    Rebooting,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// As a shell gives it: the code, or 128 and the signal's number.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(formatter, "exit status {code}"),
            ExitStatus::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// Why a stream ended before its request was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// One line for people, without a full stop.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    NotFound,
    PermissionDenied,
    ConnectionRefused,
    ConnectionReset,
    Unreachable,
    TimedOut,
    /// The guest has no room left, on a disk or in memory.
    NoSpace,
    /// The request makes no sense.
    Invalid,
    /// The host took it back.
    Cancelled,
    /// A reason that this version has no word for; the message says it.
    #[serde(other)]
    Other,
}

impl RefusalReason {
    pub fn from_error(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => RefusalReason::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => RefusalReason::PermissionDenied,
            ErrorKind::ConnectionRefused => RefusalReason::ConnectionRefused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                RefusalReason::ConnectionReset
            }
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
                RefusalReason::Unreachable
            }
            ErrorKind::TimedOut => RefusalReason::TimedOut,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => RefusalReason::NoSpace,
            ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::ArgumentListTooLong => RefusalReason::Invalid,
            _ => RefusalReason::Other,
        }
    }
}
