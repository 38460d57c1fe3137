//! Connections: from any listener, with or without TLS, each on its own task, each within bounds of time.

mod accept;
mod idle;
mod tls;

pub(super) use accept::serve_tls;
pub use accept::{Listener, serve, serve_both};
pub use tls::{TlsFiles, make_ca, tls_configuration};
