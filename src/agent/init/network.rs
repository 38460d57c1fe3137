//! The guest's network as its lane declares it: the loopback interface, addresses by MAC, and names.
//!
//! Kernel parameters, each of which may be given several times: `bootproof.network=<MAC>,<address>/<prefix>,<name>` and
//! `bootproof.host=<address>,<name>`.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::agent::kernel_parameters::KernelParameters;
use crate::agent::say;

/// From the kernel's `linux/rtnetlink.h`, `linux/netlink.h`, `linux/if_addr.h` and `linux/if.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;

/// Loopback is the first interface of every network namespace.
const LOOPBACK: i32 = 1;

/// A place in one of the lane's networks.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    mac: String,
    address: Ipv4Addr,
    prefix: u8,
    name: String,
}

/// What the kernel's command line declares.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Declared {
    places: Vec<Place>,
    hosts: Vec<(Ipv4Addr, String)>,
}

impl Declared {
    /// What cannot be read is said on the console and left out.
    pub fn of(parameters: &KernelParameters) -> Self {
        let mut declared = Self::default();
        for text in parameters.values("bootproof.network") {
            match place(text) {
                Some(place) => declared.places.push(place),
                None => say(&format!("`bootproof.network={text}` is not of the form `MAC,ADDRESS/PREFIX,NAME`")),
            }
        }
        for text in parameters.values("bootproof.host") {
            match text.split_once(',').and_then(|(address, name)| Some((address.parse().ok()?, name.to_owned()))) {
                Some(host) => declared.hosts.push(host),
                None => say(&format!("`bootproof.host={text}` is not of the form `ADDRESS,NAME`")),
            }
        }
        declared
    }

    /// Whether the machine is in any network of its lane.
    pub fn has_places(&self) -> bool {
        !self.places.is_empty()
    }

    /// For `tiny`: the interfaces get their addresses, `/etc/hosts` the names.
    pub fn apply(&self) {
        if let Err(error) = link_up(LOOPBACK) {
            say(&format!("failed to raise the loopback interface: {error}"));
        }
        for place in &self.places {
            let applied = interface(&place.mac).and_then(|index| {
                add_address(index, place.address, place.prefix)?;
                link_up(index)
            });
            if let Err(error) = applied {
                say(&format!("failed to join the network `{}` as {}: {error}", place.name, place.address));
            }
        }
        self.write_hosts(Path::new("/"));
    }

    /// For a system that brings its own init: files for systemd-networkd, which reads them from `/run`, and the names.
    pub fn leave_files(&self, root: &Path) {
        let folder = root.join("run/systemd/network");
        for place in &self.places {
            // Before the image's own files, which match every card.
            let path = folder.join(format!("10-bootproof-{}.network", place.name));
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(path, place.unit()));
            if let Err(error) = written {
                say(&format!("failed to leave the address in the network `{}`: {error}", place.name));
            }
        }
        self.write_hosts(root);
    }

    fn write_hosts(&self, root: &Path) {
        if self.hosts.is_empty() {
            return;
        }
        let path = root.join("etc/hosts");
        let before = std::fs::read_to_string(&path).unwrap_or_else(|_| "127.0.0.1 localhost\n".into());
        let missing: String = self
            .hosts
            .iter()
            .map(|(address, name)| format!("{address} {name}\n"))
            // The disk remembers what an earlier boot has added.
            .filter(|line| !before.lines().any(|known| known == line.trim_end()))
            .collect();
        let appended = std::fs::OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| {
            let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            file.write_all(format!("{separator}{missing}").as_bytes())
        });
        if let Err(error) = appended {
            say(&format!("failed to add the lane's machines to `{}`: {error}", path.display()));
        }
    }
}

impl Place {
    fn unit(&self) -> String {
        let Self { mac, address, prefix, .. } = self;
        format!(
            "[Match]\nMACAddress={mac}\n\n[Network]\nAddress={address}/{prefix}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
    }
}

fn place(text: &str) -> Option<Place> {
    let mut parts = text.splitn(3, ',');
    let mac = parts.next()?.to_ascii_lowercase();
    let (address, prefix) = parts.next()?.split_once('/')?;
    let prefix: u8 = prefix.parse().ok()?;
    let name = parts.next()?.to_owned();
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (prefix <= 32 && named).then_some(Place { mac, address: address.parse().ok()?, prefix, name })
}

/// The number of the interface with that MAC.
fn interface(mac: &str) -> io::Result<i32> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        let folder = entry?.path();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        if read("address").trim() == mac {
            return read("ifindex").trim().parse().map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no network card {mac}")))
}

fn link_up(index: i32) -> io::Result<()> {
    // ifinfomsg: family and padding, type, index, flags, which flags to change
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, &body)
}

fn add_address(index: i32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    // ifaddrmsg: family, prefix, flags, scope, index; then attributes: length, type, value
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let broadcast = Ipv4Addr::from(u32::from(address) | host_bits);
    for (kind, value) in [(IFA_LOCAL, address), (IFA_ADDRESS, address), (IFA_BROADCAST, broadcast)] {
        body.extend_from_slice(&8u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value.octets());
    }
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

/// Asks the kernel, and waits for its answer.
fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    // Without a protocol it is the one for routes and interfaces.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let length = u32::try_from(16 + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // nlmsghdr: length, type, flags, sequence, port
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(body);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 1024];
    let (count, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    acknowledged(&answer[..count])
}

/// An acknowledgement is an error message whose number is 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => Err(io::Error::from_raw_os_error(-number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(line: &str) -> Declared {
        Declared::of(&KernelParameters::parse(line))
    }

    #[test]
    fn places_and_names_are_read_and_nonsense_is_left_out() {
        let found = declared(
            "bootproof.network=52:54:00:0A:00:01,10.7.0.11/24,lan bootproof.network=x bootproof.host=10.7.0.12,b \
             bootproof.network=52:54:00:00:00:02,10.8.0.11/24,../etc",
        );
        let place = Place {
            mac: "52:54:00:0a:00:01".into(),
            address: Ipv4Addr::new(10, 7, 0, 11),
            prefix: 24,
            name: "lan".into(),
        };
        assert_eq!(found.places, [place]);
        assert_eq!(found.hosts, [(Ipv4Addr::new(10, 7, 0, 12), "b".to_owned())]);
    }

    #[test]
    fn files_are_left_once_however_often_the_disk_boots() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost").unwrap();
        let declared = declared("bootproof.network=52:54:00:0a:00:01,10.7.0.11/24,lan bootproof.host=10.7.0.12,b");
        declared.leave_files(root.path());
        declared.leave_files(root.path());
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("etc/hosts"), "127.0.0.1 localhost\n10.7.0.12 b\n");
        let unit = read("run/systemd/network/10-bootproof-lan.network");
        assert!(unit.contains("MACAddress=52:54:00:0a:00:01") && unit.contains("Address=10.7.0.11/24"), "{unit}");
    }
}
