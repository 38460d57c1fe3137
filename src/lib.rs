//! bootproof proves that machines come up, install, converge, survive faults and keep their data.
//!
//! Without the `host` feature only what the guest's agent needs is compiled.

pub mod agent;
pub mod channel;
pub mod provisioning;

#[cfg(feature = "host")]
pub mod attach;
#[cfg(feature = "host")]
pub mod binary_cache;
#[cfg(feature = "host")]
pub mod budget;
#[cfg(feature = "host")]
pub mod checkpoint;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod console;
#[cfg(feature = "host")]
pub mod deployer;
#[cfg(feature = "host")]
pub mod error;
#[cfg(feature = "host")]
pub mod event;
#[cfg(feature = "host")]
pub mod gate;
#[cfg(feature = "host")]
pub mod guard;
#[cfg(feature = "host")]
pub mod image;
#[cfg(feature = "host")]
pub mod lane;
#[cfg(feature = "host")]
pub mod machine;
#[cfg(feature = "host")]
pub mod marker;
#[cfg(feature = "host")]
pub mod network;
#[cfg(feature = "host")]
pub mod nix_store;
#[cfg(feature = "host")]
pub mod plan;
#[cfg(feature = "host")]
pub mod preflight;
#[cfg(feature = "host")]
mod process_group;
#[cfg(feature = "host")]
pub mod proof;
#[cfg(feature = "host")]
pub mod report;
#[cfg(feature = "host")]
pub mod run;
#[cfg(feature = "host")]
pub mod secret;
#[cfg(feature = "host")]
pub mod text;
