//! The Nix store of this host as an ordinary HTTP binary cache, for installers that boot without one.
//!
//! Owns the signing key, which paths are served, and what is answered.
//!
//! What always holds:
//! - Memory does not grow with what is served: a NAR is made while it is sent, as fast as its client takes it.
//! - What a client gets to the end is what was signed: a NAR whose content turns out to be another, or whose path vanishes
//!   on the way, ends in a broken connection.
//! - Nothing of a request becomes the name of a file: it is looked up, as a hash, among the paths that the store's database
//!   knows. What is found nowhere is 404.

mod catalog;
mod key;
mod nar_body;
mod router;

pub use catalog::Catalog;
pub use key::SecretKey;
pub use nar_body::Compression;
pub use router::{BinaryCache, router, serve};
