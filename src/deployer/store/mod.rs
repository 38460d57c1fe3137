//! The deployer's state: one SQLite database, one thread that owns it.
//!
//! What always holds: whatever was answered is on the disk (`synchronous=FULL`), also when the process is killed the
//! next instant; what could not be done left nothing behind. Requests that wait together are committed together, each
//! within a savepoint of its own: the disk is waited for once for all of them. Whoever waits for a node hears of a
//! change after it is on the disk, never before.

mod backup;
mod schema;
mod writer;

pub(super) use backup::finish_restore;
pub use backup::{back_up, restore};
pub use schema::SCHEMA_VERSION;
pub(super) use schema::{DATABASE, open};
pub(super) use writer::{Store, Work};
