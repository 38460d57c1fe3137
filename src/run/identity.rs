//! What makes a machine that was forked from a checkpoint one of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::machines::uuid;
use super::steps::RunningMachine;
use crate::channel::{AgentChannel, ChannelError, Identity, IdentityNames, IdentityTaken};
use crate::checkpoint::Checkpoint;
use crate::error::{Context, Error, Result};
use crate::event::{Kind, Severity};
use crate::lane::model::Ready;
use crate::lane::units::Shift;
use crate::machine::MachineState;
use crate::machine::qemu::QemuDefinition;
use crate::proof::digest::hexadecimal;
use crate::secret::random;

/// How long the guest may take to become another machine, before scaling.
const BOUND: Duration = Duration::from_secs(60);

/// Gives a fork its names, numbers, keys, time and randomness; no step has run in it before.
///
/// # Errors
/// Infrastructure: its agent does not answer, or the machine goes off.
pub async fn give(
    run: &str,
    machine: &RunningMachine,
    definition: &QemuDefinition,
    checkpoint: &Checkpoint,
    ready: &Ready,
    factor: f64,
) -> Result<()> {
    let state = &machine.state;
    let name = state.name();
    let failed = || format!("machine `{name}` did not become one of its own");
    let channel = machine.machine.agent().ok_or_else(|| Error::infrastructure(failed()))?;
    let names = IdentityNames {
        hostname: name.into(),
        machine_id: number(run, name, "machine-id"),
        boot_id: uuid(run, &format!("{name}/boot")),
        serial: definition.identity.serial.clone(),
        uuid: definition.identity.uuid.clone(),
        command_line: definition.command_line().unwrap_or_default(),
        cards: definition.macs(),
    };
    let (machine_id, boot_id) = (names.machine_id.clone(), names.boot_id.clone());
    let identity = Identity {
        entropy: if ready.reseed { Some(entropy()?) } else { None },
        unix_milliseconds: unix_milliseconds(machine.clock),
        names: Some(names),
        restart: ready.restart.clone(),
    };
    let taking = async { take(&channel, &identity).await.infrastructure(failed) };
    let taken = tokio::select! {
        taken = tokio::time::timeout(BOUND.mul_f64(factor), taking) => match taken {
            Ok(taken) => taken?,
            Err(_) => return Err(Error::infrastructure(failed()).with_source("its agent does not answer")),
        },
        () = state.until_off() => {
            let why = state.off().map(|(_, detail)| detail).unwrap_or_default();
            return Err(Error::infrastructure(failed()).with_source(format!("it went off: {why}")));
        }
    };
    let forked = Kind::MachineForked {
        checkpoint: checkpoint.digest.clone(),
        made: checkpoint.manifest.made.clone(),
        machine_id,
        boot_id,
        random_sample: hexadecimal(&Sha256::digest(&taken.random_sample)),
    };
    state.report(Severity::Info, forked);
    warn(state, &taken);
    Ok(())
}

/// Whatever the guest's agent was in the middle of when it was saved: once it hears of this host it begins anew, and what was
/// asked before that is asked again.
pub async fn take(channel: &AgentChannel, identity: &Identity) -> Result<IdentityTaken, ChannelError> {
    loop {
        channel.ready().await?;
        match channel.take_identity(identity.clone()).await {
            Err(ChannelError::Lost { .. } | ChannelError::NotReady) => {}
            taken => return taken,
        }
    }
}

/// Says what could not be had.
pub fn warn(state: &MachineState, taken: &IdentityTaken) {
    for missing in &taken.missing {
        let text = format!("the guest keeps something of the machine that it was: {missing}");
        state.report(Severity::Warning, Kind::Note { text });
    }
}

/// Hexadecimal digits that nobody else has.
pub fn entropy() -> Result<String> {
    let mut bytes = [0u8; 64];
    random(&mut bytes)?;
    Ok(hexadecimal(&bytes))
}

/// What a clock shows that is so wrong.
pub fn unix_milliseconds(wrong_by: Option<Shift>) -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(wrong_by.map_or(0, |wrong_by| wrong_by.0))
}

/// 32 hexadecimal digits of the machine's own.
fn number(run: &str, machine: &str, what: &str) -> String {
    uuid(run, &format!("{machine}/{what}")).replace('-', "")
}
