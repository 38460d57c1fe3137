//! The task that moves the stack's frames and its time.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::services::{DhcpOptions, DhcpServer, Handled, Zone};
use super::stack::Shared;
use super::stream::{HostListener, HostStream};
use crate::error::{Context, Result};
use crate::network::address::{EndAddress, Subnet};
use crate::network::frame::{HEADER, Item, LONGEST, item_at};
use crate::network::switch::Switch;

/// The host on a network. Its connections end with it.
pub struct HostPort {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl HostPort {
    /// Joins a network under a name of its own ([`HOST`](crate::network::HOST), or as if it were a machine). Within a tokio
    /// runtime.
    pub fn join(switch: &Switch, name: &str, address: EndAddress, subnet: Subnet, seed: u64) -> Result<Self> {
        let failed = || format!("failed to join the network `{}` as `{name}`", switch.network());
        let (ours, theirs) = StdStream::pair().infrastructure(failed)?;
        ours.set_nonblocking(true).infrastructure(failed)?;
        let stream = UnixStream::from_std(ours).infrastructure(failed)?;
        switch.attach(name, theirs)?;
        let shared = Arc::new(Shared::new(address, subnet, seed));
        let task = tokio::spawn(run(shared.clone(), stream));
        Ok(Self { shared, task })
    }

    /// Connects to a machine. It is tried until it succeeds, the machine refuses, or the caller stops waiting.
    ///
    /// Errors: `ConnectionRefused`; `NetworkDown` where the network ended; `InvalidInput` for what is no address.
    pub async fn connect(&self, remote: SocketAddrV4) -> io::Result<HostStream> {
        HostStream::connect(&self.shared, remote).await
    }

    /// Listens on a port; `backlog` connections may come before the next is accepted, more are refused.
    pub fn listen(&self, port: u16, backlog: usize) -> io::Result<HostListener> {
        HostListener::new(&self.shared, port, backlog)
    }

    /// Serves DHCP from here on, in place of what was served before: each machine that is given, and nobody else, is
    /// told its own address, the subnet's mask and, while names are served as well, the host as its DNS server. There
    /// is no router on the network. Whoever gives its address back or declines it has it still.
    ///
    /// Usage errors: an address that no machine of the network may have, and addresses that are there twice.
    pub fn serve_dhcp(&self, leases: impl IntoIterator<Item = EndAddress>, options: &DhcpOptions) -> Result<()> {
        let (host, subnet) = {
            let services = &self.shared.lock().services;
            (services.host.ip, services.subnet)
        };
        let server = DhcpServer::new(host, subnet, leases, options)?;
        self.shared.lock().services.dhcp = Some(server);
        Ok(())
    }

    /// Serves DNS over UDP from here on, in place of what was served before: the names' addresses, and for each address
    /// the first of its names. Case and a dot at the end do not matter. Nothing else exists (`NXDOMAIN`), and of the
    /// names nothing but IPv4 addresses. Clients keep no answer: each lookup crosses the network.
    ///
    /// Usage errors: what can be no name, and a name for two addresses.
    pub fn serve_dns(&self, names: &BTreeMap<String, Ipv4Addr>) -> Result<()> {
        let zone = Zone::new(names)?;
        self.shared.lock().services.dns = Some(zone);
        Ok(())
    }
}

impl Drop for HostPort {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.lock().end();
    }
}

async fn run(shared: Arc<Shared>, stream: UnixStream) {
    // However it ends, what waits for it has to hear of it. The reason is the switch's to tell.
    let _ = exchange(&shared, &stream).await;
    shared.lock().end();
}

async fn exchange(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; HEADER + LONGEST];
    let mut kept = 0;
    // Of what the device has to send, what was taken out and not sent yet.
    let mut sending = Vec::new();
    let mut sent = 0;
    loop {
        let delay = {
            let mut stack = shared.lock();
            let delay = stack.advance();
            if sent == sending.len() {
                sending.clear();
                std::mem::swap(&mut sending, &mut stack.device.outgoing);
                sent = 0;
            }
            delay
        };
        while sent < sending.len() {
            match stream.try_write(&sending[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // What the stack could not send or answer for want of room is tried when there is some. Until then nothing more
        // is read: what comes would have to wait here.
        let (unsent, unheard) = {
            let device = &shared.lock().device;
            (!device.outgoing.is_empty(), !device.incoming.is_empty())
        };
        let interest = match (sent < sending.len(), unheard) {
            (false, _) if unsent || unheard => continue,
            (false, _) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (true, true) => Interest::WRITABLE,
        };
        let timer = async {
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ready = stream.ready(interest) => {
                if ready?.is_readable() {
                    match stream.try_read(&mut buffer[kept..]) {
                        Ok(0) => return Ok(()),
                        Ok(count) => kept = take_frames(shared, &mut buffer, kept + count)?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            () = shared.changed.notified() => {}
            () = timer => {}
        }
    }
}

/// Hands whole frames to the stack and gives how many bytes remain at the buffer's beginning.
fn take_frames(shared: &Shared, buffer: &mut [u8], end: usize) -> io::Result<usize> {
    let mut stack = shared.lock();
    let mut at = 0;
    loop {
        match item_at(&buffer[..end], at) {
            Item::Frame(range) => {
                let frame = &buffer[range.start + HEADER..range.end];
                match stack.services.handle(frame) {
                    Handled::Not => stack.device.incoming.push_back(frame.to_vec()),
                    Handled::Answered(Some(reply)) => stack.device.send(&reply),
                    Handled::Answered(None) => {}
                }
                at = range.end;
            }
            Item::TooShort(range) => at = range.end,
            Item::Incomplete => break,
            Item::Garbage { .. } => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    buffer.copy_within(at..end, 0);
    Ok(end - at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::network::frame::framed;
    use crate::network::mac::MacAddress;

    const SUBNET: &str = "10.77.0.0/24";

    fn end(number: u8) -> EndAddress {
        EndAddress { mac: MacAddress([2, 0, 0, 0, 0, number]), ip: [10, 77, 0, number].into() }
    }

    fn shared() -> Shared {
        Shared::new(end(254), SUBNET.parse().unwrap(), 1)
    }

    /// Asks for the host's MAC address: each is answered.
    fn arp_request() -> Vec<u8> {
        let mut request = [[0xff; 6], end(1).mac.0].concat();
        request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&end(1).mac.0);
        request.extend_from_slice(&end(1).ip.octets());
        request.extend_from_slice(&[0; 6]);
        request.extend_from_slice(&end(254).ip.octets());
        request
    }

    /// The switch does not take what the host answers: then the host must not take what would have to be answered.
    #[tokio::test]
    async fn whoever_takes_no_answers_is_not_listened_to_for_ever() {
        const FAR_TOO_MUCH: usize = 16 << 20;
        let (ours, switch) = UnixStream::pair().unwrap();
        let shared = Arc::new(shared());
        let task = tokio::spawn({
            let shared = shared.clone();
            async move { exchange(&shared, &ours).await }
        });
        let requests = framed(&arp_request()).repeat(1000);
        let (mut written, mut answered) = (0, 0);
        let write = async {
            while written < FAR_TOO_MUCH {
                switch.writable().await.unwrap();
                match switch.try_write(&requests[written % requests.len()..]) {
                    Ok(count) => written += count,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(500), write).await.is_err(), "all of it was taken");
        // Once it is listened to again, it goes on, and every request is answered.
        let requested = written / (HEADER + arp_request().len());
        let read = async {
            let mut buffer = vec![0; 1 << 16];
            while answered < requested * (HEADER + arp_request().len()) {
                switch.readable().await.unwrap();
                match switch.try_read(&mut buffer) {
                    Ok(count) => answered += count,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
        task.abort();
    }

    /// Bytes that are frames, too short for one, and garbage, in any mixture.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let bytes = |longest| proptest::collection::vec(any::<u8>(), 0..longest);
        let item = prop_oneof![
            20 => bytes(200).prop_map(|frame| framed(&frame)),
            1 => (2000usize..LONGEST + 1).prop_map(|length| framed(&vec![7; length])),
            2 => bytes(8),
            1 => (0u32..100_000).prop_map(|length| length.to_be_bytes().to_vec()),
        ];
        proptest::collection::vec(item, 0..12).prop_map(|items| items.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The fuzz of the reader as it is used here: whatever comes, however it is cut, the same frames reach the
        /// stack, the same end is found, and there is always room to read more.
        #[test]
        fn the_same_frames_are_read_however_they_are_cut(stream in stream(), cuts in proptest::collection::vec(1usize..3000, 1..30)) {
            let read = |cuts: &[usize]| {
                let shared = shared();
                let mut buffer = vec![0; HEADER + LONGEST];
                let (mut rest, mut kept, mut frames) = (&stream[..], 0, Vec::new());
                let mut cuts = cuts.iter().cycle();
                while !rest.is_empty() {
                    let room = buffer.len() - kept;
                    assert!(room > 0, "an empty read would be taken for the end");
                    let count = room.min(rest.len()).min(*cuts.next().unwrap());
                    buffer[kept..kept + count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    match take_frames(&shared, &mut buffer, kept + count) {
                        Ok(left) => kept = left,
                        Err(error) => {
                            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                            frames.extend(shared.lock().device.incoming.drain(..));
                            return (frames, None);
                        }
                    }
                    frames.extend(shared.lock().device.incoming.drain(..));
                }
                (frames, Some(buffer[..kept].to_vec()))
            };
            let whole = read(&[usize::MAX]);
            prop_assert_eq!(&read(&cuts), &whole);
            if stream.len() < 3000 {
                prop_assert_eq!(&read(&[1]), &whole);
            }
        }
    }
}
