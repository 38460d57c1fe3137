//! Watches one power-on of a domain from start to end, and turns what libvirt says into facts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};

use super::protocol::{Said, StopReason};
use crate::channel::{AgentChannel, ChannelEvent};
use crate::event::{Kind, Severity, StopCause};
use crate::machine::MachineState;
use crate::machine::consoles::Consoles;
use crate::machine::keeper::{Keeper, KeeperExit};
use crate::machine::resets::Resets;

/// How often in one power-on damaged markers are asked for again: a guest that forges them must not keep us busy.
const MOST_REPEATS: u32 = 16;

/// What the run has done to the machine, by which its end and its resets are understood.
#[derive(Default)]
pub struct Intent {
    /// The run causes the end, and why.
    ending: Mutex<Option<(StopCause, &'static str)>>,
    /// The power button was pressed.
    pub button: AtomicBool,
    /// The reset line was pulled, and the reset has not been told yet.
    pub reset: AtomicBool,
}

impl Intent {
    /// The first reason counts.
    pub fn end(&self, cause: StopCause, why: &'static str) {
        self.ending.lock().expect("nobody panics while holding a reason").get_or_insert((cause, why));
    }
}

/// What the run wants of the supervisor itself.
pub enum Order {
    /// End the holder, and with it the domain: libvirt does not do it any more.
    Kill,
    /// Stop watching and give the keeper away: the machine is to be kept.
    HandOver(oneshot::Sender<Keeper>),
}

pub struct Supervisor {
    pub state: Arc<MachineState>,
    pub consoles: Arc<Consoles>,
    pub channel: AgentChannel,
    pub channel_events: mpsc::UnboundedReceiver<ChannelEvent>,
    pub happened: mpsc::UnboundedReceiver<Said>,
    pub orders: mpsc::UnboundedReceiver<Order>,
    pub intent: Arc<Intent>,
    pub uri: String,
    /// What holder and keeper themselves say.
    pub stderr: PathBuf,
}

/// What libvirt has said of the end.
#[derive(Default)]
struct Ending {
    shut_down_by: Option<String>,
    panicked: bool,
    stopped: Option<StopReason>,
    lost: Option<String>,
}

impl Supervisor {
    pub async fn run(mut self, mut keeper: Keeper) {
        let mut ending = Ending::default();
        let mut resets = Resets::default();
        let mut repeats = 0;
        let mut session = false;
        let mut orders_open = true;
        let exit = loop {
            tokio::select! {
                exit = keeper.exited() => break exit,
                Some(said) = self.happened.recv() => self.take(said, &mut ending, &mut resets).await,
                Some(event) = self.channel_events.recv() => {
                    session = matches!(event, ChannelEvent::Ready(_));
                    self.report_channel(event);
                }
                () = self.state.marker_damaged(), if session && repeats < MOST_REPEATS => {
                    repeats += 1;
                    let channel = self.channel.clone();
                    // What it brings comes over the console; what it answers does not matter.
                    tokio::spawn(async move { channel.repeat_markers(1).await });
                }
                order = self.orders.recv(), if orders_open => match order {
                    Some(Order::HandOver(to)) => {
                        let _ = to.send(keeper);
                        return;
                    }
                    Some(Order::Kill) => keeper.kill().await,
                    // The machine object is gone without an end: the run was given up, and so is the machine.
                    None => {
                        orders_open = false;
                        keeper.kill().await;
                    }
                },
            }
        };
        // The holder is gone; what it had said before is still to be heard, in order.
        while let Some(said) = self.happened.recv().await {
            self.take(said, &mut ending, &mut resets).await;
        }
        self.consoles.settled().await;
        let (cause, detail) = self.explain(ending, exit);
        self.state.stopped(cause, &detail);
    }

    async fn take(&self, said: Said, ending: &mut Ending, resets: &mut Resets) {
        match said {
            Said::Answer(_) => {}
            Said::Rebooted {} => {
                let printed = self.consoles.settled().await;
                let by_guest = !self.intent.reset.swap(false, Ordering::Relaxed);
                if !resets.begins_epoch(by_guest, printed) {
                    return;
                }
                self.channel.forget_session("the machine was reset");
                self.state.epoch_began(if by_guest { "reboot" } else { "reset" });
            }
            Said::ShuttingDown { by } => ending.shut_down_by = Some(by),
            Said::Panicked {} => ending.panicked = true,
            Said::DiskFailed { device, reason } => {
                let what = format!("{device}: {reason}");
                let kind = if reason == "enospc" {
                    Kind::BudgetCrossed { what: format!("disk: {what}"), limit: 0, used: 0 }
                } else {
                    Kind::InfrastructureFailed { what: "disk of a machine".into(), detail: what }
                };
                self.state.report(Severity::Error, kind);
            }
            Said::Stopped { why } => ending.stopped = Some(why),
            Said::ConnectionLost { reason } => ending.lost = Some(reason),
        }
    }

    fn report_channel(&self, event: ChannelEvent) {
        match event {
            ChannelEvent::Ready(hello) => self.state.report(
                Severity::Info,
                Kind::ChannelReady { agent_version: hello.agent_version, boot_id: hello.boot_id },
            ),
            ChannelEvent::Lost { reason } => self.state.report(Severity::Debug, Kind::ChannelLost { reason }),
        }
    }

    fn explain(&self, ending: Ending, exit: KeeperExit) -> (StopCause, String) {
        let wanted = self.intent.ending.lock().expect("nobody panics while holding a reason").take();
        if let Some(reason) = ending.lost {
            return (StopCause::Died, format!("the connection to libvirt at `{}` was lost: {reason}", self.uri));
        }
        if let Some((cause, detail)) = wanted {
            return (cause, detail.into());
        }
        let guest = ending.shut_down_by.as_deref() == Some("guest");
        let button = self.intent.button.load(Ordering::Relaxed);
        match ending.stopped {
            Some(StopReason::Shutdown) if guest && button => {
                (StopCause::Requested, "it switched itself off after its power button was pressed".into())
            }
            Some(StopReason::Shutdown) if guest => (StopCause::GuestShutdown, "it switched itself off".into()),
            Some(StopReason::Crashed) if ending.panicked => {
                (StopCause::Died, "its kernel panicked, and libvirt ended it".into())
            }
            Some(StopReason::Shutdown) => (StopCause::Died, "its QEMU was asked to end from outside".into()),
            Some(StopReason::Destroyed) => (StopCause::Died, "somebody ended its domain through libvirt".into()),
            Some(StopReason::Crashed | StopReason::Failed) => {
                (StopCause::Died, "its QEMU ended without having been asked to".into())
            }
            Some(StopReason::Other) => (StopCause::Died, "libvirt stopped its domain".into()),
            None => (StopCause::Died, describe_death(exit, &self.stderr)),
        }
    }
}

fn describe_death(exit: KeeperExit, stderr: &std::path::Path) -> String {
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("the holder of its domain was ended by signal {signal}"),
        (Some(code), None) => format!("the holder of its domain exited with {code}"),
        (None, None) => "the holder of its domain went away with its keeper".into(),
    };
    let said = std::fs::read_to_string(stderr).unwrap_or_default();
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("{how}; it said `{line}`"),
        None => how,
    }
}
