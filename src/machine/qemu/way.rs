//! The way into the guest, where it is neither our agent nor a shell on a line: made anew at each power-on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::channel::ssh::{ByteStream, Connector, HostKeySource, SshChannel, SshLogin, SshSettings};
use crate::channel::{Channel, ChannelError, GuestAgentChannel};
use crate::error::{Context, Error, Result};

/// How the lane enters the guest.
#[derive(Clone)]
pub enum Way {
    Ssh(Box<SshWay>),
    GuestAgent {
        /// How long it may take to answer for the first time.
        within: Duration,
        /// How long one request may take it.
        bound: Duration,
    },
}

/// SSH, as far as it is known before the machine is on.
#[derive(Clone)]
pub struct SshWay {
    pub login: SshLogin,
    pub host_key: HostKeySource,
    pub within: Duration,
    /// The guest's port.
    pub port: u16,
    /// By a network of the lane's, with its name; by the forwarded port when absent.
    pub connector: Option<(Connector, String)>,
}

impl Way {
    /// Opens the way. `forwards`: guest port and the host's port that leads to it.
    pub fn open(
        &self,
        forwards: &[(u16, u16)],
        guest_agent: Option<std::os::unix::net::UnixStream>,
    ) -> Result<Arc<dyn Channel>> {
        Ok(match self {
            Way::GuestAgent { within, bound } => {
                let failed = || "failed to take the guest agent's socket".into();
                let stream = guest_agent.ok_or_else(|| Error::infrastructure("QEMU has no port for a guest agent"))?;
                stream.set_nonblocking(true).infrastructure(failed)?;
                let stream = UnixStream::from_std(stream).infrastructure(failed)?;
                Arc::new(GuestAgentChannel::start(stream, *within, *bound))
            }
            Way::Ssh(way) => {
                let (connector, place) = match &way.connector {
                    Some((connector, network)) => {
                        (connector.clone(), format!("port {} in the network `{network}`", way.port))
                    }
                    None => {
                        let host = forwards.iter().find(|(guest, _)| *guest == way.port).map(|(_, host)| *host);
                        let host = host.ok_or_else(|| {
                            Error::infrastructure(format!("QEMU does not forward the guest's port {}", way.port))
                        })?;
                        (loopback(host), format!("port {} (forwarded from 127.0.0.1:{host})", way.port))
                    }
                };
                Arc::new(SshChannel::new(SshSettings {
                    connector,
                    login: way.login.clone(),
                    host_key: way.host_key.clone(),
                    within: way.within,
                    place,
                }))
            }
        })
    }
}

fn loopback(port: u16) -> Connector {
    Arc::new(move || {
        Box::pin(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
                // QEMU listens for as long as it lives, whatever the guest does.
                io::ErrorKind::ConnectionRefused => {
                    ChannelError::Closed { reason: "QEMU does not forward its port any more".into() }.into_io()
                }
                _ => error,
            })?;
            // Commands are small, and waited for.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    })
}
