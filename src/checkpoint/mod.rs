//! Checkpoints of images: a machine that has booted, saved once, from which many are forked.
//!
//! `key` says what a checkpoint depends on, `manifest` what it consists of, `store` keeps them below the work root.
//! What always holds: one of another image, machine, QEMU or host processor is never found; one that is damaged is never
//! used; none is removed while a run uses it; one that is only half made is never found.

mod key;
mod manifest;
mod store;

pub use key::{CheckpointKey, host_processor};
pub use manifest::{CONSOLES, MANIFEST_VERSION, MEMORY, Manifest, standing};
pub use store::{Checkpoint, CheckpointStore, DEFAULT_CAP, Found, Making, StoredCheckpoint, cap, disk_usage};
