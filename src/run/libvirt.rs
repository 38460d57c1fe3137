//! Machines of a plan under libvirt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::machines::Surroundings;
use crate::error::{Error, Result};
use crate::lane::model::{Lane, LibvirtNetwork};
use crate::machine::FirstBoot;
use crate::machine::MachineState;
use crate::machine::libvirt::{Domain, Host, LibvirtMachine, LibvirtSetup, Mark, Target, owner};
use crate::machine::qemu::{self, ProcessPlace, QemuDefinition};
use crate::marker::CompiledRules;
use crate::preflight::host;

/// A libvirt, and what it said of itself.
pub struct LibvirtPlace {
    pub target: Target,
    pub host: Host,
}

/// Creates the machine's domain and lets it run.
pub async fn start(
    surroundings: &Surroundings<'_>,
    definition: QemuDefinition,
    place: ProcessPlace,
    rules: Arc<CompiledRules>,
    console_limit: u64,
    state: Arc<MachineState>,
) -> Result<Arc<LibvirtMachine>> {
    let missing = || Error::infrastructure("no libvirt was asked for machines that are to run under it");
    let LibvirtPlace { target, host } = surroundings.libvirt.ok_or_else(missing)?;
    LibvirtMachine::start(LibvirtSetup {
        target: target.clone(),
        mark: mark(surroundings, &definition.name),
        emulator: emulator(),
        security_models: host.security_models.clone(),
        networks: networks(surroundings.lane),
        definition,
        place,
        rules,
        console_limit,
        state,
    })
    .await
}

/// The domain that would be created.
pub fn render(surroundings: &Surroundings<'_>, definition: &QemuDefinition, runtime: PathBuf) -> Result<String> {
    let host = surroundings.libvirt.map(|place| &place.host);
    let domain = Domain {
        definition,
        mark: &mark(surroundings, &definition.name),
        emulator: &emulator(),
        runtime: &runtime,
        security_models: host.map_or(&[], |host| &host.security_models),
        owner: owner(),
        networks: &networks(surroundings.lane),
    };
    domain.xml(FirstBoot::Disk)
}

fn mark(surroundings: &Surroundings<'_>, machine: &str) -> Mark {
    Mark {
        run: surroundings.run.into(),
        lane: surroundings.lane.name.clone(),
        machine: machine.into(),
        work_root: surroundings.work_root.into(),
    }
}

/// QEMU, as libvirt wants it: by its whole path.
fn emulator() -> PathBuf {
    let program = qemu::program();
    program.to_str().and_then(host::find_command).unwrap_or(program)
}

fn networks(lane: &Lane) -> BTreeMap<String, LibvirtNetwork> {
    lane.networks.iter().filter_map(|(name, network)| Some((name.clone(), network.libvirt.clone()?))).collect()
}
