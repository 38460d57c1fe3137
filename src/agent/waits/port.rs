//! TCP ports, by the kernel's tracepoints: there is no netlink group that tells when a socket begins to listen.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::PollFlags;

use super::tracepoints::Tracepoints;
use super::{Sight, Watch};
use crate::channel::protocol::ToldBy;

/// Where nothing can tell, this is how often it is looked: the only place of the agent that has to poll.
const POLLING: Duration = Duration::from_millis(10);
/// A socket's state changes a moment before the socket can be found, and where the end of `listen` is not told as well,
/// there is no more word: so it is looked again this often, in this distance.
const SETTLING: (u32, Duration) = (20, Duration::from_millis(1));

pub struct PortWatch {
    port: u16,
    address: Option<IpAddr>,
    tracepoints: Result<Tracepoints, String>,
    settling: u32,
}

impl PortWatch {
    pub fn new(port: u16, address: Option<IpAddr>) -> Self {
        let tracepoints = Tracepoints::of_listening().map_err(|error| error.to_string());
        Self { port, address, tracepoints, settling: 0 }
    }
}

impl Watch for PortWatch {
    fn look(&mut self) -> io::Result<Sight> {
        let port = self.port;
        self.settling = self.settling.saturating_sub(1);
        let listeners: Vec<IpAddr> = listeners()?.into_iter().filter(|(_, at)| *at == port).map(|(ip, _)| ip).collect();
        let found = listeners.iter().find(|listener| self.address.is_none_or(|wanted| covers(**listener, wanted)));
        if let Some(found) = found {
            return Ok(Sight::Holds(format!("port {port} listens on {found}")));
        }
        let mut seen = match listeners.first() {
            None => format!("nothing listens on port {port}"),
            Some(other) => format!("port {port} listens on {other} only"),
        };
        if let Err(reason) = &self.tracepoints {
            seen.push_str(&format!(" (looked for every 10 ms: the kernel cannot tell: {reason})"));
        }
        Ok(Sight::NotYet(seen))
    }

    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        self.tracepoints.iter().map(|tracepoints| (tracepoints.descriptor(), PollFlags::IN)).collect()
    }

    fn take(&mut self) -> io::Result<bool> {
        let told = match &self.tracepoints {
            Ok(tracepoints) => tracepoints.take()?,
            Err(_) => false,
        };
        if told {
            self.settling = SETTLING.0;
        }
        Ok(told)
    }

    fn look_after(&self) -> Option<Duration> {
        match &self.tracepoints {
            Err(_) => Some(POLLING),
            Ok(_) => (self.settling > 0).then_some(SETTLING.1),
        }
    }

    fn told_by(&self) -> ToldBy {
        if self.tracepoints.is_ok() { ToldBy::Tracepoint } else { ToldBy::Polling }
    }
}

/// Whether who connects to `wanted` reaches a socket that listens on `listener`. One on `::` is taken to have IPv4, too.
fn covers(listener: IpAddr, wanted: IpAddr) -> bool {
    listener == wanted
        || match listener {
            IpAddr::V4(listener) => listener.is_unspecified() && wanted.is_ipv4(),
            IpAddr::V6(listener) => {
                listener.is_unspecified() || listener.to_ipv4_mapped().map(IpAddr::V4) == Some(wanted)
            }
        }
}

/// Every TCP socket of this network namespace that listens.
fn listeners() -> io::Result<Vec<(IpAddr, u16)>> {
    let mut found = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match File::open(table) {
            Ok(file) => read_table(BufReader::new(file), &mut found)?,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The kernel lists the sockets that listen first; what comes after them, however much it is, is not read.
fn read_table(table: impl BufRead, found: &mut Vec<(IpAddr, u16)>) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(state)) = (fields.next(), fields.nth(1)) else { continue };
        if state != "0A" {
            break;
        }
        found.extend(socket_address(local));
    }
    Ok(())
}

/// `0100007F:1538`: words of the machine's own byte order in hexadecimal digits, and the port.
fn socket_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_is_found_and_what_is_connected_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = listeners().unwrap();
        assert!(found.contains(&(Ipv4Addr::LOCALHOST.into(), port)), "{found:?}");
        let local = client.local_addr().unwrap().port();
        assert!(!found.iter().any(|(_, port)| *port == local), "{found:?}");
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        assert_eq!(socket_address("0100007F:1538"), Some((Ipv4Addr::LOCALHOST.into(), 5432)));
        let six = socket_address("00000000000000000000000001000000:0050");
        assert_eq!(six, Some((Ipv6Addr::LOCALHOST.into(), 80)));
        assert_eq!(socket_address("0100007F"), None);
        assert_eq!(socket_address("01:1"), None);
    }

    #[test]
    fn a_listener_on_all_addresses_covers_each() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(ip("0.0.0.0"), ip("10.0.0.1")));
        assert!(covers(ip("::"), ip("10.0.0.1")) && covers(ip("::"), ip("::1")));
        assert!(covers(ip("::ffff:10.0.0.1"), ip("10.0.0.1")));
        assert!(!covers(ip("0.0.0.0"), ip("::1")) && !covers(ip("127.0.0.1"), ip("10.0.0.1")));
    }
}
