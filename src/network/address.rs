//! Subnets and addresses. Who has which is the lane's to say (`lane::normalise`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

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

/// Why something is no subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    Unreadable { text: String },
    Prefix { prefix: u8 },
    HostBits { given: Ipv4Addr, prefix: u8, base: Ipv4Addr },
}

impl fmt::Display for AddressError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { text } => write!(formatter, "`{text}` is no subnet such as `10.77.0.0/24`"),
            Self::Prefix { prefix } => write!(formatter, "a subnet's prefix is from 8 to 30, not {prefix}"),
            Self::HostBits { given, prefix, base } => {
                write!(formatter, "`{given}/{prefix}` is an address within the subnet `{base}/{prefix}`")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
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
}
