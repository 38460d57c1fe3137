//! MAC addresses, and where the switch has seen them. Pure.

use std::collections::HashMap;
use std::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Everybody on the network.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Broadcast or multicast: nobody's own address.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    /// As QEMU and everybody else write it: `02:00:5e:10:00:01`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Addresses that one port may have. What is behind it beyond that is still reached, by flooding; but no guest can fill
/// the table, and none can push another's addresses out of it.
pub const ADDRESSES_PER_PORT: usize = 1024;

/// Which port an address was last seen on. An address that shows up elsewhere moves there, as addresses do that wander
/// from one machine to another in a failover.
#[derive(Debug, Default)]
pub struct MacTable {
    ports: HashMap<MacAddress, usize>,
    /// How many of them each port has.
    counts: Vec<usize>,
}

impl MacTable {
    pub fn learn(&mut self, address: MacAddress, port: usize) {
        if address.is_group() {
            return;
        }
        if self.counts.len() <= port {
            self.counts.resize(port + 1, 0);
        }
        let known = self.ports.get(&address).copied();
        if known == Some(port) || self.counts[port] >= ADDRESSES_PER_PORT {
            return;
        }
        if let Some(before) = self.ports.insert(address, port) {
            self.counts[before] -= 1;
        }
        self.counts[port] += 1;
    }

    pub fn port_of(&self, address: MacAddress) -> Option<usize> {
        self.ports.get(&address).copied()
    }

    /// The port went down: whoever was there may come back anywhere.
    pub fn forget_port(&mut self, port: usize) {
        self.ports.retain(|_, at| *at != port);
        if let Some(count) = self.counts.get_mut(port) {
            *count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> MacAddress {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddress([2, 0, a, b, c, d])
    }

    #[test]
    fn an_address_is_where_it_was_last_seen() {
        let mut table = MacTable::default();
        table.learn(address(1), 0);
        assert_eq!(table.port_of(address(1)), Some(0));
        table.learn(address(1), 3);
        assert_eq!(table.port_of(address(1)), Some(3));
        assert_eq!(table.port_of(address(2)), None);
        table.forget_port(0);
        assert_eq!(table.port_of(address(1)), Some(3), "it had moved away before");
        table.forget_port(3);
        assert!(table.ports.is_empty());
    }

    #[test]
    fn group_addresses_are_nobodys() {
        let mut table = MacTable::default();
        table.learn(MacAddress([0xff; 6]), 0);
        table.learn(MacAddress([1, 0, 0x5e, 0, 0, 1]), 0);
        assert!(table.ports.is_empty());
    }

    #[test]
    fn one_port_can_neither_fill_the_table_nor_take_anothers_place() {
        let mut table = MacTable::default();
        table.learn(address(0), 1);
        for number in 1..100_000 {
            table.learn(address(number), 0);
        }
        assert_eq!(table.ports.len(), ADDRESSES_PER_PORT + 1);
        assert_eq!(table.port_of(address(0)), Some(1));
        table.forget_port(0);
        assert_eq!(table.ports.len(), 1);
        table.learn(address(7), 0);
        assert_eq!(table.port_of(address(7)), Some(0));
    }

    #[test]
    fn it_is_written_in_the_usual_way() {
        assert_eq!(MacAddress([2, 0, 0x5e, 0x10, 0, 0xff]).to_string(), "02:00:5e:10:00:ff");
    }
}
