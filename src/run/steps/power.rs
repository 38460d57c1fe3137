//! `power` and `reboot`.

use super::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::event::FailureReason;
use crate::lane::model::PowerAction;
use crate::machine::FirstBoot;

/// Deadlines are the executor's: here is only the wait for what was caused.
pub async fn power(action: PowerAction, machine: &RunningMachine) -> StepResult {
    let state = &machine.state;
    match action {
        PowerAction::Shutdown => {
            machine.machine.press_power_button().await?;
            state.until_off().await;
        }
        PowerAction::AwaitOff => state.until_off().await,
        PowerAction::Cut => drop(machine.machine.cut().await?),
        PowerAction::Reset => {
            let before = state.epoch();
            machine.machine.reset().await?;
            state.until_epoch_after(before).await;
        }
        PowerAction::On => machine.machine.power_on(FirstBoot::Disk).await?,
        PowerAction::OnMedium => machine.machine.power_on(FirstBoot::Medium).await?,
    }
    Ok(())
}

/// Orderly, from inside; done when the agent of the next epoch answers.
pub async fn reboot(context: &StepContext, machine: &RunningMachine) -> StepResult {
    let state = &machine.state;
    let before = state.epoch();
    let channel = context.agent(machine).await?;
    channel.reboot().await?;
    tokio::select! {
        () = state.until_epoch_after(before) => {}
        () = state.until_off() => {
            let message = "the machine went off instead of rebooting".into();
            return Err(StepEnd::Failed(FailureReason::MachineOff, message));
        }
    }
    channel.ready().await?;
    Ok(())
}
