//! The networks between a run's machines: switched from before the first machine starts until after the last has ended.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifacts;
use super::proxy::Proxy;
use crate::error::{Context, Error, Result};
use crate::event::{Kind, PortTraffic, Reporter};
use crate::lane::model::{Attachment, HOST, Lane, SwitchedNetwork};
use crate::machine::capabilities::is_hosts;
use crate::network::{
    CaptureOptions, DhcpOptions, Disconnection, EndAddress, HostListener, HostPort, HostStream, MacAddress,
    PortStatistics, Subnet, Switch, SwitchOptions, SwitchReport,
};

/// A run's networks by name.
#[derive(Default)]
pub struct Networks {
    switches: BTreeMap<String, Arc<Joined>>,
    /// For commands on the host; there where there are networks.
    proxy: Option<Proxy>,
    /// Where the machines' ports are.
    runtime: PathBuf,
    /// The lane's own order decides a port's number.
    ports: BTreeMap<(String, String), usize>,
}

impl Networks {
    /// Opens a port for every place that a machine has in a network. Recordings go to `root`, the proof.
    pub fn start(lane: &Lane, runtime: &Path, root: &Path, reporter: &Reporter) -> Result<Self> {
        let mut networks = Self { runtime: runtime.into(), ..Self::default() };
        for (name, network) in lane.networks.iter().filter(|(name, network)| is_switched(lane, name, network)) {
            let told = reporter.clone();
            let of = name.clone();
            let switch =
                Switch::start(&SwitchOptions::new(name.clone(), lane.seed), move |report| tell(&told, &of, report))?;
            for machine in lane.machines.iter().filter(|(_, machine)| machine.networks.contains_key(name)) {
                networks.ports.insert((name.clone(), machine.0.clone()), networks.ports.len());
                switch.listen(machine.0, &networks.socket(name, machine.0))?;
            }
            if network.capture {
                let file = root.join(capture_file(name));
                let folder = file.parent().unwrap_or(root);
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::storage(error, format!("failed to create `{}`", folder.display())))?;
                switch.start_capture(&CaptureOptions {
                    path: file,
                    limit: network.capture_limit.bytes(),
                    snap_length: crate::network::LONGEST as u32,
                })?;
            }
            let subnet = format!("{}/{}", network.subnet, network.prefix);
            reporter
                .info(None, Kind::NetworkOpened { network: name.clone(), subnet, host: network.host().to_string() });
            let port = HostPort::join(&switch, HOST, host_end(network), subnet_of(network)?, lane.seed)?;
            let members = lane
                .machines
                .iter()
                .filter_map(|(machine, definition)| Some((machine.clone(), definition.networks.get(name)?.address)));
            let names: BTreeMap<String, Ipv4Addr> = members.chain([(HOST.to_owned(), network.host())]).collect();
            if network.dhcp {
                let leases = lane.machines.values().filter_map(|machine| machine_end(machine.networks.get(name)?));
                let boot_file = network.boot_file.clone();
                port.serve_dhcp(leases, &DhcpOptions { boot_file, ..DhcpOptions::default() })?;
            }
            if network.dns {
                port.serve_dns(&names)?;
            }
            let subnet = network.clone();
            networks.switches.insert(name.clone(), Arc::new(Joined { port, names, switch, network: subnet }));
        }
        if !networks.switches.is_empty() {
            networks.proxy = Some(Proxy::start(Arc::new(networks.switches.values().cloned().collect()))?);
        }
        Ok(networks)
    }

    /// Where everything would be, with nothing there.
    pub fn planned(lane: &Lane, runtime: &Path) -> Self {
        let mut networks = Self { runtime: runtime.into(), ..Self::default() };
        for (name, _) in lane.networks.iter().filter(|(name, network)| is_switched(lane, name, network)) {
            for machine in lane.machines.iter().filter(|(_, machine)| machine.networks.contains_key(name)) {
                networks.ports.insert((name.clone(), machine.0.clone()), networks.ports.len());
            }
        }
        networks
    }

    pub fn get(&self, name: &str) -> Result<&Switch> {
        Ok(&self.joined(name)?.switch)
    }

    /// The host's place in a network, for whoever connects from it later.
    pub fn join(&self, name: &str) -> Result<Arc<Joined>> {
        let joined = self.switches.get(name).cloned();
        joined.ok_or_else(|| Error::infrastructure(format!("the network `{name}` is not switched")))
    }

    fn joined(&self, name: &str) -> Result<&Joined> {
        let joined = self.switches.get(name).map(Arc::as_ref);
        joined.ok_or_else(|| Error::infrastructure(format!("the network `{name}` is not switched")))
    }

    /// Connects from the host's place in a network to `machine:port`, for as long as the caller waits.
    pub async fn connect(&self, network: &str, to: &str) -> io::Result<HostStream> {
        let joined = self.joined(network).map_err(io::Error::other)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let (host, port) = to.rsplit_once(':').ok_or_else(|| invalid(format!("`{to}` has no port")))?;
        let port: u16 = port.parse().map_err(|_| invalid(format!("`{port}` is no port")))?;
        if !joined.knows(host) {
            return Err(invalid(format!("the network `{network}` knows no `{host}`")));
        }
        joined.connect(host, port).await
    }

    /// The host's address in a network.
    pub fn host(&self, network: &str) -> Result<Ipv4Addr> {
        Ok(self.joined(network)?.network.host())
    }

    /// Listens at the host's address in a network.
    pub fn listen(&self, network: &str, port: u16, backlog: usize) -> io::Result<HostListener> {
        self.joined(network).map_err(io::Error::other)?.port.listen(port, backlog)
    }

    /// Where commands on the host reach machines; `None` without networks.
    pub fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(Proxy::url)
    }

    /// How many frames wait on links of all networks at present.
    pub fn frames_in_flight(&self) -> u64 {
        self.switches.values().filter_map(|joined| joined.switch.waiting().ok()).map(|waiting| waiting as u64).sum()
    }

    /// Where a machine's card connects to: short, since unix socket paths end at 108 bytes.
    pub fn socket(&self, network: &str, machine: &str) -> PathBuf {
        let number = self.ports.get(&(network.to_owned(), machine.to_owned())).copied().unwrap_or_default();
        self.runtime.join(format!("net{number}.sock"))
    }

    /// The end of all networks: what they carried goes to the log, what was recorded becomes an artifact.
    pub fn close(&self, root: &Path, reporter: &Reporter) -> Result<()> {
        for (name, joined) in &self.switches {
            let switch = &joined.switch;
            let ports = switch.statistics()?.into_iter().map(|port| (port.name.clone(), traffic(&port))).collect();
            reporter.info(None, Kind::NetworkClosed { network: name.clone(), ports });
            if switch.stop_capture()?.is_some() {
                artifacts::report(root, &capture_file(name), reporter)
                    .infrastructure(|| format!("failed to keep the recording of `{name}`"))?;
            }
        }
        Ok(())
    }
}

/// A network that its machines find at libvirt has no switch.
fn is_switched(lane: &Lane, name: &str, network: &SwitchedNetwork) -> bool {
    let mut members = lane.machines.values().filter(|machine| machine.networks.contains_key(name)).peekable();
    members.peek().is_none() || !members.all(|machine| is_hosts(machine, network.libvirt.as_ref()))
}

/// A network, and the host in it.
pub struct Joined {
    /// Before the switch that it is plugged into.
    port: HostPort,
    /// The machines that are in it, and the host.
    names: BTreeMap<String, Ipv4Addr>,
    network: SwitchedNetwork,
    switch: Switch,
}

impl Joined {
    /// Whether it is one of the machines' names, or an address in the subnet.
    pub fn knows(&self, host: &str) -> bool {
        self.names.contains_key(host) || host.parse().is_ok_and(|address| self.network.number_of(address).is_some())
    }

    /// Connects from the host's place, for as long as the caller waits.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<HostStream> {
        let address = self.names.get(host).copied().or_else(|| host.parse().ok());
        let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.port.connect(SocketAddrV4::new(address, port)).await
    }
}

fn host_end(network: &SwitchedNetwork) -> EndAddress {
    let [a, b, c, d] = network.host().octets();
    // Locally administered; no machine's begins so.
    EndAddress { mac: MacAddress([0x0a, 0x00, a, b, c, d]), ip: network.host() }
}

fn machine_end(place: &Attachment) -> Option<EndAddress> {
    let bytes: Vec<u8> = place.mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(EndAddress { mac: MacAddress(bytes.try_into().ok()?), ip: place.address })
}

fn subnet_of(network: &SwitchedNetwork) -> Result<Subnet> {
    Subnet::new(network.subnet, network.prefix).infrastructure(|| "the network has no valid subnet".into())
}

fn capture_file(network: &str) -> String {
    format!("artifacts/networks/{network}.pcapng")
}

fn traffic(port: &PortStatistics) -> PortTraffic {
    PortTraffic {
        received: port.received_frames,
        sent: port.delivered_frames,
        dropped: port.dropped_full,
        invalid: port.too_short,
    }
}

/// What a switch says, as the log knows it. Machines come and go with their power: that is told by their own events.
fn tell(reporter: &Reporter, network: &str, report: SwitchReport) {
    let warn = |text: String| reporter.warning(None, Kind::Note { text });
    match report {
        SwitchReport::PortUp { .. } | SwitchReport::CaptureEnded { reason: None, missed: 0, .. } => {}
        SwitchReport::PortDown { port, why } => match why {
            Disconnection::Ended | Disconnection::Replaced => {}
            Disconnection::Garbage { length } => {
                warn(format!(
                    "network {network}: `{port}` sent a frame of {length} bytes, which none has; it was cut off"
                ));
            }
            Disconnection::Failed(error) => {
                warn(format!("network {network}: the connection of `{port}` failed: {error}"));
            }
        },
        SwitchReport::CaptureEnded { frames, missed, reason, .. } => {
            let why = reason.unwrap_or_else(|| "the disk was too slow".into());
            warn(format!("network {network}: the recording ends after {frames} frames, {missed} are missing: {why}"));
        }
        SwitchReport::Failed { detail } => {
            let kind = Kind::InfrastructureFailed { what: format!("network {network}"), detail };
            reporter.error(None, kind);
        }
    }
}
