//! Doing what a fault is, and taking it back.

use futures_util::FutureExt;

use super::{Effects, guest, link};
use crate::channel::Execution;
use crate::event::FailureReason;
use crate::lane::model::{DiskEffect, Fault, PowerFault, ProcessSignal};
use crate::machine::FirstBoot;
use crate::network::{FaultCounters, FaultId, LinkSelection};
use crate::run::steps::{RunningMachine, StepContext, StepEnd, StepResult};

/// Something that was done and can be taken back. Machines go by their names: what was done to one that has booted anew
/// since may be gone already.
pub(super) enum Applied {
    Links {
        network: String,
        ids: Vec<FaultId>,
    },
    SlowDisk {
        machine: String,
        disk: String,
    },
    FailingDisk {
        machine: String,
        disk: String,
    },
    Paused {
        machine: String,
    },
    Off {
        machine: String,
    },
    StoppedProcess {
        machine: String,
        epoch: u32,
        name: String,
    },
    Clock {
        machine: String,
        epoch: u32,
    },
    /// Ends with the command that holds it.
    Held {
        execution: Box<Execution>,
    },
}

/// Does what the fault is, on all its targets or, when one refuses, on none.
pub(super) async fn apply(
    context: &StepContext,
    name: &str,
    fault: &Fault,
    machines: &[&RunningMachine],
) -> Result<(Vec<Applied>, Effects), StepEnd> {
    if let Fault::Link { network, from, to, both_ways, effects } = fault {
        let selection = match both_ways {
            true => LinkSelection::both_ways(from.clone(), to.clone()),
            false => LinkSelection::one_way(from.clone(), to.clone()),
        };
        let ids = link::set(context.faults.networks.get(network)?, name, &selection, effects)?;
        return Ok((vec![Applied::Links { network: network.clone(), ids }], Effects::new()));
    }
    let mut applied = Vec::new();
    let mut effects = Effects::new();
    for machine in machines {
        match apply_to(context, fault, machine, &mut effects).await {
            Ok(done) => applied.extend(done),
            Err(end) => {
                let _ = take_back(context, applied).await;
                return Err(end);
            }
        }
    }
    Ok((applied, effects))
}

async fn apply_to(
    context: &StepContext,
    fault: &Fault,
    running: &RunningMachine,
    effects: &mut Effects,
) -> Result<Option<Applied>, StepEnd> {
    let machine = running.state.name().to_owned();
    let epoch = running.state.epoch();
    if running.state.off().is_some() {
        return Err(StepEnd::Failed(FailureReason::Refused, format!("`{machine}` is off: it cannot be disturbed")));
    }
    Ok(match fault {
        Fault::Link { .. } => None,
        Fault::Disk { disk, effect: DiskEffect::Slow { rate } } => {
            running.machine.slow_disk(disk, Some(rate.bytes())).await?;
            Some(Applied::SlowDisk { machine, disk: disk.clone() })
        }
        Fault::Disk { disk, effect: DiskEffect::Errors { on } } => {
            running.machine.fail_disk(disk, Some(*on)).await?;
            Some(Applied::FailingDisk { machine, disk: disk.clone() })
        }
        Fault::Power { action: PowerFault::Cut } => {
            for (what, count) in running.machine.cut().await? {
                *effects.entry(what).or_default() += count;
            }
            Some(Applied::Off { machine })
        }
        Fault::Power { action: PowerFault::Shutdown } => {
            running.machine.press_power_button().await?;
            running.state.until_off().await;
            Some(Applied::Off { machine })
        }
        Fault::Power { action: PowerFault::Reset } => {
            running.machine.reset().await?;
            running.state.until_epoch_after(epoch).await;
            None
        }
        Fault::Pause {} => {
            running.machine.pause(true).await?;
            Some(Applied::Paused { machine })
        }
        Fault::Process { name, signal } => {
            let word = match signal {
                ProcessSignal::Kill => "kill",
                ProcessSignal::Terminate => "terminate",
                ProcessSignal::Stop => "stop",
            };
            let channel = context.agent(running).await?;
            let count = guest::run(&channel, &["process", name, word]).await?.parse().unwrap_or(0);
            let total = effects.entry("processes".into()).or_default();
            *total = total.saturating_add(count);
            Some(Applied::StoppedProcess { machine, epoch, name: name.clone() })
        }
        Fault::Clock { shift } => {
            let channel = context.agent(running).await?;
            guest::run(&channel, &["clock", &shift.0.to_string()]).await?;
            Some(Applied::Clock { machine, epoch })
        }
        Fault::Memory { amount } => {
            let channel = context.agent(running).await?;
            let execution = guest::hold(&channel, &["memory", &amount.bytes().to_string()]).await?;
            Some(Applied::Held { execution: Box::new(execution) })
        }
        Fault::Full { path } => {
            let channel = context.agent(running).await?;
            let execution = guest::hold(&channel, &["fill", path]).await?;
            Some(Applied::Held { execution: Box::new(execution) })
        }
    })
}

/// What it did so far, where that can be known without ending it.
pub(super) fn effects(context: &StepContext, applied: &[Applied]) -> Effects {
    let mut sum = FaultCounters::default();
    for applied in applied {
        let Applied::Links { network, ids } = applied else { continue };
        let Ok(switch) = context.faults.networks.get(network) else { continue };
        for id in ids {
            if let Ok(Some(counters)) = switch.fault_counters(*id) {
                sum += counters;
            }
        }
    }
    link::effects(sum)
}

/// Takes everything back, also where one thing cannot be; gives what it did, and the first trouble.
pub(super) async fn take_back(context: &StepContext, applied: Vec<Applied>) -> (Effects, StepResult) {
    let mut sum = FaultCounters::default();
    let mut result = Ok(());
    for applied in applied {
        // Boxed: healing begins with what a failed beginning did.
        let taken = take_back_one(context, applied, &mut sum).boxed().await;
        result = result.and(taken);
    }
    (link::effects(sum), result)
}

async fn take_back_one(context: &StepContext, applied: Applied, sum: &mut FaultCounters) -> StepResult {
    let on = |name: &str| -> Result<Option<&RunningMachine>, StepEnd> {
        let machine = context.machine(name)?;
        Ok(machine.state.off().is_none().then_some(machine))
    };
    // What was done to a guest that has booted since is gone with what it was then.
    let same_boot = |name: &str, epoch: u32| -> Result<Option<&RunningMachine>, StepEnd> {
        Ok(on(name)?.filter(|machine| machine.state.epoch() == epoch))
    };
    match applied {
        Applied::Links { network, ids } => {
            let switch = context.faults.networks.get(&network)?;
            for id in ids {
                if let Some(counters) = switch.heal(id)? {
                    *sum += counters;
                }
            }
        }
        Applied::SlowDisk { machine, disk } => {
            if let Some(machine) = on(&machine)? {
                machine.machine.slow_disk(&disk, None).await?;
            }
        }
        // Also of a machine that is off: it would fail when it is switched on again.
        Applied::FailingDisk { machine, disk } => context.machine(&machine)?.machine.fail_disk(&disk, None).await?,
        Applied::Paused { machine } => {
            if let Some(machine) = on(&machine)? {
                machine.machine.pause(false).await?;
            }
        }
        Applied::Off { machine } => {
            let machine = context.machine(&machine)?;
            if machine.state.off().is_some() {
                machine.machine.power_on(FirstBoot::Disk).await?;
            }
        }
        Applied::StoppedProcess { machine, epoch, name } => {
            if let Some(machine) = same_boot(&machine, epoch)? {
                let channel = context.agent(machine).await?;
                guest::run(&channel, &["process", &name, "continue"]).await?;
            }
        }
        Applied::Clock { machine, epoch } => {
            if let Some(machine) = same_boot(&machine, epoch)? {
                let now = jiff::Timestamp::now().as_millisecond().to_string();
                let channel = context.agent(machine).await?;
                guest::run(&channel, &["clock-set", &now]).await?;
            }
        }
        Applied::Held { execution } => {
            execution.cancel();
            // It has given back what it held once it has ended; a guest that has booted anew has that already.
            let _ = execution.wait().await;
        }
    }
    Ok(())
}
