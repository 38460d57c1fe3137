//! Convergence: an installed system becomes what its deployer desires, and stays what was good where that is not.
//!
//! A generation on Debian is a folder that is named by its bundle's digest, below `/var/lib/bootproof/generations`, and one
//! link, `/var/lib/bootproof/current`, that leads to the active one. That works on every file system, needs neither a reboot nor a
//! second copy of the root, and is switched by one rename. On NixOS it is the system profile's.
//!
//! What always holds:
//! - A system becomes the good one only after its health check passed; until then the one before can be gone back to.
//! - The power may go at any instant: the next start finishes what was begun, or takes it back (`engine`). Being ended by a
//!   signal is no different, so that none is caught.
//! - What was rejected is not tried again, unless its content or its health check is another: the same tree judged the same
//!   way would fail the same way, and each try costs what runs an outage.
//! - What is told is told in order, once, and however long the deployer is away (`journal`).

mod activate;
mod engine;
mod enrol;
mod host;
mod journal;
mod nixos;
mod places;
mod service;
#[cfg(test)]
mod tests;
mod trees;
mod units;

pub use service::run;
