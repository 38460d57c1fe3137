//! A SOCKS5 proxy on the loopback, for commands on the host that are to reach machines in the run's networks: `curl
//! --proxy "$BOOTPROOF_PROXY" http://node01:8080/`. Names are resolved here (`socks5h`).
//!
//! RFC 1928, as much of it as clients use: no authentication, CONNECT, names and IPv4 addresses. It ends with the run.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::networks::Joined;
use crate::error::{Context, Result};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const ADDRESS_IPV4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

/// The proxy of one run.
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback. Within a tokio runtime.
    pub fn start(networks: Arc<Vec<Arc<Joined>>>) -> Result<Self> {
        let failed = || "failed to listen on the loopback for the run's proxy".into();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).infrastructure(failed)?;
        listener.set_nonblocking(true).infrastructure(failed)?;
        let address = listener.local_addr().infrastructure(failed)?;
        let listener = TcpListener::from_std(listener).infrastructure(failed)?;
        let task = tokio::spawn(async move {
            // Ends with the task, and its connections with it.
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let networks = networks.clone();
                // What goes wrong is the client's to hear, by the proxy's answer or the connection's end.
                clients.spawn(async move { serve(client, &networks).await });
                while clients.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// As `curl --proxy` and its like take it.
    pub fn url(&self) -> String {
        format!("socks5h://{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, networks: &[Arc<Joined>]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let version = client.read_u8().await?;
    let mut methods = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut methods).await?;
    if version != VERSION || !methods.contains(&NO_AUTHENTICATION) {
        return client.write_all(&[VERSION, 0xff]).await;
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    if version != VERSION {
        return Err(invalid());
    }
    let host = match kind {
        ADDRESS_IPV4 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        ADDRESS_NAME => {
            let mut name = vec![0; usize::from(client.read_u8().await?)];
            client.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| invalid())?
        }
        _ => return answer(&mut client, ADDRESS_NOT_SUPPORTED).await,
    };
    let port = client.read_u16().await?;
    if command != CONNECT {
        return answer(&mut client, COMMAND_NOT_SUPPORTED).await;
    }
    let Some(network) = networks.iter().find(|network| network.knows(&host)) else {
        return answer(&mut client, HOST_UNREACHABLE).await;
    };
    match network.connect(&host, port).await {
        Ok(mut machine) => {
            answer(&mut client, SUCCEEDED).await?;
            tokio::io::copy_bidirectional(&mut client, &mut machine).await.map(drop)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => answer(&mut client, REFUSED).await,
        Err(_) => answer(&mut client, FAILED).await,
    }
}

/// The address that the connection comes from is of no use to anybody here.
async fn answer(client: &mut TcpStream, reply: u8) -> io::Result<()> {
    client.write_all(&[VERSION, reply, 0, ADDRESS_IPV4, 0, 0, 0, 0, 0, 0]).await
}
