//! TCP connections from inside the guest.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::stream::{Input, Stream};
use crate::channel::protocol::{MAX_PAYLOAD, Opened, Outcome, PIPE_MAIN, RefusalReason};

pub fn run(stream: &Stream, address: &str) {
    let refuse = |error: io::Error| {
        stream.refuse(RefusalReason::from_error(&error), format!("failed to connect to `{address}`: {error}"));
    };
    let socket = match resolve(address).and_then(|addresses| TcpStream::connect(&addresses[..])) {
        Ok(socket) => socket,
        Err(error) => return refuse(error),
    };
    let peer = socket.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    if let Err(error) = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)) {
        return refuse(error);
    }
    stream.opened(&Opened::Connect { peer });
    match carry(stream, &socket) {
        Ok(true) => stream.finish(&Outcome::Disconnected),
        Ok(false) => stream.close(),
        Err(error) => {
            let message = format!("the connection to `{address}` broke: {error}");
            stream.refuse(RefusalReason::from_error(&error), message);
        }
    }
}

/// Both directions until both have ended; `false` when the host has taken it back.
fn carry(stream: &Stream, socket: &TcpStream) -> io::Result<bool> {
    let mut buffer = vec![0; MAX_PAYLOAD];
    let mut pending: Option<(Vec<u8>, usize)> = None;
    let (mut reading, mut writing) = (true, true);
    loop {
        if stream.is_cancelled() {
            return Ok(false);
        }
        if pending.is_none() && writing {
            match stream.take_input() {
                Input::Bytes(bytes) => pending = Some((bytes, 0)),
                Input::End => {
                    writing = false;
                    // Fails when the peer is gone, which reading finds out.
                    let _ = shutdown(socket, Shutdown::Write);
                }
                Input::None => {}
            }
        }
        if let Some((bytes, sent)) = &mut pending {
            match rustix::io::write(socket, &bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if *sent == bytes.len() {
                pending = None;
                continue;
            }
        }
        let room = if reading { stream.room(PIPE_MAIN) } else { 0 };
        if room > 0 {
            match rustix::io::read(socket, &mut buffer[..room]) {
                Ok(0) => {
                    reading = false;
                    stream.end(PIPE_MAIN);
                    continue;
                }
                Ok(count) => {
                    stream.send(PIPE_MAIN, &buffer[..count]);
                    continue;
                }
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if !reading && !writing {
            return Ok(true);
        }
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, room > 0);
        wanted.set(PollFlags::OUT, pending.is_some());
        let mut descriptors = Vec::new();
        // A hang-up is reported whether or not it is asked for, so nothing is asked while nothing can be done.
        if !wanted.is_empty() {
            descriptors.push(PollFd::from_borrowed_fd(socket.as_fd(), wanted));
        }
        stream.wait(&mut descriptors)?;
    }
}

/// Addresses, `localhost` and names from `/etc/hosts`. The C library is not asked: a static program cannot load what it
/// looks names up with.
fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let nonsense = || io::Error::new(io::ErrorKind::InvalidInput, "an address is written like `127.0.0.1:80`");
    let (host, port) = address.rsplit_once(':').ok_or_else(nonsense)?;
    let port: u16 = port.parse().map_err(|_| nonsense())?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut addresses: Vec<SocketAddr> =
        addresses_of(host, &hosts).into_iter().map(|address| SocketAddr::new(address, port)).collect();
    if addresses.is_empty() && host == "localhost" {
        addresses = vec![([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()];
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{host}` is not in the guest's `/etc/hosts`")));
    }
    Ok(addresses)
}

fn addresses_of(host: &str, hosts: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        if let Some(Ok(address)) = words.next().map(str::parse)
            && words.any(|name| name == host)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_hosts_file_only() {
        let hosts = "127.0.0.1 localhost\n10.0.0.7\tdb db.local # main\n#10.0.0.8 db\n::1 localhost ip6-localhost\n";
        assert_eq!(addresses_of("db.local", hosts), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses_of("localhost", hosts).len(), 2);
        assert!(addresses_of("main", hosts).is_empty());
        assert_eq!(resolve("[::1]:80").unwrap()[0].port(), 80);
        assert_eq!(resolve("nonsense").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(resolve("no-such-host.invalid:80").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
