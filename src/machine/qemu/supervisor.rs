//! Watches one power-on of a machine from start to end, and turns what it sees into facts.

use std::path::PathBuf;
use std::sync::Arc;

use qapi::qmp::Event;
use tokio::sync::{mpsc, oneshot};

use super::qmp::Qmp;
use super::saving::Saving;
use crate::channel::{AgentChannel, Channel, ChannelEvent};
use crate::error::{Error, Result};
use crate::event::{Kind, Severity, StopCause};
use crate::machine::MachineState;
use crate::machine::consoles::Consoles;
use crate::machine::keeper::{Keeper, KeeperExit};
use crate::machine::resets::Resets;

/// What the run wants of a machine.
pub enum Order {
    PressPowerButton(oneshot::Sender<Result<()>>),
    Reset(oneshot::Sender<Result<()>>),
    /// Stop the guest, or let it go on.
    Pause(bool, oneshot::Sender<Result<()>>),
    /// A device, and the bytes per second that it may move; 0 for no bound.
    Throttle(String, u64, oneshot::Sender<Result<()>>),
    /// Save the state of the guest, which is paused.
    Save(Saving, oneshot::Sender<Result<()>>),
    /// Cut the power: no word to the guest, nothing flushed.
    Cut,
    /// End the guest: what was saved of it takes its place.
    Replace,
    /// The run is over.
    End,
    /// Stop watching and give the keeper away: the machine is to be kept.
    HandOver(oneshot::Sender<Keeper>),
}

/// How often in one power-on damaged markers are asked for again: a guest that forges them must not keep us busy.
const MOST_REPEATS: u32 = 16;

pub struct Supervisor {
    pub state: Arc<MachineState>,
    pub consoles: Arc<Consoles>,
    pub channel: AgentChannel,
    pub channel_events: mpsc::UnboundedReceiver<ChannelEvent>,
    /// The way into the guest where it is not the agent.
    pub other: Option<Arc<dyn Channel>>,
    pub qmp: Qmp,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// What QEMU itself says.
    pub stderr: PathBuf,
    /// Nodes of disks that the lane may make fail: their errors are no trouble of the host's.
    pub fallible: Vec<String>,
}

/// What is known about the machine's end before it has come.
#[derive(Default)]
struct Ending {
    /// The run caused it.
    wanted: Option<(StopCause, &'static str)>,
    /// The power button was pressed.
    button: bool,
    /// QEMU's own word: by the guest or not, and its reason.
    shutdown: Option<(bool, String)>,
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
                Some(event) = self.events.recv() => self.take_event(event, &mut ending, &mut resets).await,
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
                    Some(Order::Save(saving, answer)) => {
                        let saved = tokio::select! {
                            saved = saving.save(&self.qmp, &mut self.events) => saved,
                            _ = keeper.exited() => Err(Error::infrastructure("QEMU ended while the machine was saved")),
                        };
                        let _ = answer.send(saved);
                    }
                    Some(order) => self.obey(order, &mut keeper, &mut ending).await,
                    // The machine object is gone without an end: the run was given up, and so is the machine.
                    None => {
                        orders_open = false;
                        keeper.kill().await;
                    }
                },
            }
        };
        if let Some(other) = &self.other {
            other.forget_session("the machine is off");
        }
        // QEMU is gone; what it had said before is still to be heard, in order.
        while let Some(event) = self.events.recv().await {
            self.take_event(event, &mut ending, &mut resets).await;
        }
        self.consoles.settled().await;
        let (cause, detail) = ending.explain(exit, &self.stderr);
        self.state.stopped(cause, &detail);
    }

    async fn obey(&self, order: Order, keeper: &mut Keeper, ending: &mut Ending) {
        match order {
            Order::PressPowerButton(answer) => {
                ending.button = true;
                let _ = answer.send(self.qmp.press_power_button().await);
            }
            Order::Reset(answer) => {
                let _ = answer.send(self.qmp.reset().await);
            }
            Order::Pause(paused, answer) => {
                let _ = answer.send(if paused { self.qmp.pause().await } else { self.qmp.resume().await });
            }
            Order::Throttle(device, rate, answer) => {
                let _ = answer.send(self.qmp.throttle(&device, rate).await);
            }
            Order::Cut => {
                ending.wanted.get_or_insert((StopCause::Requested, "its power was cut"));
                keeper.kill().await;
            }
            Order::Replace => {
                ending.wanted.get_or_insert((StopCause::Requested, "it goes back to a checkpoint"));
                keeper.kill().await;
            }
            Order::End => {
                ending.wanted.get_or_insert((StopCause::RunEnded, "the run is over"));
                keeper.kill().await;
            }
            Order::HandOver(_) | Order::Save(..) => unreachable!("the loop does these itself"),
        }
    }

    async fn take_event(&self, event: Event, ending: &mut Ending, resets: &mut Resets) {
        match event {
            Event::RESET { data, .. } => {
                let printed = self.consoles.settled().await;
                if !resets.begins_epoch(data.guest, printed) {
                    return;
                }
                self.channel.forget_session("the machine was reset");
                if let Some(other) = &self.other {
                    other.forget_session("the machine was reset");
                }
                let origin = if data.guest { "reboot" } else { "reset" };
                self.state.epoch_began(origin);
            }
            Event::SHUTDOWN { data, .. } => ending.shutdown = Some((data.guest, format!("{:?}", data.reason))),
            Event::BLOCK_IO_ERROR { data, .. } => {
                let node = data.node_name.unwrap_or_default();
                if self.fallible.contains(&node) {
                    return;
                }
                let what = format!("{node}: {}", data.reason);
                let kind = if data.nospace.unwrap_or(false) {
                    Kind::BudgetCrossed { what: format!("disk: {what}"), limit: 0, used: 0 }
                } else {
                    Kind::InfrastructureFailed { what: "disk of a machine".into(), detail: what }
                };
                self.state.report(Severity::Error, kind);
            }
            _ => {}
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
}

impl Ending {
    fn explain(self, exit: KeeperExit, stderr: &std::path::Path) -> (StopCause, String) {
        if let Some((cause, detail)) = self.wanted {
            return (cause, detail.into());
        }
        match self.shutdown {
            Some((true, _)) if self.button => {
                (StopCause::Requested, "it switched itself off after its power button was pressed".into())
            }
            Some((true, _)) => (StopCause::GuestShutdown, "it switched itself off".into()),
            Some((false, reason)) => (StopCause::Died, format!("QEMU was asked to end from outside ({reason})")),
            None => (StopCause::Died, describe_death(exit, stderr)),
        }
    }
}

fn describe_death(exit: KeeperExit, stderr: &std::path::Path) -> String {
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("QEMU was ended by signal {signal}"),
        (Some(code), None) => format!("QEMU exited with {code}"),
        (None, None) => "QEMU went away with its keeper".into(),
    };
    let said = std::fs::read_to_string(stderr).unwrap_or_default();
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("{how}; it said `{line}`"),
        None => how,
    }
}
