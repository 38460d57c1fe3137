//! `datagrams`: traffic between guests whose arrival can be counted, each way apart.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

pub const USAGE: &str = "`datagrams` takes `send HOST:PORT COUNT INTERVAL-MS` or `receive PORT DURATION-MS [WANTED]`";

/// Does it; the answer is what to print.
pub fn run(words: &[&str]) -> Result<String, String> {
    match words {
        ["send", to, count, interval] => {
            let interval = Duration::from_millis(number(interval)?);
            send(resolve(to)?, number(count)?, interval)
        }
        ["receive", port, duration] => receive(number(port)?, Duration::from_millis(number(duration)?), u64::MAX),
        ["receive", port, duration, wanted] => {
            receive(number(port)?, Duration::from_millis(number(duration)?), number(wanted)?)
        }
        _ => Err(USAGE.into()),
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number; {USAGE}"))
}

/// By `/etc/hosts`, which is all the naming that a static program has everywhere.
fn resolve(to: &str) -> Result<SocketAddr, String> {
    let (host, port) = to.rsplit_once(':').ok_or(USAGE)?;
    let known = || {
        let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
        hosts.lines().find_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address: Ipv4Addr = words.next()?.parse().ok()?;
            words.any(|name| name == host).then_some(address)
        })
    };
    let address = host.parse().ok().or_else(known).ok_or_else(|| format!("nothing is known of `{host}`"))?;
    Ok(SocketAddr::from((address, number(port)?)))
}

fn send(to: SocketAddr, count: u64, interval: Duration) -> Result<String, String> {
    let failed = |error| format!("failed to send to {to}: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    let began = Instant::now();
    let mut sent = 0u64;
    for turn in 0..count {
        // A host that does not answer to ARP is what a partition looks like.
        sent += u64::from(socket.send_to(&turn.to_be_bytes(), to).is_ok());
        let next = interval.saturating_mul(u32::try_from(turn + 1).unwrap_or(u32::MAX));
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
    Ok(format!("{sent}\n"))
}

/// Until so many have come, or the time is over.
fn receive(port: u16, duration: Duration, wanted: u64) -> Result<String, String> {
    let failed = |error| format!("failed to receive on port {port}: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed)?;
    let until = Instant::now() + duration;
    let mut datagram = [0; 2048];
    let mut received = 0u64;
    while received < wanted {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        match socket.recv_from(&mut datagram) {
            Ok(_) => received += 1,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(format!("{received}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_and_silence_counts_as_none() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let receiver = {
            let port = port.clone();
            std::thread::spawn(move || run(&["receive", &port, "20000", "3"]))
        };
        // Until the receiver is there what is sent is refused; it goes on sending.
        let sender = std::thread::spawn(move || run(&["send", &format!("127.0.0.1:{port}"), "200", "10"]));
        assert_eq!(receiver.join().unwrap().unwrap(), "3\n");
        drop(sender);
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        assert_eq!(run(&["receive", &silent, "50"]).unwrap(), "0\n");
        assert!(run(&["send", "nowhere.invalid:1", "1", "1"]).unwrap_err().contains("nothing is known"));
        assert!(run(&["send"]).is_err());
    }
}
