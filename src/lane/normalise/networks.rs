//! Networks between machines: subnets, addresses, MACs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Checker;
use crate::lane::disturbance_document::SwitchedNetworkDocument;
use crate::lane::document::{MachineDocument, Named, Terse};
use crate::lane::model::{Attachment, HOST, LibvirtNetwork, Machine, SwitchedNetwork};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::units::Size;

/// Machines count from here; below is room for the host and for addresses that a lane gives.
const FIRST_MACHINE: u32 = 11;
const CAPTURE_LIMIT: Size = Size::mebibytes(64);
/// A network is at least so small and at most so large, in bits of its prefix.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=28;

impl Checker<'_> {
    pub(super) fn networks(&mut self, networks: &Named<SwitchedNetworkDocument>) -> BTreeMap<String, SwitchedNetwork> {
        let mut plain: BTreeMap<String, SwitchedNetwork> = BTreeMap::new();
        for (index, (name, network)) in networks.iter().enumerate() {
            let network = self.entry(&network.place, |checker| {
                checker.host_name(name, "a network's name");
                if name.value == HOST {
                    checker.report(
                        Problem::new("a network cannot be called `host`, which is the host's place in each")
                            .at(name.place.clone()),
                    );
                }
                let (subnet, prefix) = network.subnet.as_ref().map_or_else(
                    || (Ipv4Addr::new(10, 77, u8::try_from(index).unwrap_or(u8::MAX), 0), 24),
                    |subnet| checker.subnet(subnet),
                );
                SwitchedNetwork {
                    subnet,
                    prefix,
                    capture: network.capture.unwrap_or(true),
                    capture_limit: network.capture_limit.as_ref().map_or(CAPTURE_LIMIT, |limit| limit.value),
                    dhcp: network.dhcp,
                    dns: network.dns,
                    boot_file: network.boot_file.as_ref().map(|file| checker.boot_file(file, network.dhcp)),
                    libvirt: network.libvirt.as_ref().and_then(|network| checker.libvirt_network(network)),
                }
            });
            let overlaps = |other: &SwitchedNetwork| {
                let wider = network.prefix.min(other.prefix);
                let bits = |address: Ipv4Addr| u64::from(u32::from(address)) >> (32 - u32::from(wider));
                bits(network.subnet) == bits(other.subnet)
            };
            if let Some((other, _)) = plain.iter().find(|(_, other)| overlaps(other)) {
                self.report(
                    Problem::new(format!("the networks `{other}` and `{}` share addresses", name.value))
                        .at(name.place.clone())
                        .hint("give them subnets that are apart: `10.20.0.0/24`, `10.20.1.0/24`"),
                );
            }
            plain.insert(name.value.clone(), network);
        }
        plain
    }

    fn libvirt_network(&mut self, network: &Spanned<String>) -> Option<LibvirtNetwork> {
        // What a kernel takes as an interface's name, and libvirt as a network's.
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= 64 && !name.contains(|c: char| c.is_control() || c == '/');
        let parsed = match network.value.split_once(':') {
            None if network.value == "user" => Some(LibvirtNetwork::User {}),
            Some(("network", name)) if is_name(name) => Some(LibvirtNetwork::Network { name: name.into() }),
            Some(("bridge", name)) if is_name(name) => Some(LibvirtNetwork::Bridge { name: name.into() }),
            _ => None,
        };
        if parsed.is_none() {
            self.report(
                Problem::new(format!("`{}` is no network of libvirt's", network.value))
                    .at(network.place.clone())
                    .hint("write `network:NAME`, `bridge:NAME` or `user`"),
            );
        }
        parsed
    }

    fn subnet(&mut self, subnet: &Spanned<String>) -> (Ipv4Addr, u8) {
        let parts = subnet.split_once('/');
        let parsed = parts.and_then(|(address, prefix)| {
            let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let within = PREFIXES.contains(&prefix) && address.is_private();
            let whole = within && u32::from(address) & (u32::MAX >> prefix) == 0;
            whole.then_some((address, prefix))
        });
        parsed.unwrap_or_else(|| {
            self.report(
                Problem::new(format!("`{}` is not a subnet for machines", subnet.value))
                    .at(subnet.place.clone())
                    .label("a private IPv4 network with a prefix from 8 to 28, and no bits set behind it")
                    .hint("write it like `10.20.0.0/24`"),
            );
            (Ipv4Addr::new(10, 77, 0, 0), 24)
        })
    }

    /// Gives every machine its places: addresses that the lane gives first, then the next free ones in name order.
    pub(super) fn attachments(
        &mut self,
        documents: &Named<MachineDocument>,
        networks: &BTreeMap<String, SwitchedNetwork>,
        machines: &mut BTreeMap<String, Machine>,
        lane: &str,
    ) {
        let mut taken: BTreeMap<(&str, Ipv4Addr), &str> = BTreeMap::new();
        let mut wanted: Vec<(&str, &Spanned<String>, Option<Ipv4Addr>)> = Vec::new();
        for (machine, document) in documents {
            let Some(places) = &document.networks else { continue };
            let none = BTreeMap::new();
            let (names, table) = match &places.value {
                Terse::Short(names) => (names.iter().collect::<Vec<_>>(), &none),
                Terse::Full(table) => (table.keys().collect(), table),
            };
            for name in names {
                let Some(network) = networks.get(&name.value) else {
                    self.report(
                        Problem::new(format!("the lane has no network `{}`", name.value))
                            .at(name.place.clone())
                            .nearest(name, networks.keys().map(String::as_str)),
                    );
                    continue;
                };
                if wanted.iter().any(|(other, place, _)| *other == machine.value && place.value == name.value) {
                    self.report(Problem::new(format!("`{}` is named twice", name.value)).at(name.place.clone()));
                    continue;
                }
                let given = table.get(name).and_then(|attachment| attachment.address.as_ref());
                let address = given.and_then(|address| self.address(address, network));
                if let (Some(address), Some(given)) = (address, given)
                    && let Some(other) = taken.insert((name.as_str(), address), machine.as_str())
                {
                    self.report(
                        Problem::new(format!("`{other}` and `{}` have the same address", machine.value))
                            .at(given.place.clone()),
                    );
                }
                wanted.push((machine.as_str(), name, address));
            }
        }
        for (machine, name, address) in wanted {
            let network = &networks[&name.value];
            let free = || {
                let all = FIRST_MACHINE..u32::try_from(network.size() - 1).unwrap_or(u32::MAX);
                all.map(|number| network.nth(number)).find(|free| !taken.contains_key(&(name.as_str(), *free)))
            };
            let Some(address) = address.or_else(free) else {
                self.report(
                    Problem::new(format!("the network `{}` has no address left for `{machine}`", name.value))
                        .at(name.place.clone())
                        .hint("give the network a larger subnet"),
                );
                continue;
            };
            taken.insert((name.as_str(), address), machine);
            if let Some(plain) = machines.get_mut(machine) {
                let mac = mac(lane, &name.value, machine);
                plain.networks.insert(name.value.clone(), Attachment { address, mac });
            }
        }
    }

    fn address(&mut self, address: &Spanned<String>, network: &SwitchedNetwork) -> Option<Ipv4Addr> {
        let parsed = address.parse::<Ipv4Addr>().ok();
        let usable = parsed.filter(|address| network.number_of(*address).is_some_and(|number| number > 1));
        if usable.is_none() {
            self.report(
                Problem::new(format!("`{}` is not a machine's address in this network", address.value))
                    .at(address.place.clone())
                    .label(format!("in {}/{}; {} is the host's", network.subnet, network.prefix, network.host())),
            );
        }
        usable
    }
}

/// The same names always give the same address: guests that remember it find it again.
fn mac(lane: &str, network: &str, machine: &str) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("{lane}\0{network}\0{machine}"));
    format!("52:54:00:{:02x}:{:02x}:{:02x}", digest[0], digest[1], digest[2])
}
