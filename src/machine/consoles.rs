//! A machine's two consoles: ttyS0, which is there from the firmware on, and hvc0, which the guest's kernel brings.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::boundary::{ConsoleLine, ConsoleTap, console_line};
use super::state::MachineState;
use crate::console::{Capture, CaptureOptions, ConsoleReport, capture};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Kind;
use crate::marker::CompiledRules;

/// Both consoles, captured by a thread each for as long as this is there.
pub struct Consoles {
    serial: ConsoleLine,
    virtio: ConsoleLine,
    captures: Vec<Capture>,
}

impl Consoles {
    /// `evidence` is the machine's folder in the proof root.
    pub fn start(state: &Arc<MachineState>, rules: &Arc<CompiledRules>, evidence: &Path, limit: u64) -> Result<Self> {
        let mut captures = Vec::new();
        let mut open = |file: &str| {
            let (line, source) = console_line();
            let options = CaptureOptions {
                recording: evidence.join(file),
                file: format!("machines/{}/{file}", state.name()),
                limit,
                rules: rules.clone(),
            };
            let state = state.clone();
            captures.push(capture(source, options, move |report| take(&state, report))?);
            Ok(line)
        };
        Ok(Self { serial: open("console.raw")?, virtio: open("console-hvc0.raw")?, captures })
    }

    /// Goes on with the sockets of a QEMU that was just started; `None` where hvc0 is the way into the guest.
    pub fn attach(&self, serial: UnixStream, virtio: Option<UnixStream>) -> Result<()> {
        let virtio = || virtio.map_or(Ok(()), |virtio| self.virtio.attach(virtio));
        let attached = self.serial.attach(serial).and_then(|()| virtio());
        attached.infrastructure(|| "failed to read the consoles".into())
    }

    /// Returns once everything that either console has printed by now has been recorded and interpreted; gives how many
    /// bytes that is.
    pub async fn settled(&self) -> u64 {
        let mut printed = 0;
        for line in [&self.serial, &self.virtio] {
            let (sender, settled) = tokio::sync::oneshot::channel();
            printed += line.after_what_is_printed(move || {
                let _ = sender.send(());
            });
            // An error is as good an answer: the reader is gone, and nothing more will be interpreted.
            let _ = settled.await;
        }
        printed
    }

    /// Looks on at one of them from now; `None` while the machine is off, or where it has none of that name.
    pub fn tap(&self, name: &str) -> Option<ConsoleTap> {
        match name {
            "console" => self.serial.tap(),
            "console-hvc0" => self.virtio.tap(),
            _ => None,
        }
    }

    /// Lets go of the machine's sockets and ends both captures.
    pub async fn finish(self) {
        let Self { serial, virtio, captures } = self;
        for line in [serial, virtio] {
            line.detach();
        }
        let _ = tokio::task::spawn_blocking(move || captures.into_iter().map(Capture::join).for_each(drop)).await;
    }
}

fn take(state: &MachineState, report: ConsoleReport) {
    match report {
        ConsoleReport::Finding(finding) => state.observe(finding),
        ConsoleReport::Capped { limit } => state.console_capped(limit),
        ConsoleReport::Ended { error: None, .. } => {}
        ConsoleReport::Ended { error: Some(error), bytes } => {
            let kind = match error.kind() {
                ErrorKind::Budget => {
                    Kind::BudgetCrossed { what: format!("disk: {}", error.chain()), limit: bytes, used: bytes }
                }
                _ => Kind::InfrastructureFailed { what: "console".into(), detail: error.chain() },
            };
            state.report(crate::event::Severity::Error, kind);
            state.console_capped(bytes);
        }
    }
}
