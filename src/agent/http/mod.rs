//! A small HTTP client, for talking to the deployer: one request a connection, blocking, HTTP/1.1, over TCP or TLS.
//!
//! What always holds: a server is believed only when its certificate leads to the deployer's own CA (or, without one, to the
//! system's); nothing of a request or an answer is printed; every wait has a bound.

mod certificate;
mod client;
mod date;
mod response;
mod trust;
mod url;

pub use client::{Client, Failure, Request, reason};
pub use response::Response;
pub use trust::Trust;
#[cfg(test)]
pub use trust::sha256_hex;
pub use url::Url;
