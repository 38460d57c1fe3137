//! A plan against this host.

use std::path::Path;

use super::host;
use crate::event::Finding;
use crate::lane::model::{Firmware, LibvirtNetwork};
use crate::machine::capabilities::{self, Missing};
use crate::machine::libvirt::{Host, Target};
use crate::machine::qemu;
use crate::plan::model::{Accelerator, AcceleratorRequest, Plan};

/// QEMU before this lacks what the machines' command lines use.
const OLDEST_QEMU: (u32, u32) = (7, 0);

/// QEMU before this has no `-netdev stream`.
const OLDEST_NETWORKED_QEMU: (u32, u32) = (7, 2);

/// What the checks need beside the plan.
pub struct PreflightInputs<'a> {
    pub work_root: &'a Path,
    /// First line of `qemu --version`; `None` when there is no QEMU.
    pub qemu_version: Option<&'a str>,
    /// What the proof of the accelerator says.
    pub accelerator: Accelerator,
    pub accelerator_detail: &'a str,
    /// The libvirt that machines run under, as it said of itself.
    pub libvirt: Option<&'a Host>,
    /// What the images' rooms miss (`image::missing_tools`).
    pub image_findings: Vec<Finding>,
}

/// Everything that speaks against starting; empty, or nothing blocking in it, means go.
pub fn check(plan: &Plan, inputs: &PreflightInputs<'_>) -> Vec<Finding> {
    let mut findings = inputs.image_findings.clone();
    let needs_qemu = plan.lane.machines.values().any(|machine| machine.backend.is_virtual());
    if needs_qemu {
        check_qemu(plan, inputs, &mut findings);
        check_network_boot(plan, &mut findings);
        check_accelerator(plan, inputs, &mut findings);
    }
    check_backends(plan, inputs, &mut findings);
    check_requirements(plan, &mut findings);
    check_budget(plan, &mut findings);
    check_work_root(inputs, &mut findings);
    findings
}

fn blocking(check: &str, message: String, remedy: &str) -> Finding {
    Finding { check: check.into(), blocking: true, message, remedy: Some(remedy.into()) }
}

fn check_qemu(plan: &Plan, inputs: &PreflightInputs<'_>, findings: &mut Vec<Finding>) {
    match inputs.qemu_version {
        None => findings.push(blocking(
            "qemu",
            format!("`{}` was not found", qemu::program().display()),
            "install QEMU (Debian and Ubuntu: `apt-get install qemu-system-x86`)",
        )),
        Some(line) => match host::parse_qemu_version(line) {
            Some(version) if version >= OLDEST_QEMU => {}
            Some((major, minor)) => findings.push(blocking(
                "qemu",
                format!("QEMU {major}.{minor} is older than {}.{}", OLDEST_QEMU.0, OLDEST_QEMU.1),
                "install a newer QEMU (on Debian: from backports)",
            )),
            None => findings.push(Finding {
                check: "qemu".into(),
                blocking: false,
                message: format!("QEMU's version cannot be read from `{line}`"),
                remedy: None,
            }),
        },
    }
    let version = inputs.qemu_version.and_then(host::parse_qemu_version);
    if !plan.lane.networks.is_empty() && version.is_some_and(|version| version < OLDEST_NETWORKED_QEMU) {
        findings.push(blocking(
            "qemu",
            "machines are joined by networks, and this QEMU has no network cards that end in a socket".into(),
            "install QEMU 7.2 or newer (on Debian: from backports)",
        ));
    }
    let served = plan.lane.machines.values().flat_map(|machine| &machine.disks).any(|disk| disk.is_served());
    if served && host::find_command(qemu::DISK_SERVER).is_none() {
        findings.push(blocking(
            "nbdkit",
            format!("a disk forgets or fails on purpose, and `{}`, which plays it, was not found", qemu::DISK_SERVER),
            "install it (Debian and Ubuntu: `apt-get install nbdkit`)",
        ));
    }
    let uefi = plan.lane.machines.values().any(|machine| machine.firmware == Firmware::Uefi);
    if uefi && qemu::firmware::uefi().is_none() {
        findings.push(blocking(
            "firmware",
            "a machine boots by UEFI, and no OVMF firmware was found".into(),
            "install it (Debian and Ubuntu: `apt-get install ovmf`) or set BOOTPROOF_OVMF_CODE and BOOTPROOF_OVMF_VARS",
        ));
    }
}

/// What machines need and their backends lack, and whether their libvirt is one that can do anything.
fn check_backends(plan: &Plan, inputs: &PreflightInputs<'_>, findings: &mut Vec<Finding>) {
    let target = plan.libvirt_uri.as_deref().map(Target::new);
    let remote = target.as_ref().is_some_and(Target::is_remote);
    for Missing { machine, need, why } in capabilities::missing(&plan.lane, remote) {
        let who = machine.as_ref().map_or_else(|| "the lane".to_owned(), |name| format!("machine `{name}`"));
        let backend =
            target.as_ref().map_or_else(|| "its backend".to_owned(), |target| format!("libvirt at `{target}`"));
        findings.push(blocking(
            "backend",
            format!("{who} needs {need}, which {backend} lacks: {why}"),
            "run it with `--backend qemu`; `bootproof doctor --backends` tells what each can do",
        ));
    }
    let (Some(target), Some(host)) = (target, inputs.libvirt) else { return };
    if host.driver != "QEMU" {
        findings.push(blocking(
            "libvirt",
            format!("libvirt at `{target}` drives `{}`, and machines are QEMU's", host.driver),
            "name another with `--libvirt-uri`: `qemu:///session`, `qemu:///system`",
        ));
    }
    for (name, network) in &plan.lane.networks {
        let used = plan.lane.machines.values().any(|machine| {
            machine.networks.contains_key(name) && capabilities::is_hosts(machine, network.libvirt.as_ref())
        });
        if !used {
            continue;
        }
        if network.capture {
            findings.push(Finding {
                check: "backend".into(),
                blocking: false,
                message: format!("the network `{name}` is not recorded: it is libvirt's, and not our switch"),
                remedy: Some(format!("say `networks.{name}.capture = false` where that is meant")),
            });
        }
        if let (Some(LibvirtNetwork::Network { name: theirs }), Some(there)) = (&network.libvirt, &host.networks)
            && !there.contains(theirs)
        {
            findings.push(blocking(
                "libvirt",
                format!("the network `{name}` is libvirt's `{theirs}`, and none of that name is up at `{target}`"),
                "start it (`virsh net-start`), or name another: `--set networks.NAME.libvirt=network:NAME`",
            ));
        }
    }
}

fn check_network_boot(plan: &Plan, findings: &mut Vec<Finding>) {
    let wanted = plan.lane.machines.values().any(|machine| machine.network_boot.is_some());
    if wanted && qemu::firmware::network_rom().is_none() {
        findings.push(blocking(
            "network-boot",
            "a machine boots from the network, and iPXE, which QEMU's network cards boot by, was not found".into(),
            "install it (Debian and Ubuntu: `apt-get install ipxe-qemu`)",
        ));
    }
}

fn check_accelerator(plan: &Plan, inputs: &PreflightInputs<'_>, findings: &mut Vec<Finding>) {
    let wanted = plan.accelerator.requested == AcceleratorRequest::Kvm || plan.lane.requires.kvm;
    if wanted && inputs.accelerator != Accelerator::Kvm {
        findings.push(blocking(
            "accelerator",
            format!("KVM is asked for and does not work here: {}", inputs.accelerator_detail),
            "run with `--accel auto` or `--accel tcg`, or on a host whose KVM boots a guest",
        ));
    }
    if plan.lane.requires.nested && !host::nested_kvm() {
        findings.push(blocking(
            "nested",
            "the lane needs guests that start guests, and nested KVM is off or absent".into(),
            "load the KVM module with `nested=1`, or run on another host",
        ));
    }
}

fn check_requirements(plan: &Plan, findings: &mut Vec<Finding>) {
    if let Some(wanted) = &plan.lane.requires.arch {
        let here = host::architecture();
        if *wanted != here {
            findings.push(blocking(
                "arch",
                format!("the lane needs `{wanted}`, and this host is `{here}`"),
                "run it on such a host",
            ));
        }
    }
    for tool in &plan.lane.requires.tools {
        if host::find_command(tool).is_none() {
            findings.push(blocking(
                "tools",
                format!("the lane needs `{tool}`, which is not in the search path"),
                "install it, or add its folder to PATH",
            ));
        }
    }
}

/// What the lane itself allows. Whether the host has it is asked when the run is admitted.
fn check_budget(plan: &Plan, findings: &mut Vec<Finding>) {
    if let Some(limit) = plan.lane.budget.memory
        && plan.memory_peak > limit
    {
        findings.push(blocking(
            "memory",
            format!("the machines need {}, and the lane's budget is {limit}", plan.memory_peak),
            "raise `budget.memory`, or give the machines less",
        ));
    }
    if let Some(limit) = plan.lane.budget.disk
        && plan.disk_peak > limit
    {
        findings.push(blocking(
            "disk",
            format!("the run may take {}, and the lane's budget is {limit}", plan.disk_peak),
            "raise `budget.disk`, or make the disks smaller",
        ));
    }
}

fn check_work_root(inputs: &PreflightInputs<'_>, findings: &mut Vec<Finding>) {
    let root = inputs.work_root;
    let outcome = std::fs::create_dir_all(root).and_then(|()| tempfile::tempfile_in(root).map(drop));
    if let Err(error) = outcome {
        findings.push(blocking(
            "work-root",
            format!("the work root `{}` cannot be written: {error}", root.display()),
            "point `--work-root` (or BOOTPROOF_WORK_ROOT) to a folder that can",
        ));
    }
}
