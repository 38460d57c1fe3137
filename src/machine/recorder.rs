//! The recorder: plays a console that was recorded elsewhere. No machine is started.
//!
//! For trying a lane's markers and patterns against a stream that exists, and for hardware whose console is all there is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{FirstBoot, Machine, MachineState};
use crate::channel::{AgentChannel, Channel};
use crate::console::{CaptureOptions, ConsoleReport, capture};
use crate::error::{Context, Error, Result};
use crate::event::{Kind, Severity, StopCause};
use crate::lane::model::DiskOperations;
use crate::marker::CompiledRules;

/// A recording that is being played.
pub struct RecorderMachine {
    state: Arc<MachineState>,
}

impl RecorderMachine {
    /// Plays `recording` (`-` is standard input) as fast as it can be read; its end is the machine's end.
    pub fn start(
        state: Arc<MachineState>,
        rules: Arc<CompiledRules>,
        recording: &Path,
        evidence: &Path,
        limit: u64,
    ) -> Result<Arc<Self>> {
        state.epoch_began("recording");
        let options = CaptureOptions {
            recording: evidence.join("console.raw"),
            file: format!("machines/{}/console.raw", state.name()),
            limit,
            rules,
        };
        let player = state.clone();
        let sink = move |report| match report {
            ConsoleReport::Finding(finding) => player.observe(finding),
            ConsoleReport::Capped { limit } => player.console_capped(limit),
            ConsoleReport::Ended { error, .. } => {
                if let Some(error) = error {
                    let failed = Kind::InfrastructureFailed { what: "console".into(), detail: error.chain() };
                    player.report(Severity::Error, failed);
                }
                player.stopped(StopCause::GuestShutdown, "the recording has ended");
            }
        };
        if recording == Path::new("-") {
            capture(std::io::stdin(), options, sink)?
        } else {
            let file = std::fs::File::open(recording)
                .usage(|| format!("failed to open the recording `{}`", recording.display()))?;
            capture(file, options, sink)?
        };
        Ok(Arc::new(Self { state }))
    }

    fn cannot<T>(&self, what: &str) -> BoxFuture<'_, Result<T>> {
        let error = Error::usage(format!("machine `{}` is a recording: {what}", self.state.name()));
        async { Err(error) }.boxed()
    }
}

impl Machine for RecorderMachine {
    fn channel(&self) -> Option<Arc<dyn Channel>> {
        None
    }

    fn agent(&self) -> Option<AgentChannel> {
        None
    }

    fn press_power_button(&self) -> BoxFuture<'_, Result<()>> {
        self.cannot("it has no power button")
    }

    fn reset(&self) -> BoxFuture<'_, Result<()>> {
        self.cannot("it cannot be reset")
    }

    fn cut(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>> {
        self.cannot("its power cannot be cut")
    }

    fn power_on(&self, _: FirstBoot) -> BoxFuture<'_, Result<()>> {
        self.cannot("it cannot be switched on")
    }

    /// A recording that is still being played (standard input that nobody closes) is given up.
    fn pause(&self, _: bool) -> BoxFuture<'_, Result<()>> {
        self.cannot("it is a recording")
    }

    fn save(&self, _: std::path::PathBuf) -> BoxFuture<'_, Result<()>> {
        self.cannot("there is nothing to save")
    }

    fn restore<'a>(&'a self, _: &'a Path, _: &'a str) -> BoxFuture<'a, Result<()>> {
        self.cannot("it cannot be restored")
    }

    fn slow_disk<'a>(&'a self, _: &'a str, _: Option<u64>) -> BoxFuture<'a, Result<()>> {
        self.cannot("it is a recording")
    }

    fn fail_disk<'a>(&'a self, _: &'a str, _: Option<DiskOperations>) -> BoxFuture<'a, Result<()>> {
        self.cannot("it is a recording")
    }

    fn end(&self) -> BoxFuture<'_, Result<()>> {
        async {
            self.state.stopped(StopCause::RunEnded, "the run is over");
            Ok(())
        }
        .boxed()
    }

    fn keep(&self, _folder: std::path::PathBuf) -> BoxFuture<'_, Result<u32>> {
        self.cannot("there is nothing to keep")
    }
}
