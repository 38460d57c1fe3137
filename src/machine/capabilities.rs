//! What each backend can do, and what a lane needs of it. One table, pure: preflight holds lanes against it, `bootproof
//! doctor --backends` prints it, and docs/backends.md shows it.

use std::collections::BTreeSet;

use crate::lane::all_steps;
use crate::lane::model::{Action, Backend, DiskEffect, Fault, Lane, LibvirtNetwork, Machine, Start, Step};

/// Something that a lane may need of what runs its machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Image, firmware, consoles, agent, power: what every machine has.
    Machine,
    OtherWayIn,
    BootMedium,
    LineChannel,
    UserNetwork,
    ForwardedPorts,
    HostServices,
    SwitchedNetwork,
    HostInNetwork,
    AddressService,
    NetworkBoot,
    NetworkFaults,
    SlowDisk,
    Pause,
    DiskFaults,
    DiskCaches,
    WriteLog,
    Fork,
    Checkpoint,
    Deployer,
}

/// What runs machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Qemu,
    /// A libvirt on this host.
    Libvirt,
    /// A libvirt on another host.
    RemoteLibvirt,
}

/// `None`: it can. Otherwise why not.
type Verdict = Option<&'static str>;

/// A row of the table.
pub struct Capability {
    pub need: Need,
    /// For people.
    pub what: &'static str,
    pub qemu: Verdict,
    pub libvirt: Verdict,
}

const YES: Verdict = None;
const NO_SWITCH: Verdict = Some("libvirt's XML has no network that ends in a unix socket, so our switch is not in it");
const NO_HOST: Verdict = Some("the host's place is in our switch, and libvirt's machines are not");
const NO_DISK_SERVER: Verdict = Some("libvirt's disks are files, with no server of ours between");
const NO_SAVING: Verdict = Some("our checkpoints are QEMU's own, and libvirt lets nobody else at its monitor");
/// Of everything, where libvirt is on another host.
const ELSEWHERE: &str = "images, disks, consoles and the agent's socket are files and unix sockets of this host";

/// All of it, in the order in which it is shown.
pub const TABLE: [Capability; 20] = [
    row(
        Need::Machine,
        "boot an image by BIOS, UEFI or kernel; consoles, agent, boot data, power, keep, stop",
        YES,
        YES,
    ),
    row(Need::BootMedium, "boot an `iso`, also over what is installed", YES, YES),
    row(
        Need::LineChannel,
        "`channel`: the backdoor, or a login on a line",
        YES,
        Some("libvirt's consoles are files, and nobody can answer on them"),
    ),
    row(
        Need::OtherWayIn,
        "`channel`: SSH, or qemu-guest-agent",
        YES,
        Some("neither its port nor its keys are put into a domain"),
    ),
    row(Need::UserNetwork, "the user-mode network, which reaches nothing that is not declared", YES, YES),
    row(Need::ForwardedPorts, "`network.forward`: guest ports that the host reaches", YES, YES),
    row(
        Need::HostServices,
        "`network.services`: services of the host that the guest reaches",
        YES,
        Some("each connection is carried by a process that QEMU starts, and libvirt's QEMU may start none"),
    ),
    row(Need::SwitchedNetwork, "the lane's `networks`, as they are", YES, NO_SWITCH),
    row(Need::HostInNetwork, "`http` and `tcp` from the host's place in a network", YES, NO_HOST),
    row(Need::AddressService, "`dhcp` and `dns` in a network", YES, NO_HOST),
    row(Need::NetworkBoot, "`network_boot`", YES, NO_HOST),
    row(Need::NetworkFaults, "faults on links", YES, NO_SWITCH),
    row(Need::SlowDisk, "faults: slow disks", YES, YES),
    row(Need::Pause, "faults: machines that stand still, and those that the agent causes", YES, YES),
    row(Need::DiskFaults, "faults: disks whose requests fail", YES, NO_DISK_SERVER),
    row(Need::DiskCaches, "`write_cache`: disks that forget, or lie", YES, NO_DISK_SERVER),
    row(
        Need::WriteLog,
        "`survives`: a share of what was not flushed",
        YES,
        Some("libvirt's XML has no log of a disk's writes"),
    ),
    row(Need::Fork, "`start = \"checkpoint\"`: forks instead of boots", YES, NO_SAVING),
    row(Need::Checkpoint, "`checkpoint` and `restore` steps", YES, NO_SAVING),
    row(Need::Deployer, "a lane's `deployer`", YES, NO_HOST),
];

const fn row(need: Need, what: &'static str, qemu: Verdict, libvirt: Verdict) -> Capability {
    Capability { need, what, qemu, libvirt }
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Qemu => "qemu",
            Place::Libvirt => "libvirt",
            Place::RemoteLibvirt => "libvirt elsewhere",
        }
    }

    /// Why it cannot do that; nothing where it can.
    pub fn lacks(self, need: Need) -> Verdict {
        let row = TABLE.iter().find(|row| row.need == need)?;
        match self {
            Place::Qemu => row.qemu,
            Place::Libvirt => row.libvirt,
            Place::RemoteLibvirt => row.libvirt.or(Some(ELSEWHERE)),
        }
    }
}

/// Something that a machine needs and its backend lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The machine that needs it; the whole lane does where absent.
    pub machine: Option<String>,
    /// What is needed, in the lane's words.
    pub need: String,
    pub why: &'static str,
}

/// Everything that the lane needs and its machines' backends lack. `remote`: libvirt is on another host.
pub fn missing(lane: &Lane, remote: bool) -> Vec<Missing> {
    let place = |machine: &Machine| match (machine.backend, remote) {
        (Backend::Qemu, _) => Some(Place::Qemu),
        (Backend::Libvirt, false) => Some(Place::Libvirt),
        (Backend::Libvirt, true) => Some(Place::RemoteLibvirt),
        (Backend::Recorder, _) => None,
    };
    let mut missing = BTreeSet::new();
    for (name, machine) in &lane.machines {
        let Some(place) = place(machine) else { continue };
        for (need, said) in of_machine(lane, machine) {
            if let Some(why) = place.lacks(need) {
                missing.insert(Missing { machine: Some(name.clone()), need: said, why });
            }
        }
    }
    for step in all_steps(&lane.steps) {
        for (need, said, on) in of_step(lane, step) {
            for name in on {
                let Some(place) = lane.machines.get(&name).and_then(place) else { continue };
                if let Some(why) = place.lacks(need) {
                    missing.insert(Missing { machine: Some(name), need: said.clone(), why });
                }
            }
        }
    }
    let anywhere = lane.machines.values().filter_map(place).find_map(|place| place.lacks(Need::Deployer));
    if let (Some(_), Some(why)) = (&lane.deployer, anywhere) {
        missing.insert(Missing { machine: None, need: "the lane's deployer".into(), why });
    }
    missing.into_iter().collect()
}

fn of_machine(lane: &Lane, machine: &Machine) -> Vec<(Need, String)> {
    let mut needs = vec![(Need::Machine, "to be booted".to_owned())];
    let mut need = |wanted: bool, need: Need, said: &str| {
        if wanted {
            needs.push((need, said.to_owned()));
        }
    };
    let network = &machine.network;
    let other = !machine.channel.is_agent() && machine.channel.line().is_none();
    need(other, Need::OtherWayIn, &format!("the way in by `{}`", machine.channel.kind()));
    need(!network.none, Need::UserNetwork, "the user-mode network");
    need(!network.forward.is_empty(), Need::ForwardedPorts, "forwarded ports");
    need(!network.services.is_empty(), Need::HostServices, "services of the host");
    need(machine.network_boot.is_some(), Need::NetworkBoot, "booting from the network");
    need(machine.start != Start::Boot, Need::Fork, "being forked from a checkpoint");
    need(machine.channel.line().is_some(), Need::LineChannel, "a shell on a line as the way into it");
    need(lane.images.get(&machine.image).is_some_and(|image| image.iso.is_some()), Need::BootMedium, "a medium");
    for disk in &machine.disks {
        need(disk.fallible, Need::DiskFaults, &format!("the disk `{}`, which fails on purpose", disk.name));
        need(disk.survives.is_some(), Need::WriteLog, &format!("the disk `{}`, which keeps a share", disk.name));
        let cache = disk.forgets() != crate::lane::model::WriteCache::Host;
        need(cache, Need::DiskCaches, &format!("the disk `{}` with its own cache", disk.name));
    }
    for name in machine.networks.keys() {
        let Some(network) = lane.networks.get(name) else { continue };
        need(!is_hosts(machine, network.libvirt.as_ref()), Need::SwitchedNetwork, &format!("the network `{name}`"));
        need(network.dhcp || network.dns, Need::AddressService, &format!("DHCP or DNS in the network `{name}`"));
    }
    needs
}

/// Whether that network is a network of the host's for this machine, rather than our switch.
pub fn is_hosts(machine: &Machine, network: Option<&LibvirtNetwork>) -> bool {
    machine.backend == Backend::Libvirt && network.is_some()
}

/// With the machines that it is needed of.
fn of_step(lane: &Lane, step: &Step) -> Vec<(Need, String, Vec<String>)> {
    let said = |what: &str| format!("{what} (step `{}`)", step.name);
    let members = |network: &String| {
        let within = lane.machines.iter().filter(|(_, machine)| machine.networks.contains_key(network));
        within.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    match &step.action {
        Action::Http { network: Some(network), .. } | Action::Tcp { network: Some(network), .. } => {
            vec![(Need::HostInNetwork, said(&format!("the host's place in `{network}`")), members(network))]
        }
        Action::Checkpoint { .. } => vec![(Need::Checkpoint, said("a checkpoint"), step.on.clone())],
        Action::Restore { .. } => vec![(Need::Checkpoint, said("going back to a checkpoint"), step.on.clone())],
        Action::Fault { fault } => of_fault(fault, &step.on, &said, &members),
        Action::Schedule { schedule } => schedule
            .faults
            .iter()
            .flat_map(|scheduled| of_fault(&scheduled.fault, &scheduled.on, &said, &members))
            .collect(),
        Action::Expect { .. }
        | Action::Await { .. }
        | Action::Exec { .. }
        | Action::Host { .. }
        | Action::Http { network: None, .. }
        | Action::Tcp { network: None, .. }
        | Action::CopyIn { .. }
        | Action::CopyProgram { .. }
        | Action::CopyOut { .. }
        | Action::Power { .. }
        | Action::Reboot {}
        | Action::Heal { .. }
        | Action::Deployer { .. }
        | Action::Hold { .. }
        | Action::Script { .. }
        | Action::Parallel { .. } => Vec::new(),
    }
}

fn of_fault(
    fault: &Fault,
    on: &[String],
    said: &impl Fn(&str) -> String,
    members: &impl Fn(&String) -> Vec<String>,
) -> Vec<(Need, String, Vec<String>)> {
    let on = on.to_vec();
    match fault {
        Fault::Link { network, .. } => vec![(Need::NetworkFaults, said("a fault on a link"), members(network))],
        Fault::Disk { effect: DiskEffect::Errors { .. }, .. } => vec![(Need::DiskFaults, said("a failing disk"), on)],
        Fault::Disk { effect: DiskEffect::Slow { .. }, .. } => vec![(Need::SlowDisk, said("a slow disk"), on)],
        Fault::Pause {} => vec![(Need::Pause, said("standing still"), on)],
        Fault::Full { .. }
        | Fault::Power { .. }
        | Fault::Process { .. }
        | Fault::Clock { .. }
        | Fault::Memory { .. } => Vec::new(),
    }
}

/// The table as Markdown: what docs/backends.md shows.
pub fn markdown() -> String {
    let mut text =
        String::from("| a lane may need | `qemu` | `libvirt` on this host | why not |\n| --- | --- | --- | --- |\n");
    for row in &TABLE {
        let can = |verdict: Verdict| if verdict.is_none() { "yes" } else { "no" };
        let why = row.qemu.or(row.libvirt).unwrap_or_default();
        text.push_str(&format!("| {} | {} | {} | {why} |\n", row.what, can(row.qemu), can(row.libvirt)));
    }
    text.push_str(&format!("\n`libvirt` on another host can boot nothing of this one: {ELSEWHERE}.\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_its_row_once() {
        let needs: BTreeSet<Need> = TABLE.iter().map(|row| row.need).collect();
        assert_eq!(needs.len(), TABLE.len());
        assert!(TABLE.iter().all(|row| row.qemu.is_none()), "QEMU is what lanes were written for");
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../docs/backends.md");
        assert!(page.contains(&markdown()), "docs/backends.md has to hold:\n{}", markdown());
    }

    #[test]
    fn a_remote_libvirt_lacks_all() {
        assert!(TABLE.iter().all(|row| Place::RemoteLibvirt.lacks(row.need).is_some()));
        assert_eq!(Place::Libvirt.lacks(Need::Machine), None);
    }
}
