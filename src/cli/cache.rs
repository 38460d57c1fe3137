//! `bootproof cache`: gives what Nix has built on this host to machines that install themselves.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::binary_cache::{self, BinaryCache, Catalog, Compression, SecretKey};
use crate::error::{Context as _, Error, Result};
use crate::nix_store::NixStore;

/// How long answers may take to their end once the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

const AFTER_HELP: &str = "\
Examples:
  bootproof cache key site-1
  bootproof cache serve --key site-1.secret --closure ./result
  bootproof cache serve --listen 192.0.2.1 --port 0   prints the port that it got";

const SERVE_AFTER_HELP: &str = "\
As soon as it listens, standard output has the two settings that a client needs, in the form of nix.conf:
extra-substituters (the address) and extra-trusted-public-keys (the key).";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve the Nix store, or closures of it, as a binary cache over HTTP, until stopped
    #[command(after_help = SERVE_AFTER_HELP)]
    Serve(ServeArguments),
    /// Make a key to sign with: the secret goes into a file, the public key to standard output
    Key {
        /// What clients know the key by, for example `site-1`
        name: String,
        /// Where the secret goes; `NAME.secret` when not given. A file that exists is left alone
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct ServeArguments {
    /// The address to listen at; nothing that is served is secret to whoever reaches it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The port to listen at; 0 takes one that is free
    #[arg(long, default_value = "5000")]
    port: u16,
    /// Sign with this secret key; without one, with a key that is made for this time only
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How NARs are sent
    #[arg(long, value_enum, default_value = "zstd")]
    compression: Compression,
    /// Where clients put this cache among others: the lowest comes first (cache.nixos.org has 40)
    #[arg(long, default_value = "30")]
    priority: u32,
    /// The store, as `nix --store` takes it; Nix's own default when not given
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Serve only what these need: store paths, links to them such as `./result`, flake outputs that are built
    #[arg(long, value_name = "INSTALLABLE", num_args = 1..)]
    closure: Vec<String>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Key { name, output } => {
            let key = SecretKey::generate(&name)?;
            key.write(&output.unwrap_or_else(|| format!("{name}.secret").into()))?;
            println!("{}", key.public());
        }
        Command::Serve(arguments) => {
            let runtime = super::runtime()?;
            let outcome = runtime.block_on(serve(context, arguments));
            // Pieces that are being read for clients that were cut off are not waited for.
            runtime.shutdown_background();
            outcome?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(context: &Context, arguments: ServeArguments) -> Result<()> {
    let mut signals = Signals::watch()?;
    let key = match &arguments.key {
        Some(file) => SecretKey::read(file)?,
        None => SecretKey::generate("bootproof-ephemeral")?,
    };
    let store = NixStore::open(arguments.store.as_deref())?;
    if !store.real_directory().is_dir() {
        return Err(Error::blocked(format!("there is no Nix store at `{}`", store.real_directory().display()))
            .hint("`--store` names another one; Nix makes its own with the first thing that it builds"));
    }
    store.require_nix().await?;
    let catalog = if arguments.closure.is_empty() {
        Catalog::of_store(store)
    } else {
        Catalog::of_closures(store, &arguments.closure).await?
    };
    let address = SocketAddr::new(arguments.listen, arguments.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::blocked(format!("failed to listen at {address}")).with_source(error).hint("`--port 0` takes a free port")
    })?;
    let address = listener.local_addr().infrastructure(|| "failed to learn the port".into())?;
    if !context.quiet {
        match catalog.known_paths() {
            0 => eprintln!("serving all of `{}`", catalog.store().real_directory().display()),
            count => eprintln!("serving {count} paths of `{}`", catalog.store().real_directory().display()),
        }
    }
    let settings = format!("extra-substituters = http://{address}\nextra-trusted-public-keys = {}\n", key.public());
    let mut stdout = std::io::stdout();
    stdout
        .write_all(settings.as_bytes())
        .and_then(|()| stdout.flush())
        .infrastructure(|| "failed to print the address".into())?;

    let complain = |text: &str| eprintln!("warning: {text}");
    let cache = BinaryCache::new(catalog, key, arguments.compression, arguments.priority, complain);
    let router = binary_cache::router(Arc::new(cache));
    let stop = CancellationToken::new();
    let stopped = async {
        signals.next().await;
        stop.cancel();
        tokio::select! {
            () = tokio::time::sleep(GRACE) => {}
            () = signals.next() => {}
        }
    };
    tokio::select! {
        outcome = binary_cache::serve(listener, router, stop.clone().cancelled_owned()) => outcome,
        () = stopped => {
            eprintln!("warning: stopped with answers on their way");
            Ok(())
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> Result<Self> {
        let open = |kind| signal(kind).infrastructure(|| "failed to watch for signals".into());
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
