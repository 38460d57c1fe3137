//! Who has which addresses on a network. Pure: the same network gives the same addresses, in every run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::mac::MacAddress;

/// The name of the host's own port on every network.
pub const HOST: &str = "host";

/// An IPv4 network with room for two machines at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Prefixes go from 8 to 30; what is not under the prefix has to be 0.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, AddressError> {
        if !(8..=30).contains(&prefix) {
            return Err(AddressError::Prefix { prefix });
        }
        let base = Ipv4Addr::from_bits(network.to_bits() & (u32::MAX << (32 - prefix)));
        if base != network {
            return Err(AddressError::HostBits { given: network, prefix, base });
        }
        Ok(Self { network, prefix })
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | (u32::MAX >> self.prefix))
    }

    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.prefix))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.netmask().to_bits() == self.network.to_bits()
    }

    /// An address that a machine may have: neither the network's own nor the one for all.
    pub fn is_usable(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network && address != self.broadcast()
    }

    /// How many machines there is room for, the host among them.
    pub fn room(self) -> usize {
        (1usize << (32 - self.prefix)) - 2
    }
}

impl FromStr for Subnet {
    type Err = AddressError;

    /// From `10.77.0.0/24`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let unreadable = || AddressError::Unreadable { text: text.into() };
        let (network, prefix) = text.split_once('/').ok_or_else(unreadable)?;
        Self::new(network.parse().map_err(|_| unreadable())?, prefix.parse().map_err(|_| unreadable())?)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

/// What is wrong with a network's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    Unreadable {
        text: String,
    },
    Prefix {
        prefix: u8,
    },
    HostBits {
        given: Ipv4Addr,
        prefix: u8,
        base: Ipv4Addr,
    },
    /// The address is not one that a machine of this network may have.
    Outside {
        machine: String,
        address: Ipv4Addr,
        subnet: Subnet,
    },
    Taken {
        machine: String,
        other: String,
        address: Ipv4Addr,
    },
    Twice {
        machine: String,
    },
    /// `host` is the host's own.
    Reserved,
    Full {
        subnet: Subnet,
        wanted: usize,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { text } => write!(formatter, "`{text}` is no subnet such as `10.77.0.0/24`"),
            Self::Prefix { prefix } => write!(formatter, "a subnet's prefix is from 8 to 30, not {prefix}"),
            Self::HostBits { given, prefix, base } => {
                write!(formatter, "`{given}/{prefix}` is an address within the subnet `{base}/{prefix}`")
            }
            Self::Outside { machine, address, subnet } => {
                write!(formatter, "`{machine}` cannot have the address `{address}` in the subnet `{subnet}`")
            }
            Self::Taken { machine, other, address } => {
                write!(formatter, "`{machine}` and `{other}` both have the address `{address}`")
            }
            Self::Twice { machine } => write!(formatter, "`{machine}` is on the network twice"),
            Self::Reserved => write!(formatter, "`{HOST}` is the host's own name on a network"),
            Self::Full { subnet, wanted } => {
                write!(formatter, "the subnet `{subnet}` has {} addresses, and {wanted} are needed", subnet.room())
            }
        }
    }
}

impl std::error::Error for AddressError {}

/// One end's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndAddress {
    pub mac: MacAddress,
    pub ip: Ipv4Addr,
}

/// Everybody's addresses on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAddresses {
    pub subnet: Subnet,
    pub host: EndAddress,
    pub machines: BTreeMap<String, EndAddress>,
}

/// What a network declares.
#[derive(Clone, Copy, Debug)]
pub struct NetworkDeclaration<'a> {
    pub lane: &'a str,
    pub network: &'a str,
    pub subnet: Subnet,
    /// The host's address; the last usable one where it is not said.
    pub host: Option<Ipv4Addr>,
    /// In the lane's order, with the address where it is said.
    pub machines: &'a [(&'a str, Option<Ipv4Addr>)],
}

/// Gives everybody addresses: those that were said, and to the others, in their order, the lowest that are free. MAC
/// addresses are locally administered and follow from the names of lane, network and machine. Gives all that is wrong.
pub fn assign(declaration: &NetworkDeclaration<'_>) -> Result<NetworkAddresses, Vec<AddressError>> {
    let NetworkDeclaration { lane, network, subnet, host, machines } = *declaration;
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (machine, _) in machines {
        if *machine == HOST {
            errors.push(AddressError::Reserved);
        } else if !names.insert(*machine) {
            errors.push(AddressError::Twice { machine: (*machine).into() });
        }
    }
    let last = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
    let mut taken: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
    let said = machines.iter().filter_map(|(machine, address)| address.map(|address| (*machine, address)));
    for (machine, address) in host.map(|address| (HOST, address)).into_iter().chain(said) {
        if !subnet.is_usable(address) {
            errors.push(AddressError::Outside { machine: machine.into(), address, subnet });
        } else if let Some(other) = taken.insert(address, machine) {
            errors.push(AddressError::Taken { machine: machine.into(), other: other.into(), address });
        }
    }
    if machines.len() + 1 > subnet.room() {
        errors.push(AddressError::Full { subnet, wanted: machines.len() + 1 });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let host = match host {
        Some(address) => address,
        // A machine may have asked for the last one: then the next below.
        None => {
            let mut free = (subnet.network().to_bits() + 1..=last.to_bits()).rev().map(Ipv4Addr::from_bits);
            let address = free.find(|address| !taken.contains_key(address)).expect("there is room for all");
            taken.insert(address, HOST);
            address
        }
    };
    let mut macs = BTreeSet::new();
    let mut end = |machine: &str, ip| EndAddress { mac: mac(lane, network, machine, &mut macs), ip };
    let host = end(HOST, host);
    let mut next = subnet.network().to_bits() + 1;
    let machines = machines
        .iter()
        .map(|(machine, address)| {
            let ip = address.unwrap_or_else(|| {
                while taken.contains_key(&Ipv4Addr::from_bits(next)) {
                    next += 1;
                }
                next += 1;
                Ipv4Addr::from_bits(next - 1)
            });
            ((*machine).to_owned(), end(machine, ip))
        })
        .collect();
    Ok(NetworkAddresses { subnet, host, machines })
}

/// Locally administered and one machine's own; taken ones are passed over.
fn mac(lane: &str, network: &str, machine: &str, taken: &mut BTreeSet<MacAddress>) -> MacAddress {
    for attempt in 0u32.. {
        let mut digest = Sha256::new();
        digest.update(b"bootproof network address 1\0");
        for name in [lane, network, machine] {
            digest.update((name.len() as u64).to_be_bytes());
            digest.update(name.as_bytes());
        }
        digest.update(attempt.to_be_bytes());
        let mut bytes: [u8; 6] = digest.finalize()[..6].try_into().expect("a digest has six bytes");
        bytes[0] = bytes[0] & !1 | 2;
        let address = MacAddress(bytes);
        if taken.insert(address) {
            return address;
        }
    }
    unreachable!("there are more addresses than attempts")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn declared<'a>(text: &str, machines: &'a [(&'a str, Option<Ipv4Addr>)]) -> NetworkDeclaration<'a> {
        NetworkDeclaration { lane: "partition", network: "lan", subnet: subnet(text), host: None, machines }
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_in_the_lanes_order_and_the_last_for_the_host() {
        let machines = [("c", None), ("a", Some(ip("10.77.0.2"))), ("b", None)];
        let addresses = assign(&declared("10.77.0.0/24", &machines)).unwrap();
        assert_eq!(addresses.host.ip, ip("10.77.0.254"));
        assert_eq!(addresses.machines["c"].ip, ip("10.77.0.1"));
        assert_eq!(addresses.machines["a"].ip, ip("10.77.0.2"));
        assert_eq!(addresses.machines["b"].ip, ip("10.77.0.3"));
        assert_eq!(addresses, assign(&declared("10.77.0.0/24", &machines)).unwrap());
        let other = NetworkDeclaration { lane: "power-cut", ..declared("10.77.0.0/24", &machines) };
        assert_ne!(assign(&other).unwrap().host.mac, addresses.host.mac);
    }

    #[test]
    fn the_host_makes_way_for_a_machine_that_asks_for_its_place() {
        let machines = [("a", Some(ip("10.77.0.254")))];
        assert_eq!(assign(&declared("10.77.0.0/24", &machines)).unwrap().host.ip, ip("10.77.0.253"));
        let fixed = NetworkDeclaration { host: Some(ip("10.77.0.254")), ..declared("10.77.0.0/24", &machines) };
        let taken = AddressError::Taken { machine: "a".into(), other: "host".into(), address: ip("10.77.0.254") };
        assert_eq!(assign(&fixed).unwrap_err(), [taken]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let machines = [
            ("a", Some(ip("10.77.0.0"))),
            ("b", Some(ip("10.77.1.1"))),
            ("c", Some(ip("10.77.0.9"))),
            ("d", Some(ip("10.77.0.9"))),
            ("d", None),
            ("host", None),
        ];
        let errors = assign(&declared("10.77.0.0/24", &machines)).unwrap_err();
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "`d` is on the network twice",
                "`host` is the host's own name on a network",
                "`a` cannot have the address `10.77.0.0` in the subnet `10.77.0.0/24`",
                "`b` cannot have the address `10.77.1.1` in the subnet `10.77.0.0/24`",
                "`d` and `c` both have the address `10.77.0.9`",
            ]
        );
        let errors = assign(&declared("10.77.0.0/30", &[("a", None), ("b", None)])).unwrap_err();
        assert_eq!(errors[0].to_string(), "the subnet `10.77.0.0/30` has 2 addresses, and 3 are needed");
        assert!(assign(&declared("10.77.0.0/30", &[("a", None)])).is_ok());
    }

    #[test]
    fn subnets_are_read_strictly() {
        assert_eq!(subnet("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(subnet("192.168.7.0/24").netmask(), ip("255.255.255.0"));
        for (text, told) in [
            ("10.77.0.0", "`10.77.0.0` is no subnet such as `10.77.0.0/24`"),
            ("10.77.0/24", "`10.77.0/24` is no subnet such as `10.77.0.0/24`"),
            ("10.77.0.0/31", "a subnet's prefix is from 8 to 30, not 31"),
            ("10.77.0.1/24", "`10.77.0.1/24` is an address within the subnet `10.77.0.0/24`"),
        ] {
            assert_eq!(text.parse::<Subnet>().unwrap_err().to_string(), told);
        }
    }

    proptest! {
        #[test]
        fn nobody_shares_an_address(count in 0usize..60, fixed in proptest::collection::btree_set(1u32..63, 0..10), prefix in 26u8..=26) {
            let names: Vec<String> = (0..count).map(|number| format!("node{number}")).collect();
            let mut fixed = fixed.into_iter().map(|low| Ipv4Addr::from_bits(ip("10.77.0.0").to_bits() + low));
            let machines: Vec<(&str, Option<Ipv4Addr>)> =
                names.iter().enumerate().map(|(index, name)| (name.as_str(), if index % 3 == 0 { fixed.next() } else { None })).collect();
            let network = NetworkDeclaration { subnet: Subnet::new(ip("10.77.0.0"), prefix).unwrap(), ..declared("10.77.0.0/24", &machines) };
            let addresses = assign(&network).unwrap();
            let ends: Vec<EndAddress> = addresses.machines.values().copied().chain([addresses.host]).collect();
            prop_assert_eq!(ends.iter().map(|end| end.ip).collect::<BTreeSet<_>>().len(), count + 1);
            prop_assert_eq!(ends.iter().map(|end| end.mac).collect::<BTreeSet<_>>().len(), count + 1);
            prop_assert!(ends.iter().all(|end| network.subnet.is_usable(end.ip) && end.mac.0[0] & 3 == 2));
        }
    }
}
