//! `checkpoint` and `restore`: several machines at the same moment.
//!
//! All are paused before the first is saved, and go on after the last: no machine remembers a frame that another has not
//! sent. Frames that are under way between them at that moment are in no machine, and in no checkpoint: after a restore
//! they are lost, as on any network.

use std::path::Path;
use std::time::Instant;

use futures_util::future::{join_all, try_join_all};

use super::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::channel::Identity;
use crate::checkpoint::disk_usage;
use crate::error::Error;
use crate::event::Kind;
use crate::lane::model::Step;
use crate::run::identity;

pub async fn save(context: &StepContext, step: &Step, name: &str) -> StepResult {
    let machines = members(context, step)?;
    let folder = context.checkpoints.join(name);
    // One of the same name is replaced.
    let _ = std::fs::remove_dir_all(&folder);
    let began = Instant::now();
    let paused = try_join_all(machines.iter().map(|machine| machine.machine.pause(true))).await;
    let saved = match paused {
        Ok(_) => {
            let in_flight = context.faults.networks.frames_in_flight();
            try_join_all(machines.iter().map(|machine| save_one(machine, &folder))).await.map(|_| in_flight)
        }
        Err(error) => Err(error),
    };
    // Whatever came of it: nobody stays paused. One that was not, or is off, has nothing to say about that.
    join_all(machines.iter().map(|machine| machine.machine.pause(false))).await;
    let frames_dropped = match saved {
        Ok(frames) => frames,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&folder);
            return Err(error.into());
        }
    };
    context.reporter.info(
        None,
        Kind::CheckpointSaved {
            name: name.into(),
            machines: step.on.clone(),
            bytes: disk_usage(&folder),
            frames_dropped,
            paused_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        },
    );
    Ok(())
}

async fn save_one(machine: &RunningMachine, folder: &Path) -> Result<(), Error> {
    let own = folder.join(machine.state.name());
    std::fs::create_dir_all(&own)
        .map_err(|error| Error::storage(error, format!("failed to create `{}`", own.display())))?;
    machine.machine.save(own).await
}

pub async fn restore(context: &StepContext, step: &Step, name: &str) -> StepResult {
    let machines = members(context, step)?;
    let folder = context.checkpoints.join(name);
    if !folder.is_dir() {
        return Err(Error::usage(format!("the checkpoint `{name}` was not made in this run")).into());
    }
    let began = Instant::now();
    let origin = format!("restore:{name}");
    let places: Vec<_> = machines.iter().map(|machine| folder.join(machine.state.name())).collect();
    try_join_all(machines.iter().zip(&places).map(|(machine, place)| machine.machine.restore(place, &origin))).await?;
    try_join_all(machines.iter().map(|machine| machine.machine.pause(false))).await?;
    try_join_all(machines.iter().map(|machine| refresh(context, machine))).await?;
    context.reporter.info(
        None,
        Kind::CheckpointRestored {
            name: name.into(),
            machines: step.on.clone(),
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        },
    );
    Ok(())
}

/// The same machine, at another time: what it draws from now on is not what it drew before.
async fn refresh(context: &StepContext, machine: &RunningMachine) -> Result<(), StepEnd> {
    let channel = context.agent(machine).await?;
    let identity = Identity {
        entropy: Some(identity::entropy()?),
        unix_milliseconds: identity::unix_milliseconds(machine.clock),
        ..Identity::default()
    };
    let taken = identity::take(&channel, &identity).await?;
    identity::warn(&machine.state, &taken);
    Ok(())
}

fn members<'a>(context: &'a StepContext, step: &Step) -> Result<Vec<&'a RunningMachine>, StepEnd> {
    step.on.iter().map(|name| context.machine(name)).collect()
}
