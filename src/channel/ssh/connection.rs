//! One connection: greeting, key exchange with the pinned host key, login.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, AuthResult, DisconnectReason, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Preferred};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::{SshKey, SshPublicKey};
use super::line::{ByteStream, Line};
use crate::channel::ChannelError;

/// Who logs in where.
#[derive(Clone)]
pub struct SshLogin {
    pub user: String,
    pub key: SshKey,
    /// How long each of the two may take: greeting with key exchange, and login.
    pub handshake: Duration,
    /// Silence after which the guest is asked whether it is still there; it has to answer within four of these.
    pub keepalive: Duration,
}

/// Why there is no connection.
pub(super) enum NoConnection {
    /// It is of no use to try again.
    Final(ChannelError),
    /// The guest may not be that far yet.
    Yet(String),
}

/// A connection that is logged in. Dropping it ends it.
pub(super) struct Connection {
    pub handle: Handle<Client>,
    /// Why it ended, once it has.
    ended: Arc<Mutex<Option<String>>>,
    _cut: DropGuard,
}

impl Connection {
    /// Why it is over, in words.
    pub fn why(&self) -> String {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ended.unwrap_or_else(|| "the connection ended".into())
    }
}

/// Our side of the protocol: checks the host key, and remembers why the connection ended.
pub(super) struct Client {
    pinned: SshPublicKey,
    /// The fingerprint of a host key that is not the pinned one.
    shown: Arc<Mutex<Option<String>>>,
    ended: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let (matches, fingerprint) = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                (self.pinned.is(key), key.fingerprint(Default::default()).to_string())
            }
            PublicKeyOrCertificate::Certificate(_) => (false, "a certificate".into()),
        };
        if !matches {
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
        }
        Ok(matches)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let words = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => match info.message.trim() {
                "" => "the SSH server ended the connection".into(),
                said => format!("the SSH server ended the connection: {said}"),
            },
            DisconnectReason::Error(error) => format!("the SSH connection broke: {error}"),
        };
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(words);
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// Speaks SSH over a stream until it is logged in. `cut` ends the connection whenever it is cancelled.
pub(super) async fn open(
    stream: Box<dyn ByteStream>,
    login: &SshLogin,
    pinned: &SshPublicKey,
    cut: CancellationToken,
) -> Result<Connection, NoConnection> {
    let config = client::Config {
        // A server with several host keys shows the one that is known.
        preferred: Preferred { key: Cow::Owned(vec![pinned.algorithm()]), ..Preferred::default() },
        keepalive_interval: Some(login.keepalive),
        keepalive_max: 4,
        ..client::Config::default()
    };
    let (heard, shown, ended) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let client = Client { pinned: pinned.clone(), shown: Arc::clone(&shown), ended: Arc::clone(&ended) };
    // Cuts what is half done, too: the protocol's task would live on with the stream otherwise.
    let guard = cut.clone().drop_guard();
    let line = Line::new(stream, cut, heard.clone());
    let within = login.handshake.as_secs_f64();
    let mut handle = match timeout(login.handshake, client::connect_stream(Arc::new(config), line, client)).await {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => return Err(explain(&error, pinned, &shown, heard.load(Ordering::Relaxed))),
        Err(_) if heard.load(Ordering::Relaxed) => {
            return Err(timed_out(format!("the SSH server greets, and then does not exchange keys within {within} s")));
        }
        Err(_) => {
            return Err(NoConnection::Yet(format!(
                "something accepts the connection, and says nothing within {within} s"
            )));
        }
    };
    let key = PrivateKeyWithHashAlg::new(login.key.private(), None);
    match timeout(login.handshake, handle.authenticate_publickey(login.user.as_str(), key)).await {
        Ok(Ok(AuthResult::Success)) => Ok(Connection { handle, ended, _cut: guard }),
        Ok(Ok(AuthResult::Failure { remaining_methods, partial_success })) => {
            let methods: Vec<&str> = remaining_methods.iter().map(|method| method.into()).collect();
            let (user, fingerprint) = (&login.user, login.key.public().fingerprint());
            let what = if partial_success {
                format!("the SSH server wants more of `{user}` than a key")
            } else {
                format!("the SSH server does not let `{user}` in with the key {fingerprint}")
            };
            let methods = methods.join(", ");
            Err(NoConnection::Final(ChannelError::Authentication { detail: format!("{what}; it offers: {methods}") }))
        }
        // As a machine does that is still booting: its users are let in later.
        Ok(Err(error)) => Err(NoConnection::Yet(format!("the SSH server ended the login: {error}"))),
        Err(_) => {
            Err(timed_out(format!("the SSH server does not answer the login of `{}` within {within} s", login.user)))
        }
    }
}

fn timed_out(detail: String) -> NoConnection {
    NoConnection::Final(ChannelError::NeverGreeted { detail })
}

fn explain(error: &russh::Error, pinned: &SshPublicKey, shown: &Mutex<Option<String>>, heard: bool) -> NoConnection {
    let wanted = pinned.fingerprint();
    let changed = |how: String| {
        let detail =
            format!("its SSH host key has changed: {how}; either another machine answers, or it was made anew");
        NoConnection::Final(ChannelError::HostKey { detail })
    };
    match error {
        russh::Error::UnknownKey => {
            let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            changed(format!("it is {shown}, and has to be {wanted}"))
        }
        russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. } => {
            let (kind, theirs) = (pinned.algorithm(), theirs.join(", "));
            changed(format!("there is none of the kind `{kind}`, as {wanted} is, but only {theirs}"))
        }
        russh::Error::NoCommonAlgo { .. } | russh::Error::WrongServerSig | russh::Error::Version => {
            NoConnection::Final(ChannelError::Protocol { detail: error.to_string() })
        }
        _ if heard => NoConnection::Yet(format!("the SSH server ended the connection: {error}")),
        _ => NoConnection::Yet("the connection was closed before the SSH server had greeted".into()),
    }
}
