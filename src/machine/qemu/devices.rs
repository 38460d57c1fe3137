//! A machine's cards and data disks: on its command line where it boots, plugged in where it was forked, behind the same
//! ports in either case.

use sha2::{Digest, Sha256};

use super::arguments::{AttachedDisk, QemuDefinition, escape};
use super::plug::{self, Plug};
use super::write_log::log_options;

/// The image's own disk, which a checkpoint has.
const ROOT_DISK: &str = "root";
/// Places for what is plugged in later.
pub const PORTS: usize = 8;

/// Whether cards and data disks are there from the start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugged {
    FromTheStart,
    Later,
}

/// A network card: options of what it is connected to, and of the device.
pub struct Card {
    pub backend: String,
    pub device: String,
}

/// Addresses that do not move with what else the machine has: they are saved with it.
pub(super) fn port_options(port: usize) -> String {
    format!("pcie-root-port,id=port{port},chassis={},bus=pcie.0,addr={:#x}", port + 1, 0x10 + port)
}

impl QemuDefinition {
    /// The MAC addresses of all cards, as the guest's kernel writes them.
    pub fn macs(&self) -> Vec<String> {
        let user = (!self.network.none).then(|| self.user_mac());
        user.into_iter().chain(self.links.iter().map(|link| link.mac.to_ascii_lowercase())).collect()
    }

    /// Nobody else hears it; but a fork shall have nothing that another one has.
    fn user_mac(&self) -> String {
        if !self.pluggable {
            return "52:54:00:12:34:56".into();
        }
        let digest = Sha256::digest(format!("{}/user", self.identity.uuid));
        format!("52:54:00:{:02x}:{:02x}:{:02x}", digest[0], digest[1], digest[2])
    }

    /// `-blockdev`'s: what the disk's content comes from.
    pub(super) fn block_options(&self, index: usize, disk: &AttachedDisk) -> String {
        let file = |at: &str| match &disk.server {
            None => format!("{at}.driver=file,{at}.filename={},{at}.discard=unmap", escape(&disk.path)),
            Some(server) => {
                format!("{at}.driver=nbd,{at}.server.type=unix,{at}.server.path={}", escape(&server.socket))
            }
        };
        let content = match &disk.log {
            None => format!("driver={},{}", disk.format, file("file")),
            Some(log) => {
                let log = log_options(&log.log());
                format!(
                    "driver=blklogwrites,file.driver={},file.discard=unmap,{},{log}",
                    disk.format,
                    file("file.file")
                )
            }
        };
        format!("node-name=disk{index},discard=unmap,{content}")
    }

    /// `-device`'s: what the guest sees of the disk.
    pub(super) fn disk_options(&self, index: usize, disk: &AttachedDisk) -> String {
        // Boot order is the firmware's affair; with a kernel given directly there is nothing to boot from.
        let boot = if self.direct_kernel.is_none() { format!(",bootindex={}", index + 2) } else { String::new() };
        // What fails is the guest's to deal with: the machine is never stopped for it.
        let errors = if disk.server.is_some() { ",werror=report,rerror=report" } else { "" };
        let (id, serial) = (disk.device_id(), &disk.serial);
        let port = if self.is_pluggable(disk) { self.port_of_disk(index) } else { String::new() };
        format!("virtio-blk-pci,id={id},drive=disk{index},serial={serial}{errors}{boot}{port}")
    }

    pub(super) fn is_pluggable(&self, disk: &AttachedDisk) -> bool {
        self.pluggable && disk.serial != ROOT_DISK
    }

    fn port_of_disk(&self, index: usize) -> String {
        let before = self.disks.iter().take(index).filter(|disk| self.is_pluggable(disk)).count();
        format!(",bus=port{}", self.cards_count() + before)
    }

    fn cards_count(&self) -> usize {
        usize::from(!self.network.none) + self.links.len()
    }

    pub(super) fn ports(&self) -> usize {
        if self.pluggable { PORTS } else { 0 }
    }

    /// How many cards and disks want a port.
    pub fn ports_wanted(&self) -> usize {
        self.cards_count() + self.disks.iter().filter(|disk| self.is_pluggable(disk)).count()
    }

    /// What is plugged into a guest that was forked from a checkpoint, as QMP takes it: backends before what uses them.
    pub fn plugs(&self) -> Vec<Plug> {
        let mut plugs = Vec::new();
        for card in self.cards() {
            plugs.push(plug::network(&card.backend));
            plugs.push(plug::device(&card.device));
        }
        for (index, disk) in self.disks.iter().enumerate().filter(|(_, disk)| self.is_pluggable(disk)) {
            plugs.push(plug::disk(&self.block_options(index, disk)));
            plugs.push(plug::device(&self.disk_options(index, disk)));
        }
        plugs
    }

    /// The network cards: first that of the user-mode network, then those in the lane's networks.
    pub(super) fn cards(&self) -> Vec<Card> {
        let mut cards: Vec<Card> = self.user_card().into_iter().collect();
        for (index, link) in self.links.iter().enumerate() {
            let socket = escape(&link.socket);
            let backend = format!("stream,id=link{index},server=off,addr.type=unix,addr.path={socket}");
            let port = self.port_of_card(cards.len());
            // QEMU's own option ROM for the card is iPXE, for BIOS and UEFI in one.
            let boot = link.boot_index.map_or_else(|| "romfile=".into(), |index| format!("bootindex={index}"));
            let device = format!("virtio-net-pci,id=card{index},netdev=link{index},mac={},{boot}{port}", link.mac);
            cards.push(Card { backend, device });
        }
        cards
    }

    /// The card of the user-mode network, where the machine has one.
    pub fn user_card(&self) -> Option<Card> {
        if self.network.none {
            return None;
        }
        // No option ROM: nothing boots from this network.
        let (mac, port) = (self.user_mac(), self.port_of_card(0));
        let device = format!("virtio-net-pci,id=card-user,netdev=user,mac={mac},romfile={port}");
        Some(Card { backend: self.user_network(), device })
    }

    fn port_of_card(&self, number: usize) -> String {
        if self.pluggable { format!(",bus=port{number}") } else { String::new() }
    }

    fn user_network(&self) -> String {
        let restrict = if self.network.internet { "off" } else { "on" };
        let mut backend = format!("user,id=user,ipv6=off,restrict={restrict}");
        for port in &self.network.forward {
            // QEMU picks the host's port, so that no two runs can want the same one.
            backend.push_str(&format!(",hostfwd=tcp:127.0.0.1:0-:{port}"));
        }
        for (guest, host) in &self.network.services {
            let relay = self.relay.to_string_lossy().replace(',', ",,");
            backend.push_str(&format!(",guestfwd=tcp:{guest}-cmd:{relay} relay {host}"));
        }
        backend
    }
}
