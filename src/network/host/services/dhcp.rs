//! DHCP (RFC 2131) for machines whose addresses are settled already: each is told its own and nothing else. Pure.
//!
//! There is nothing to remember: an address is bound to its MAC address for as long as the network lasts, whoever asks
//! how often. What a client gives back or finds taken therefore changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress,
};

use crate::error::{Error, Result};
use crate::network::address::{EndAddress, Subnet};
use crate::network::mac::MacAddress;

const MAGIC: u32 = 0x6382_5363;

/// Older clients take no shorter message: BOOTP's had this size.
const SHORTEST: usize = 300;

// The options (RFC 2132) that smoltcp does not name in public or does not carry as they come.
const DNS_SERVERS: u8 = 6;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const CLIENT_IDENTIFIER: u8 = 61;
const SERVER_NAME: u8 = 66;
const BOOT_FILE: u8 = 67;
const USER_CLASS: u8 = 77;
/// iPXE's own, which holds options in turn.
const IPXE: u8 = 175;

/// What iPXE calls itself.
const IPXE_CLASS: &[u8] = b"iPXE";
/// Of iPXE's own options `no-pxedhcp`: no other server is going to say more, so that it need not wait for one.
const NO_OTHER_SERVER: &[u8] = &[176, 1, 1];

/// Where a message has the boot file's name beside the options, ended by a zero.
const BOOT_FILE_FIELD: std::ops::Range<usize> = 108..236;

/// What the DHCP of a network says besides addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpOptions {
    /// For how long a machine may keep its address without asking again; whole seconds, at least one. What DHCP cannot
    /// express is for ever.
    pub lease: Duration,
    /// The URL of what machines boot over the network; at most 255 bytes. Only iPXE is told: firmware's own clients know
    /// what to do with neither a URL nor a script.
    pub boot_file: Option<String>,
}

impl Default for DhcpOptions {
    /// A day: longer than a run, so that nobody asks again in the middle of a fault unless a lane wants that.
    fn default() -> Self {
        Self { lease: Duration::from_secs(24 * 60 * 60), boot_file: None }
    }
}

/// Who is told which address.
#[derive(Debug)]
pub struct DhcpServer {
    host: Ipv4Addr,
    subnet: Subnet,
    leases: BTreeMap<MacAddress, Ipv4Addr>,
    seconds: u32,
    boot_file: Option<String>,
    /// The host's address, as text.
    server_name: String,
}

/// A message to a client, and where it goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub mac: MacAddress,
    pub ip: Ipv4Addr,
    pub payload: Vec<u8>,
}

/// What is answered.
enum Answer {
    Offer,
    /// The address is granted.
    Acknowledge,
    /// The client has its address from elsewhere and wants to know the rest.
    Inform,
    /// The client believes in an address that is not its own.
    Refuse,
}

impl DhcpServer {
    /// Usage errors: an address that no machine of the subnet may have, a MAC or IP address that is there twice, a boot file
    /// whose name no message can hold.
    pub fn new(
        host: Ipv4Addr,
        subnet: Subnet,
        leases: impl IntoIterator<Item = EndAddress>,
        options: &DhcpOptions,
    ) -> Result<Self> {
        let mut known = BTreeMap::new();
        let mut taken = BTreeSet::from([host]);
        for EndAddress { mac, ip } in leases {
            if !subnet.is_usable(ip) {
                return Err(Error::usage(format!("`{ip}` is no machine's address in the subnet `{subnet}`")));
            }
            if !taken.insert(ip) {
                return Err(Error::usage(format!("the address `{ip}` cannot be leased: somebody else has it")));
            }
            if mac.is_group() || known.insert(mac, ip).is_some() {
                return Err(Error::usage(format!("the MAC address `{mac}` is not one machine's own")));
            }
        }
        let seconds = u32::try_from(options.lease.as_secs()).unwrap_or(u32::MAX).max(1);
        let boot_file = options.boot_file.clone();
        if let Some(name) = boot_file.as_ref().filter(|name| name.is_empty() || name.len() > usize::from(u8::MAX)) {
            return Err(Error::usage(format!("the boot file's name `{name}` is not of 1 to 255 bytes")));
        }
        Ok(Self { host, subnet, leases: known, seconds, boot_file, server_name: host.to_string() })
    }

    /// Whether machines boot from this network.
    pub fn names_boot_file(&self) -> bool {
        self.boot_file.is_some()
    }

    /// Answers a client's message; `None` where there is nothing to say, as to whoever is not known here.
    pub fn answer(&self, message: &[u8], dns: bool) -> Option<Reply> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let is_request = packet.opcode() == DhcpOpCode::Request
            && packet.hardware_type() == ArpHardware::Ethernet
            && packet.hardware_len() == 6
            && packet.magic_number() == MAGIC;
        if !is_request {
            return None;
        }
        let mac = MacAddress(packet.client_hardware_address().0);
        let lease = *self.leases.get(&mac)?;
        let current = packet.client_ip();
        let answer = match DhcpMessageType::from(*option::<1>(&packet, MESSAGE_TYPE).ok()??.first()?) {
            DhcpMessageType::Discover => Answer::Offer,
            DhcpMessageType::Request => {
                let server = address(&packet, SERVER_IDENTIFIER).ok()?;
                let requested = address(&packet, REQUESTED_ADDRESS).ok()?;
                if server.is_some_and(|server| server != self.host) {
                    // It took another server's offer.
                    return None;
                }
                // Whoever has an address says so in the header, whoever wants one as an option.
                let mut wanted = requested.into_iter().chain((!current.is_unspecified()).then_some(current)).peekable();
                wanted.peek()?;
                if wanted.all(|wanted| wanted == lease) { Answer::Acknowledge } else { Answer::Refuse }
            }
            DhcpMessageType::Inform if self.is_a_machines(current) => Answer::Inform,
            // Nothing is bound that could be given back, and what is declined is still nobody else's.
            DhcpMessageType::Inform | DhcpMessageType::Release | DhcpMessageType::Decline => return None,
            // A server's to say.
            DhcpMessageType::Offer | DhcpMessageType::Ack | DhcpMessageType::Nak => return None,
            DhcpMessageType::Unknown(_) => return None,
        };
        Some(self.reply(&packet, mac, lease, &answer, dns))
    }

    fn is_a_machines(&self, address: Ipv4Addr) -> bool {
        self.subnet.is_usable(address) && address != self.host
    }

    fn reply(
        &self,
        request: &DhcpPacket<&[u8]>,
        mac: MacAddress,
        lease: Ipv4Addr,
        answer: &Answer,
        dns: bool,
    ) -> Reply {
        let none = Ipv4Addr::UNSPECIFIED;
        let (message_type, client_ip, your_ip, leased) = match answer {
            Answer::Offer => (DhcpMessageType::Offer, none, lease, true),
            Answer::Acknowledge => (DhcpMessageType::Ack, request.client_ip(), lease, true),
            Answer::Inform => (DhcpMessageType::Ack, request.client_ip(), none, false),
            Answer::Refuse => (DhcpMessageType::Nak, none, none, false),
        };
        let refused = matches!(answer, Answer::Refuse);
        let host = self.host.octets();
        let mut options = Vec::new();
        // As it came, whatever it is made of (RFC 6842).
        options.extend(request.options().find(|option| option.kind == CLIENT_IDENTIFIER));
        if dns && !refused {
            options.push(DhcpOption { kind: DNS_SERVERS, data: &host });
        }
        let is_ipxe = request.options().any(|option| option.kind == USER_CLASS && option.data == IPXE_CLASS);
        let boot_file = self.boot_file.as_deref().filter(|_| is_ipxe && !refused);
        if let Some(name) = boot_file {
            options.push(DhcpOption { kind: SERVER_NAME, data: self.server_name.as_bytes() });
            options.push(DhcpOption { kind: BOOT_FILE, data: name.as_bytes() });
            options.push(DhcpOption { kind: IPXE, data: NO_OTHER_SERVER });
        }
        let broadcast = request.flags().contains(DhcpFlags::BROADCAST);
        let repr = DhcpRepr {
            message_type,
            transaction_id: request.transaction_id(),
            secs: 0,
            client_hardware_address: EthernetAddress(mac.0),
            client_ip,
            your_ip,
            server_ip: if boot_file.is_some() { self.host } else { none },
            // The network is closed: there is no way out of it.
            router: None,
            subnet_mask: (!refused).then(|| self.subnet.netmask()),
            relay_agent_ip: request.relay_agent_ip(),
            broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.host),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: leased.then_some(self.seconds),
            // When to renew is the client's to derive: after a half and after seven eighths.
            renew_duration: None,
            rebind_duration: None,
            additional_options: &options,
        };
        let mut payload = vec![0; repr.buffer_len().max(SHORTEST)];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut payload[..])).expect("there is room for the options");
        // Whoever reads no options reads this, where the name is short enough.
        if let Some(name) = boot_file.filter(|name| name.len() < BOOT_FILE_FIELD.len()) {
            payload[BOOT_FILE_FIELD][..name.len()].copy_from_slice(name.as_bytes());
        }
        // RFC 2131, 4.1. There is no relay on a network of one link, whatever a client says.
        let (mac, ip) = match answer {
            Answer::Refuse => (MacAddress::BROADCAST, Ipv4Addr::BROADCAST),
            _ if !client_ip.is_unspecified() => (mac, client_ip),
            _ if broadcast => (MacAddress::BROADCAST, Ipv4Addr::BROADCAST),
            _ => (mac, your_ip),
        };
        Reply { mac, ip, payload }
    }
}

/// An option has another size than it must have.
struct Malformed;

fn option<const SIZE: usize>(packet: &DhcpPacket<&[u8]>, kind: u8) -> Result<Option<[u8; SIZE]>, Malformed> {
    let option = packet.options().find(|option| option.kind == kind);
    option.map(|option| option.data.try_into().map_err(|_| Malformed)).transpose()
}

fn address(packet: &DhcpPacket<&[u8]>, kind: u8) -> Result<Option<Ipv4Addr>, Malformed> {
    Ok(option::<4>(packet, kind)?.map(Ipv4Addr::from))
}

#[cfg(test)]
mod tests;
