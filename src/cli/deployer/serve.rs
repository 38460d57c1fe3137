//! `bootproof deployer serve`.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::State;
use crate::cli::Context;
use crate::cli::lane::print;
use crate::deployer::{Configuration, Deployer};
use crate::error::{Context as _, Error, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration: classes of nodes, systems, nodes that are known beforehand
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    state: State,
    /// Listen here with HTTP; port 0 takes any that is free. Where the configuration has TLS, only what is public is
    /// served here, unless it says `also_plain`
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Listen here with HTTPS; the configuration's `tls` says with which certificate
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_tls: Option<SocketAddr>,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.listen.is_none() && arguments.listen_tls.is_none() {
        return Err(Error::usage("nothing says where to listen")
            .hint("`--listen 0.0.0.0:8080` for HTTP, `--listen-tls 0.0.0.0:8443` for HTTPS"));
    }
    let level = match (context.quiet, context.verbose) {
        (true, _) => "warn",
        (false, 0) => "info",
        (false, 1) => "bootproof=debug,info",
        (false, _) => "debug",
    };
    // Another subscriber can only be one that a test has set.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(context.color)
        .with_env_filter(EnvFilter::try_from_env("BOOTPROOF_LOG").unwrap_or_else(|_| EnvFilter::new(level)))
        .try_init();
    allow_descriptors();
    let state = arguments.state.folder(context);
    let configuration = Configuration::load(&arguments.config, &state.join("packed"))?;
    let also_plain = configuration.tls.as_ref().is_none_or(|tls| tls.also_plain);
    let deployer = Deployer::open(configuration, &state)?;
    let tls = deployer.tls()?;
    crate::cli::runtime()?.block_on(async {
        let stop = stopped_by_signals()?;
        let mut servers = tokio::task::JoinSet::new();
        let mut said = String::new();
        if let Some(address) = arguments.listen {
            let (listener, address) = bind(address).await?;
            said.push_str(&format!("listening on http://{address}\n"));
            let (deployer, stop) = (deployer.clone(), stop.clone());
            servers.spawn(async move {
                match also_plain {
                    true => deployer.serve(listener, stop.cancelled_owned()).await,
                    false => deployer.serve_public(listener, stop.cancelled_owned()).await,
                }
            });
        }
        if let Some(address) = arguments.listen_tls {
            let tls = tls.clone().ok_or_else(|| {
                Error::usage("`--listen-tls` needs a certificate, and the configuration has no `tls`")
                    .hint("`bootproof deployer ca` makes a CA; docs/deployer.md shows the table")
            })?;
            let (listener, address) = bind(address).await?;
            said.push_str(&format!("listening on https://{address}\n"));
            let (deployer, stop) = (deployer.clone(), stop.clone());
            servers.spawn(async move { deployer.serve_tls(listener, tls, stop.cancelled_owned()).await });
        }
        print(&said)?;
        tell_systemd(std::env::var_os("NOTIFY_SOCKET").as_deref())?;
        while let Some(ended) = servers.join_next().await {
            // When one ends the others do.
            stop.cancel();
            ended
                .infrastructure(|| "the deployer's server failed".into())?
                .infrastructure(|| "the deployer can take no more connections".into())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let said = || format!("failed to listen on `{address}`");
    let listener = TcpListener::bind(address).await.infrastructure(said)?;
    let address = listener.local_addr().infrastructure(said)?;
    Ok((listener, address))
}

/// Under a unit with `Type=notify`: connections are taken from now on.
///
/// # Errors
/// Infrastructure: somebody waits to be told, and cannot be.
fn tell_systemd(socket: Option<&OsStr>) -> Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = socket.map(OsStr::as_bytes).filter(|name| !name.is_empty()) else { return Ok(()) };
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(OsStr::from_bytes(name)),
    };
    address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address))
        .infrastructure(|| "failed to tell systemd that the deployer is ready".into())
        .map(drop)
}

/// Each connection takes a descriptor, and a process gets few of what it may have unless it asks.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What cannot be had is done without: who comes then waits.
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}

/// The first SIGINT, SIGTERM or SIGHUP lets it end in order; the second ends it at once, which loses nothing that was
/// answered.
fn stopped_by_signals() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).infrastructure(|| "failed to listen for signals".into())?;
        let token = token.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if token.is_cancelled() {
                    std::process::exit(130);
                }
                token.cancel();
            }
        });
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn systemd_is_told_by_a_path_and_by_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("bootproof-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, named) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ] {
            tell_systemd(Some(OsStr::new(&named))).unwrap();
            let mut told = [0; 32];
            let length = socket.recv(&mut told).unwrap();
            assert_eq!(told[..length], *b"READY=1\n");
        }
        tell_systemd(None).unwrap();
        assert!(tell_systemd(Some(OsStr::new("/nowhere/notify"))).is_err());
    }
}
