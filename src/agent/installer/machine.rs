//! What the machine says of itself: firmware's tables, network cards, memory.

use std::fs;
use std::path::Path;

use crate::provisioning::{Firmware, Identity};

/// What vendors leave where a number of the machine's own belongs.
const NO_SERIAL: &[&str] = &[
    "",
    "0",
    "123456789",
    "0123456789",
    "default string",
    "n/a",
    "none",
    "not applicable",
    "not available",
    "not specified",
    "o.e.m.",
    "serial",
    "system serial number",
    "to be filled by o.e.m.",
    "unknown",
    "invalid",
];

/// `root`: `/`, but for tests.
pub fn identity(root: &Path, node_id: Option<String>) -> Identity {
    let dmi = |name: &str| {
        let text = fs::read_to_string(root.join("sys/class/dmi/id").join(name)).ok()?;
        let text = text.trim().to_owned();
        let repeated = text.bytes().all(|byte| matches!(byte, b'0' | b'f' | b'F' | b'-' | b'.' | b'x' | b'X'));
        (!repeated && !NO_SERIAL.contains(&text.to_ascii_lowercase().as_str())).then_some(text)
    };
    let uuid = dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase());
    let macs = cards(root).into_iter().map(|card| card.mac).collect::<std::collections::BTreeSet<_>>();
    Identity { node_id, serial: dmi("product_serial"), uuid, macs: macs.into_iter().collect() }
}

/// A physical network card.
#[derive(Debug, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    /// Lower case.
    pub mac: String,
}

/// In the order of their names.
pub fn cards(root: &Path) -> Vec<Card> {
    let folder = root.join("sys/class/net");
    let mut cards: Vec<Card> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        // What has no device behind it (loopback, bridges) is not physical.
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let mac = fs::read_to_string(entry.path().join("address")).ok()?.trim().to_ascii_lowercase();
            (mac.len() == 17).then(|| Card { name: entry.file_name().to_string_lossy().into_owned(), mac })
        })
        .collect();
    cards.sort_by(|one, other| one.name.cmp(&other.name));
    cards
}

pub fn firmware(root: &Path) -> Firmware {
    if root.join("sys/firmware/efi").exists() { Firmware::Uefi } else { Firmware::Bios }
}

/// Bytes: all, and those that can be had.
pub fn memory(root: &Path) -> (u64, u64) {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kibibytes.unwrap_or(0) << 10
    };
    (bytes("MemTotal"), bytes("MemAvailable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_own_numbers_and_not_by_what_vendors_leave() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/class/dmi/id/product_serial", "To Be Filled By O.E.M.\n");
        write("sys/class/dmi/id/product_uuid", "03000200-0400-0500-0006-000700080009\n");
        write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        for (name, mac) in [("eth1", "52:54:00:0A:00:02"), ("eth0", "52:54:00:0A:00:01")] {
            write(&format!("sys/class/net/{name}/address"), mac);
            fs::create_dir(root.join(format!("sys/class/net/{name}/device"))).unwrap();
        }
        write("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:     500 kB\n");
        let found = identity(root, None);
        assert_eq!(found.serial, None);
        assert_eq!(found.uuid.as_deref(), Some("03000200-0400-0500-0006-000700080009"));
        assert_eq!(found.macs, ["52:54:00:0a:00:01", "52:54:00:0a:00:02"]);
        assert_eq!(memory(root), (1_024_000, 512_000));
        assert_eq!(firmware(root), Firmware::Bios);
        write("sys/class/dmi/id/product_serial", "node01\n");
        assert_eq!(identity(root, Some("x".into())).serial.as_deref(), Some("node01"));
        write("sys/class/dmi/id/product_serial", "00000000\n");
        assert_eq!(identity(root, None).serial, None);
    }
}
