//! A machine as libvirt's domain XML: a pure function of what the machine is, so that it can be printed and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::mark::Mark;
use super::xml::Element;
use crate::error::{Context, Result};
use crate::lane::model::LibvirtNetwork;
use crate::machine::FirstBoot;
use crate::machine::qemu::{AttachedDisk, QemuDefinition};
use crate::plan::model::Accelerator;

/// Where libvirt's own extension for QEMU's arguments is defined.
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// The medium's name in QEMU, by which its place in the boot order is changed.
pub const MEDIUM: &str = "ua-medium";

/// libvirt counts its own from the first one.
const CARD_ADDRESS: &str = "bus=pcie.0,addr=0x18";

/// What a domain is made from.
#[derive(Clone, Debug)]
pub struct Domain<'a> {
    pub definition: &'a QemuDefinition,
    pub mark: &'a Mark,
    /// QEMU, by its whole path.
    pub emulator: &'a Path,
    /// Where the sockets of consoles and agent are.
    pub runtime: &'a Path,
    /// The security drivers of that libvirt (`dac`, `apparmor`, `selinux`).
    pub security_models: &'a [String],
    /// User and group that QEMU runs as, where libvirt would choose one that does not see our files.
    pub owner: (u32, u32),
    /// What the lane's networks are there.
    pub networks: &'a BTreeMap<String, LibvirtNetwork>,
}

/// Sockets in the machine's runtime folder that QEMU listens on.
pub const SOCKETS: [&str; 3] = ["console", "console-hvc0", "agent"];

pub fn socket(runtime: &Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.sock"))
}

impl Domain<'_> {
    /// The document.
    ///
    /// # Errors
    /// Infrastructure: what the machine is told at boot cannot be read.
    pub fn xml(&self, first: FirstBoot) -> Result<String> {
        let definition = self.definition;
        let kind = match definition.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "qemu",
        };
        let cpu = match definition.accelerator {
            Accelerator::Kvm => "host-passthrough",
            Accelerator::Tcg => "maximum",
        };
        let features = Element::new("features")
            .child(Element::new("acpi"))
            .child(Element::new("apic"))
            .child(Element::new("vmport").with("state", "off"));
        let mut domain = Element::new("domain").with("type", kind);
        let arguments = self.arguments();
        if !arguments.is_empty() {
            domain = domain.with("xmlns:qemu", QEMU_NAMESPACE);
        }
        domain = domain
            .child(Element::new("name").text(self.mark.domain_name()))
            .child(Element::new("uuid").text(&definition.identity.uuid))
            .child(Element::new("metadata").child(self.mark.element()))
            .child(Element::new("memory").with("unit", "b").text(definition.memory.bytes()))
            .child(Element::new("vcpu").text(definition.cpus))
            .children(self.system_information()?)
            .child(self.boot())
            .child(features)
            .child(Element::new("cpu").with("mode", cpu))
            .child(self.clock())
            .child(Element::new("on_poweroff").text("destroy"))
            .child(Element::new("on_reboot").text("restart"))
            .child(Element::new("on_crash").text("destroy"))
            .child(self.devices(first))
            .children(self.security_models.iter().map(|model| self.security(model)));
        if !arguments.is_empty() {
            let arguments = arguments.into_iter().map(|argument| Element::new("qemu:arg").with("value", argument));
            domain = domain.child(Element::new("qemu:commandline").children(arguments));
        }
        Ok(domain.document())
    }

    /// What the guest finds in its firmware's tables, and in files of QEMU's firmware configuration.
    fn system_information(&self) -> Result<Vec<Element>> {
        let identity = &self.definition.identity;
        let entry = |name: &str, value: &str| Element::new("entry").with("name", name).text(value);
        let mut tables = Element::new("sysinfo").with("type", "smbios");
        if !identity.serial.is_empty() {
            let system = Element::new("system");
            tables = tables.child(system.child(entry("serial", &identity.serial)).child(entry("uuid", &identity.uuid)));
        }
        if let Some(file) = &identity.oem_string {
            let text =
                std::fs::read_to_string(file).infrastructure(|| format!("failed to read `{}`", file.display()))?;
            tables = tables.child(Element::new("oemStrings").child(Element::new("entry").text(text)));
        }
        let files = identity
            .secrets
            .iter()
            .map(|(name, file)| Element::new("entry").with("name", name).with("file", file.display()));
        let files = Element::new("sysinfo").with("type", "fwcfg").children(files);
        Ok([tables, files].into_iter().filter(|information| !information.is_empty()).collect())
    }

    fn boot(&self) -> Element {
        let definition = self.definition;
        let mut boot =
            Element::new("os").child(Element::new("type").with("arch", "x86_64").with("machine", "q35").text("hvm"));
        if let Some((code, variables)) = &definition.uefi {
            let loader = Element::new("loader").with("readonly", "yes").with("type", "pflash");
            boot = boot.child(loader.text(code.display())).child(Element::new("nvram").text(variables.display()));
        }
        if let (Some(direct), Some(line)) = (&definition.direct_kernel, definition.command_line()) {
            boot = boot
                .child(Element::new("kernel").text(direct.kernel.display()))
                .child(Element::new("initrd").text(direct.initramfs.display()))
                .child(Element::new("cmdline").text(line));
        }
        boot.child(Element::new("smbios").with("mode", "sysinfo"))
    }

    fn clock(&self) -> Element {
        match self.definition.clock {
            None => Element::new("clock").with("offset", "utc"),
            Some(wrong_by) => Element::new("clock")
                .with("offset", "variable")
                .with("adjustment", SignedDuration::from_millis(wrong_by.0).as_secs())
                .with("basis", "utc"),
        }
    }

    fn devices(&self, first: FirstBoot) -> Element {
        let definition = self.definition;
        let disks = definition.disks.iter().enumerate().map(|(index, disk)| self.disk(index, disk, first));
        let cards = definition.links.iter().filter_map(|link| {
            let card = card(self.networks.get(&link.network)?);
            Some(
                card.child(Element::new("mac").with("address", &link.mac))
                    .child(Element::new("model").with("type", "virtio"))
                    .child(Element::new("rom").with("enabled", "no")),
            )
        });
        let shares = definition.shares.iter().map(|(tag, folder)| {
            Element::new("filesystem")
                .with("type", "mount")
                .with("accessmode", "squash")
                .with("multidevs", "remap")
                .child(Element::new("source").with("dir", folder.display()))
                .child(Element::new("target").with("dir", tag))
                .child(Element::new("readonly"))
        });
        let serial = self
            .listening("serial", "console")
            .child(Element::new("target").with("type", "isa-serial").with("port", 0));
        let console = self
            .listening("console", "console-hvc0")
            .child(Element::new("target").with("type", "virtio").with("port", 1));
        let agent = self
            .listening("channel", "agent")
            .child(Element::new("target").with("type", "virtio").with("name", "bootproof.agent.0"));
        let entropy = Element::new("rng")
            .with("model", "virtio")
            .child(Element::new("backend").with("model", "random").text("/dev/urandom"));
        // What libvirt would add of itself is left out: a machine has the same devices under both backends.
        let none = Element::new("model").with("type", "none");
        Element::new("devices")
            .child(Element::new("emulator").text(self.emulator.display()))
            .children(disks)
            .children(self.medium(first))
            .children(cards)
            .children(shares)
            .child(serial)
            .child(console)
            .child(agent)
            .child(entropy)
            .child(Element::new("controller").with("type", "usb").with("model", "none"))
            .child(Element::new("video").child(none))
            .child(Element::new("memballoon").with("model", "none"))
    }

    fn disk(&self, index: usize, disk: &AttachedDisk, first: FirstBoot) -> Element {
        let element = Element::new("disk")
            .with("type", "file")
            .with("device", "disk")
            .child(Element::new("driver").with("name", "qemu").with("type", &disk.format).with("discard", "unmap"))
            .child(Element::new("source").with("file", disk.path.display()))
            .child(Element::new("target").with("dev", device(index)).with("bus", "virtio"))
            .child(Element::new("serial").text(&disk.serial));
        if self.definition.direct_kernel.is_some() {
            // There is nothing to boot from.
            return element;
        }
        let before = if first == FirstBoot::Medium { 2 } else { 1 };
        element.child(Element::new("boot").with("order", index + before))
    }

    fn medium(&self, first: FirstBoot) -> Option<Element> {
        let medium = self.definition.medium.as_ref()?;
        let order = if first == FirstBoot::Medium { 1 } else { self.definition.disks.len() + 1 };
        Some(
            Element::new("disk")
                .with("type", "file")
                .with("device", "cdrom")
                .child(Element::new("driver").with("name", "qemu").with("type", "raw"))
                .child(Element::new("source").with("file", medium.display()))
                .child(Element::new("target").with("dev", "sda").with("bus", "sata"))
                .child(Element::new("readonly"))
                .child(Element::new("alias").with("name", MEDIUM))
                .child(Element::new("boot").with("order", order)),
        )
    }

    /// A character device whose socket QEMU listens on: it is connected to before the guest runs.
    fn listening(&self, kind: &str, name: &str) -> Element {
        let source = Element::new("source").with("mode", "bind").with("path", socket(self.runtime, name).display());
        Element::new(kind).with("type", "unix").child(source)
    }

    /// The files of a run are its owner's: QEMU runs as that user, and nothing is given to anybody else.
    fn security(&self, model: &str) -> Element {
        if model != "dac" {
            return Element::new("seclabel").with("type", "none").with("model", model);
        }
        let (user, group) = self.owner;
        Element::new("seclabel")
            .with("type", "static")
            .with("model", model)
            .with("relabel", "no")
            .child(Element::new("label").text(format!("+{user}:+{group}")))
    }

    /// The card of the user-mode network. libvirt's own has neither `restrict` nor forwarded ports, and a guest that
    /// reaches whatever the host reaches would not be hermetic.
    fn arguments(&self) -> Vec<String> {
        let Some(card) = self.definition.user_card() else { return Vec::new() };
        // QEMU places what is given this way before libvirt's own devices: at an address that libvirt does not come to.
        vec!["-netdev".into(), card.backend, "-device".into(), format!("{},{CARD_ADDRESS}", card.device)]
    }
}

/// By libvirt's name for the kind of network.
fn card(network: &LibvirtNetwork) -> Element {
    let card = Element::new("interface");
    match network {
        LibvirtNetwork::User {} => card.with("type", "user"),
        LibvirtNetwork::Network { name } => {
            card.with("type", "network").child(Element::new("source").with("network", name))
        }
        LibvirtNetwork::Bridge { name } => {
            card.with("type", "bridge").child(Element::new("source").with("bridge", name))
        }
    }
}

/// `vda`, `vdb`, ..., `vdz`, `vdaa`: by which libvirt knows the disk.
pub fn device(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        letters.push(char::from(b'a' + u8::try_from((rest - 1) % 26).unwrap_or_default()));
        rest = (rest - 1) / 26;
    }
    letters.iter().rev().fold("vd".into(), |name, letter| format!("{name}{letter}"))
}
