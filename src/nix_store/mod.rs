//! The Nix store of this host, as its files and its database tell it.
//!
//! Owns how the store is found and asked, what is known of a path in it, its serialisation (NAR) with the check against the
//! database, and the provenance of a path.
//!
//! What always holds:
//! - The database is asked through the `nix` command (2.8 and later), never read from behind its back: it is right also
//!   where a daemon owns the store, and no schema of SQLite tables has to be known. One question brings a whole closure.
//! - Files are read by us, and nothing that we read counts as a store path's content before its hash is the database's.
//! - A store has a logical folder, which stands in every path's name, and a real one, where the files are: `--store ROOT`
//!   parts the two.

mod nar;
mod path_info;
mod provenance;
mod store;

pub use nar::{NarReader, nar_hash};
pub use path_info::PathInfo;
pub use provenance::{Provenance, provenance};
pub use store::NixStore;
