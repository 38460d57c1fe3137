//! Being in a machine that is up: the user's terminal, and the ways to it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::naming::full_name;
use crate::attach::{Answer, Call, read_line, run_socket, write_line};
use crate::channel::TerminalSize;
use crate::error::{Context as _, Error, Result};
use crate::machine::registry::MachineRecord;

/// Standard input as a terminal that hands on every key; as it was before once this is dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` where standard input is no terminal.
    pub fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = || "failed to set the terminal".into();
        let before = tcgetattr(&stdin).infrastructure(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).infrastructure(failed)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal that standard input is; what everybody takes for granted where it does not know.
pub fn terminal_size() -> TerminalSize {
    match tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// What asks us to stop: the terminal has to be set back before.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn open() -> Result<Self> {
        let open = |kind| signal(kind).infrastructure(|| "failed to watch for signals".into());
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The machine's own folder among its run's sockets.
pub fn runtime(record: &MachineRecord) -> &Path {
    record.control.parent().unwrap_or(Path::new("/"))
}

/// Calls the run that drives the machine.
///
/// # Errors
/// Infrastructure: the run does not listen, or refuses.
pub async fn call_run(record: &MachineRecord, call: &Call) -> Result<UnixStream> {
    let socket: PathBuf = run_socket(runtime(record).parent().unwrap_or(Path::new("/")));
    let name = full_name(record);
    let failed = || format!("failed to get into `{name}` through its run");
    let mut stream = UnixStream::connect(&socket).await.infrastructure(failed).map_err(|error| {
        error.hint("a run lets others in from its first step to its last; `bootproof exec` and probes let in nobody")
    })?;
    write_line(&mut stream, call).await.infrastructure(failed)?;
    match read_line::<Answer>(&mut stream).await.infrastructure(failed)? {
        Answer::Connected => Ok(stream),
        Answer::Refused { message } => Err(Error::infrastructure(failed()).with_source(message)),
    }
}
