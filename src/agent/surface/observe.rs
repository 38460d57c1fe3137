//! Looking at a guest: `/proc` for processes and sockets, `systemctl` for units.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

/// What runs in a guest.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub processes: Vec<Process>,
    pub listeners: Vec<Listener>,
}

#[derive(Clone, Debug, Default)]
pub struct Process {
    pub pid: u32,
    /// The kernel's name for it, at most 15 bytes.
    pub name: String,
    /// What it runs; kernel threads run nothing.
    pub executable: Option<String>,
    /// The control group's path, as systemd knows it.
    pub control_group: String,
    /// Inodes of its sockets.
    pub sockets: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub address: ListenAddress,
    pub inode: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(String),
}

/// What systemd says of a unit, or why it does not.
pub type UnitState = Result<Unit, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`, ...
    pub load_state: String,
    pub active_state: String,
    pub sub_state: String,
    pub main_pid: Option<u32>,
    pub control_group: String,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(formatter),
            ListenAddress::Unix(path) => formatter.write_str(path),
        }
    }
}

impl Process {
    /// The executable's path, or the kernel's name where that cannot be read.
    pub fn program(&self) -> &str {
        self.executable.as_deref().unwrap_or(&self.name)
    }
}

impl Observed {
    pub fn of_this_guest() -> Self {
        let mut processes: Vec<Process> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?, &entry.path()))
            .collect();
        processes.sort_by_key(|process| process.pid);
        let read = |name: &str| fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
        let mut listeners = tcp_listeners(&read("tcp"));
        listeners.extend(tcp_listeners(&read("tcp6")));
        listeners.extend(unix_listeners(&read("unix")));
        listeners.sort_by(|a, b| a.address.cmp(&b.address));
        Self { processes, listeners }
    }
}

/// `None` when the process has ended meanwhile.
fn process(pid: u32, directory: &Path) -> Option<Process> {
    let name = fs::read_to_string(directory.join("comm")).ok()?.trim_end().to_owned();
    let executable = fs::read_link(directory.join("exe")).ok().map(|path| path.to_string_lossy().into_owned());
    let control_group = control_group(&fs::read_to_string(directory.join("cgroup")).unwrap_or_default());
    let sockets = fs::read_dir(directory.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    Some(Process { pid, name, executable, control_group, sockets })
}

/// The unified hierarchy's path, or that of systemd's own where there is none.
fn control_group(text: &str) -> String {
    let of = |marker: &str| text.lines().find_map(|line| Some(line.split_once(marker)?.1.to_owned()));
    of(":name=systemd:").or_else(|| of("0::")).unwrap_or_default()
}

/// Listening sockets in `/proc/net/tcp` or `/proc/net/tcp6`.
fn tcp_listeners(table: &str) -> Vec<Listener> {
    const LISTENING: &str = "0A";
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(3) != Some(&LISTENING) {
            return None;
        }
        let address = socket_address(words.get(1)?)?;
        Some(Listener { address: ListenAddress::Tcp(address), inode: words.get(9)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// `0100007F:1F90`: the address in 32-bit words of the host's byte order, the port in the usual one.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for index in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(index..index + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Listening sockets with a path in `/proc/net/unix`.
fn unix_listeners(table: &str) -> Vec<Listener> {
    const ACCEPTS: u32 = 0x10000;
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
        let path = words.get(7).filter(|path| path.starts_with('/'))?;
        let inode = words.get(6)?.parse().ok()?;
        (flags & ACCEPTS != 0).then(|| Listener { address: ListenAddress::Unix((*path).into()), inode })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

impl ListenAddress {
    /// Whether a client that goes where the manifest says would get here.
    pub fn serves(&self, wanted: &str) -> bool {
        match self {
            ListenAddress::Unix(path) => path == wanted,
            ListenAddress::Tcp(address) => {
                if let Ok(port) = wanted.parse::<u16>() {
                    return address.port() == port;
                }
                wanted.parse::<SocketAddr>().is_ok_and(|wanted| {
                    let everywhere = match (address.ip(), wanted.ip()) {
                        // A socket on every IPv6 address takes IPv4 too, as Linux has it by default.
                        (IpAddr::V6(ip), _) => ip == Ipv6Addr::UNSPECIFIED,
                        (IpAddr::V4(ip), wanted) => ip == Ipv4Addr::UNSPECIFIED && wanted.is_ipv4(),
                    };
                    address.port() == wanted.port() && (everywhere || address.ip() == wanted.ip())
                })
            }
        }
    }
}

pub fn unit_state(unit: &str) -> UnitState {
    let properties = "--property=LoadState,ActiveState,SubState,MainPID,ControlGroup";
    Ok(parse_unit(&systemctl(&["show", properties, "--", unit])?))
}

pub fn active_services() -> Vec<String> {
    let arguments = ["list-units", "--type=service", "--state=active", "--plain", "--no-legend", "--no-pager"];
    let listing = systemctl(&arguments).unwrap_or_default();
    listing.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn systemctl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("failed to run `systemctl`: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let detail = String::from_utf8_lossy(&output.stderr);
        Err(format!("`systemctl {}` failed: {}", arguments[0], detail.trim().lines().next().unwrap_or_default()))
    }
}

fn parse_unit(text: &str) -> Unit {
    let mut unit = Unit::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "LoadState" => unit.load_state = value.into(),
            "ActiveState" => unit.active_state = value.into(),
            "SubState" => unit.sub_state = value.into(),
            "ControlGroup" => unit.control_group = value.into(),
            "MainPID" => unit.main_pid = value.parse().ok().filter(|pid| *pid != 0),
            _ => {}
        }
    }
    unit
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_read_from_the_kernels_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n   \
             1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        let found = tcp_listeners(table);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address.to_string().as_str(), found[0].inode), ("127.0.0.1:8080", 4711));
        let six = socket_address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(six, "[::1]:80".parse().unwrap());
        let mapped = socket_address("0000000000000000FFFF00000100007F:0050").unwrap();
        assert_eq!(mapped, "127.0.0.1:80".parse().unwrap());
        assert_eq!(socket_address("0100007Fä:0050"), None);
    }

    #[test]
    fn this_process_and_its_listeners_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        let _unix = UnixListener::bind(&path).unwrap();
        let observed = Observed::of_this_guest();
        let me = observed.processes.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert_eq!(me.executable.as_deref(), std::env::current_exe().unwrap().to_str());
        for wanted in [tcp.local_addr().unwrap().to_string(), path.to_str().unwrap().into()] {
            let listener = observed.listeners.iter().find(|listener| listener.address.serves(&wanted)).unwrap();
            assert!(me.sockets.contains(&listener.inode), "{wanted}");
        }
    }

    #[test]
    fn a_socket_on_every_address_serves_each_of_them() {
        let listener = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        assert!(listener("0.0.0.0:80").serves("127.0.0.1:80"));
        assert!(listener("[::]:80").serves("127.0.0.1:80"));
        assert!(listener("[::]:80").serves("[::1]:80"));
        assert!(listener("10.0.0.1:80").serves("80"));
        assert!(!listener("10.0.0.1:80").serves("127.0.0.1:80"));
        assert!(!listener("0.0.0.0:80").serves("[::1]:80"));
        assert!(!listener("0.0.0.0:80").serves("127.0.0.1:81"));
        assert!(!listener("0.0.0.0:80").serves("/run/x"));
    }

    #[test]
    fn control_groups_and_units_are_read() {
        assert_eq!(control_group("0::/system.slice/etcd.service\n"), "/system.slice/etcd.service");
        assert_eq!(
            control_group("5:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n"),
            "/system.slice/a.service"
        );
        let unit = parse_unit("LoadState=loaded\nActiveState=active\nMainPID=0\nControlGroup=/a=b\n");
        assert_eq!((unit.main_pid, unit.control_group.as_str()), (None, "/a=b"));
    }
}
