//! Taking connections and answering what they ask.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::idle::Idle;
use crate::deployer::api::Stopping;
use crate::network::{HostListener, HostStream};

/// So many at once; who comes then waits for one to end. Each ends by itself when nothing moves.
const MOST_CONNECTIONS: usize = 4096;
/// For a request's headers, and between requests.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// How a TLS record of a handshake begins; no method of HTTP does.
const HANDSHAKE: u8 = 0x16;
/// A connection on which nothing can be sent for so long is given up; a download is taken up again by its range.
const STALLED_AFTER: Duration = Duration::from_secs(120);
/// For answers that are being sent when the deployer is told to end. Whoever waits for a change is told that there is none.
const GRACE: Duration = Duration::from_secs(10);

/// Where connections come from.
pub trait Listener: Send {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next. An error ends the server, so that one of a single connection is not to be given.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        loop {
            match TcpListener::accept(self).await {
                Ok((stream, _)) => {
                    // Answers are small and written whole.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One that was gone before it was taken.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionRefused | Kind::ConnectionReset | Kind::Interrupted
    )
}

/// The process or the host has no descriptors left.
fn is_too_many(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Listener for HostListener {
    type Connection = HostStream;

    async fn accept(&mut self) -> io::Result<HostStream> {
        HostListener::accept(self).await
    }
}

pub async fn serve(listener: impl Listener, router: Router, stop: impl Future<Output = ()> + Send) -> io::Result<()> {
    run(listener, Speech::Plain(router), stop).await
}

pub async fn serve_tls(
    listener: impl Listener,
    tls: Arc<ServerConfig>,
    router: Router,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    run(listener, Speech::Tls(TlsAcceptor::from(tls), router), stop).await
}

/// Both at one address: whoever comes without TLS is answered by `plain`.
pub async fn serve_both(
    listener: impl Listener,
    tls: Arc<ServerConfig>,
    router: Router,
    plain: Router,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    run(listener, Speech::Both(TlsAcceptor::from(tls), router, plain), stop).await
}

/// What is spoken, and who answers it.
#[derive(Clone)]
enum Speech {
    Plain(Router),
    Tls(TlsAcceptor, Router),
    /// What comes under TLS, and what comes without.
    Both(TlsAcceptor, Router, Router),
}

impl Speech {
    fn map(self, change: impl Fn(Router) -> Router) -> Self {
        match self {
            Self::Plain(router) => Self::Plain(change(router)),
            Self::Tls(tls, router) => Self::Tls(tls, change(router)),
            Self::Both(tls, router, plain) => Self::Both(tls, change(router), change(plain)),
        }
    }

    async fn answer(self, connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, mut stopped: Stopped) {
        match self {
            Self::Plain(router) => answer(connection, router, stopped).await,
            Self::Tls(tls, router) => answer_tls(connection, tls, router, stopped).await,
            Self::Both(tls, router, plain) => {
                // Looked at, and not taken: it is read again by whoever answers.
                let mut connection = BufReader::new(connection);
                let first = tokio::select! {
                    first = tokio::time::timeout(HANDSHAKE_WITHIN, connection.fill_buf()) => first,
                    _ = stopped.changed() => return,
                };
                match first.map(|bytes| bytes.ok().and_then(|bytes| bytes.first().copied())) {
                    Ok(Some(HANDSHAKE)) => answer_tls(connection, tls, router, stopped).await,
                    Ok(Some(_)) => answer(connection, plain, stopped).await,
                    Ok(None) => tracing::debug!("a connection ended before it said anything"),
                    Err(_) => tracing::debug!("a connection said nothing"),
                }
            }
        }
    }
}

/// Ready when the server ends.
type Stopped = watch::Receiver<()>;

async fn answer_tls(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: TlsAcceptor,
    router: Router,
    stopped: Stopped,
) {
    match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(connection)).await {
        Ok(Ok(connection)) => answer(connection, router, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn run(mut listener: impl Listener, speech: Speech, stop: impl Future<Output = ()> + Send) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(());
    // Whoever waits for a change is told that the server ends.
    let speech = speech.map(|router| router.layer(axum::Extension(Stopping(stopped.clone()))));
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    let ended = loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((permit, listener.accept().await?))
        };
        tokio::select! {
            () = &mut stop => break Ok(()),
            accepted = accepted => match accepted {
                Ok((permit, connection)) => {
                    let (speech, stopped) = (speech.clone(), stopped.clone());
                    tasks.spawn(async move {
                        speech.answer(Idle::new(connection, STALLED_AFTER), stopped).await;
                        drop(permit);
                    });
                }
                // There are no descriptors for more: the next is taken when one of these ends.
                Err(error) if is_too_many(&error) && !tasks.is_empty() => {
                    tracing::warn!(connections = tasks.len(), "no more connections can be taken");
                    tokio::select! {
                        () = &mut stop => break Ok(()),
                        _ = tasks.join_next() => {}
                    }
                }
                Err(error) => break Err(error),
            },
            // Tasks that ended are not kept.
            Some(_) = tasks.join_next() => {}
        }
    };
    drop(listener);
    drop(stopping);
    let _ = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    // Whoever ends a deployer may want to open its state again: nothing of it is left.
    tasks.shutdown().await;
    ended
}

async fn answer(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopped: Stopped,
) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(64 << 10);
    let connection = server.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The sender sends nothing: it goes.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended before its time");
    }
}
