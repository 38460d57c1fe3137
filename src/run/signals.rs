//! Being asked to stop: once for an orderly end with the proof kept, twice for an end at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Context, Result};
use crate::event::Verdict;

/// Watches for SIGINT, SIGTERM and SIGHUP until it is dropped.
pub struct SignalWatch(JoinHandle<()>);

impl SignalWatch {
    /// The first signal is told to `on_first` and triggers `cancel`; the second ends the process, and the keepers, whose
    /// input ends with it, end the machines.
    pub fn start(cancel: CancellationToken, on_first: impl FnOnce(&'static str) + Send + 'static) -> Result<Self> {
        let open = |kind| signal(kind).infrastructure(|| "failed to watch for signals".into());
        let interrupt = open(SignalKind::interrupt())?;
        let terminate = open(SignalKind::terminate())?;
        let hangup = open(SignalKind::hangup())?;
        Ok(Self(tokio::spawn(async move {
            let mut signals = Signals { interrupt, terminate, hangup };
            let name = signals.next().await;
            on_first(name);
            cancel.cancel();
            signals.next().await;
            eprintln!("stopped at once: the proof is left unfinished");
            crate::machine::abandon_folders();
            std::process::exit(i32::from(Verdict::Interrupted.exit_code()));
        })))
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
