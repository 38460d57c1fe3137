//! Servers that are not as they should be. What a good one does is tried with OpenSSH in real guests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::keys::PublicKey;
use russh::server::{self, Auth, VerifiedPublicKey};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{ByteStream, SshChannel, SshKey, SshLogin, SshSettings};
use crate::channel::{Channel, ChannelError, ExecRequest};

/// Far longer than anything here takes; only so that a test that hangs says so.
const LONG: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(3);

/// A channel, and the server's end of each connection that it makes.
fn channel(login: &SshKey, host: &SshKey, within: Duration) -> (SshChannel, UnboundedReceiver<DuplexStream>) {
    let (sender, receiver) = unbounded_channel();
    let pinned = host.public();
    let settings = SshSettings {
        connector: Arc::new(move || {
            let (ours, theirs) = duplex(64 << 10);
            let refused = sender.send(theirs).is_err();
            Box::pin(async move {
                if refused {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                Ok(Box::new(ours) as Box<dyn ByteStream>)
            })
        }),
        login: SshLogin { user: "root".into(), key: login.clone(), handshake: HANDSHAKE, keepalive: LONG },
        host_key: Arc::new(move || Some(pinned.clone())),
        within,
        place: "the test's end".into(),
    };
    (SshChannel::new(settings), receiver)
}

/// Lets one key in, or nobody.
struct Guard(Option<PublicKey>);

impl server::Handler for Guard {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let known = self.0.as_ref().is_some_and(|known| known.key_data() == key.public_key.key_data());
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }
}

/// Serves every connection by the protocol.
fn serve(mut connections: UnboundedReceiver<DuplexStream>, host: &SshKey, lets_in: Option<&SshKey>) {
    let config = Arc::new(server::Config {
        keys: vec![(*host.private()).clone()],
        auth_rejection_time: Duration::ZERO,
        ..server::Config::default()
    });
    let known = lets_in.map(|key| key.private().public_key().clone());
    tokio::spawn(async move {
        while let Some(connection) = connections.recv().await {
            let (config, guard) = (config.clone(), Guard(known.clone()));
            tokio::spawn(async move {
                let session = server::run_stream(config, connection, guard).await?;
                session.await
            });
        }
    });
}

async fn fails(channel: &SshChannel) -> ChannelError {
    timeout(LONG, channel.ready()).await.expect("it has to end").unwrap_err()
}

#[tokio::test]
async fn who_is_let_in_is_ready() {
    let (login, host) = (SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, connections) = channel(&login, &host, LONG);
    serve(connections, &host, Some(&login));
    timeout(LONG, channel.ready()).await.unwrap().unwrap();
    timeout(LONG, channel.ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn another_host_key_is_told_at_once_and_for_good() {
    let (login, host, other) =
        (SshKey::generate("").unwrap(), SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, connections) = channel(&login, &host, LONG);
    serve(connections, &other, Some(&login));
    let began = Instant::now();
    let error = fails(&channel).await;
    assert!(matches!(error, ChannelError::HostKey { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&host.public().fingerprint()) && text.contains(&other.public().fingerprint()), "{text}");
    assert_eq!(fails(&channel).await, error);
    assert!(timeout(LONG, channel.exec(ExecRequest::new(["true"]))).await.unwrap().is_err());
    assert!(began.elapsed() < HANDSHAKE);
}

#[tokio::test]
async fn a_key_that_is_not_known_is_told_at_once_and_for_good() {
    let (login, host) = (SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, connections) = channel(&login, &host, LONG);
    serve(connections, &host, None);
    let error = fails(&channel).await;
    assert!(matches!(error, ChannelError::Authentication { .. }), "{error:?}");
    assert!(error.to_string().contains(&login.public().fingerprint()), "{error}");
    assert_eq!(fails(&channel).await, error);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_waited_for_no_longer_than_told() {
    let (login, host) = (SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, _held) = channel(&login, &host, HANDSHAKE + Duration::from_secs(1));
    let error = fails(&channel).await;
    assert!(matches!(error, ChannelError::NeverGreeted { .. }), "{error:?}");
    assert!(error.to_string().contains("says nothing within 3 s"), "{error}");
}

#[tokio::test]
async fn a_server_that_greets_and_hangs_is_told_for_good() {
    let (login, host) = (SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, mut connections) = channel(&login, &host, LONG);
    let hanging = tokio::spawn(async move {
        let mut connection = connections.recv().await.unwrap();
        connection.write_all(b"SSH-2.0-hangs\r\n").await.unwrap();
        // Held open until it is cut at the other end.
        tokio::io::copy(&mut connection, &mut tokio::io::sink()).await
    });
    let error = fails(&channel).await;
    assert!(matches!(error, ChannelError::NeverGreeted { .. }), "{error:?}");
    assert!(error.to_string().contains("does not exchange keys within 3 s"), "{error}");
    // What was half done is not left behind.
    timeout(LONG, hanging).await.expect("the connection is cut").unwrap().unwrap();
}

#[tokio::test]
async fn a_guest_that_is_gone_ends_what_waits() {
    let (login, host) = (SshKey::generate("").unwrap(), SshKey::generate("").unwrap());
    let (channel, mut connections) = channel(&login, &host, LONG);
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { channel.ready().await }
    });
    let _connection = connections.recv().await.unwrap();
    channel.forget_session("the machine was reset");
    let error = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error, ChannelError::Lost { reason: "the machine was reset".into() });
}
