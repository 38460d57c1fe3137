//! What is asked and what is answered: <https://nix.dev/manual/nix/latest/store/types/http-binary-cache-store>.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use nix_narinfo::NarInfo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::SecretKey;
use super::catalog::{Catalog, hash_part, nar_hash_text};
use super::nar_body::{Compression, nar_body};
use crate::error::{Context, Error, Result};
use crate::nix_store::PathInfo;

/// NARs on their way at once. Each takes a few megabytes while it is compressed; Nix tries again when told to.
const STREAMS: usize = 256;

/// Milliseconds for which a client's machine may leave what was sent unacknowledged.
const GONE_AFTER_MS: u32 = 60_000;

/// A binary cache: what it serves, and how.
pub struct BinaryCache {
    catalog: Catalog,
    key: SecretKey,
    compression: Compression,
    /// Lower comes first with clients; cache.nixos.org has 40.
    priority: u32,
    /// Hears what went wrong while a request was answered.
    complain: Box<dyn Fn(&str) + Send + Sync>,
    streams: Arc<Semaphore>,
    processors: Arc<Semaphore>,
}

impl BinaryCache {
    pub fn new(
        catalog: Catalog,
        key: SecretKey,
        compression: Compression,
        priority: u32,
        complain: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            catalog,
            key,
            compression,
            priority,
            complain: Box::new(complain),
            streams: Arc::new(Semaphore::new(STREAMS)),
            processors: Arc::new(Semaphore::new(processors)),
        }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn narinfo(&self, info: &PathInfo) -> Result<Vec<u8>> {
        let (compression, ending) = match self.compression {
            Compression::None => (nix_narinfo::Compression::None, "nar"),
            Compression::Zstd => (nix_narinfo::Compression::Zstd, "nar.zst"),
        };
        // The name's hash makes the address good also for a server that was started anew and remembers nothing.
        let url = format!("nar/{}.{ending}?hash={}", nar_hash_text(info), hash_part(&info.path));
        let directory = self.catalog.store().directory();
        let builder =
            NarInfo::builder_in(directory.clone(), info.path.clone(), url, info.nar_hash.clone(), info.nar_size)
                .compression(compression)
                .references(info.references.iter().cloned())
                .deriver(info.deriver.clone())
                .content_address(info.content_address.clone());
        let context = || format!("failed to describe `{}`", self.catalog.store().name(&info.path));
        let unsigned = builder.clone().build().infrastructure(context)?;
        // A signature of ours from an earlier time would be there twice.
        let kept = info.signatures.iter().filter(|signature| signature.key_name != self.key.name()).cloned();
        let own = self.key.sign(&unsigned.fingerprint(directory))?;
        let signed = builder.signatures([own].into_iter().chain(kept)).build().infrastructure(context)?;
        Ok(signed.to_canonical_bytes())
    }
}

/// The cache's answers, to be served at the root or nested below a path: narinfos name their NARs relative to themselves.
pub fn router(cache: Arc<BinaryCache>) -> Router {
    Router::new()
        .route("/nix-cache-info", get(cache_info))
        .route("/{name}", get(narinfo))
        .route("/nar/{name}", get(nar))
        .fallback(|| async { not_found() })
        .with_state(cache)
}

/// Serves until `shutdown`, then lets the answers that are on their way come to their end.
///
/// # Errors
/// Infrastructure: no connection can be accepted any more.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    // Answers are short and clients wait for each: no packet is held back for a fuller one.
    // Installers are powered off in the midst of things: who does not answer any more gives its place back.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&*connection, GONE_AFTER_MS);
        let _ = rustix::net::sockopt::set_socket_keepalive(&*connection, true);
    });
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
        .infrastructure(|| "failed to serve the binary cache".into())
}

async fn cache_info(State(cache): State<Arc<BinaryCache>>) -> Response {
    let directory = cache.catalog.store().directory().as_str();
    let text = format!("StoreDir: {directory}\nWantMassQuery: 1\nPriority: {}\n", cache.priority);
    ([(header::CONTENT_TYPE, "text/x-nix-cache-info")], text).into_response()
}

async fn narinfo(State(cache): State<Arc<BinaryCache>>, Path(name): Path<String>) -> Response {
    let Some(wanted) = name.strip_suffix(".narinfo") else { return not_found() };
    let answer = match cache.catalog.find(wanted).await {
        Ok(Some(info)) => cache.narinfo(&info),
        Ok(None) => return not_found(),
        Err(error) => Err(error),
    };
    match answer {
        Ok(text) => ([(header::CONTENT_TYPE, "text/x-nix-narinfo")], text).into_response(),
        Err(error) => cannot_ask(&cache, wanted, &error),
    }
}

async fn nar(State(cache): State<Arc<BinaryCache>>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    let (wanted, compression) = match (name.strip_suffix(".nar"), name.strip_suffix(".nar.zst")) {
        (Some(hash), _) => (hash, Compression::None),
        (None, Some(hash)) => (hash, Compression::Zstd),
        (None, None) => return not_found(),
    };
    let by_name = query.as_deref().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("hash=")));
    let found = match by_name {
        Some(hash) => match cache.catalog.find(hash).await {
            Ok(found) => found.filter(|info| nar_hash_text(info) == wanted),
            Err(error) => return cannot_ask(&cache, hash, &error),
        },
        None => cache.catalog.find_nar(wanted),
    };
    let Some(info) = found else { return not_found() };
    let Ok(place) = cache.streams.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "too many at once\n").into_response();
    };
    let path = cache.catalog.store().real_path(&info.path);
    let size = info.nar_size;
    let failed = cache.clone();
    let on_failure = move |info: &PathInfo, error: &io::Error| {
        failed.catalog.forget(info);
        (failed.complain)(&format!("{} broke off: {error}", failed.catalog.store().name(&info.path)));
    };
    let body: Body = nar_body(path, info, compression, place, cache.processors.clone(), Arc::new(on_failure));
    let kind = (header::CONTENT_TYPE, "application/x-nix-nar".to_owned());
    match compression {
        Compression::None => ([kind, (header::CONTENT_LENGTH, size.to_string())], body).into_response(),
        Compression::Zstd => ([kind], body).into_response(),
    }
}

/// `hash` was looked up, so it is a hash and nothing that would act on a terminal.
fn cannot_ask(cache: &BinaryCache, hash: &str, error: &Error) -> Response {
    (cache.complain)(&format!("{hash}: {}", error.chain()));
    (StatusCode::INTERNAL_SERVER_ERROR, "the Nix store cannot be asked\n").into_response()
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404\n").into_response()
}
