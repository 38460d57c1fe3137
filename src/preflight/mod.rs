//! Whether a run may start: everything that speaks against it at once, each finding with its remedy.
//!
//! `host` reads facts of this host, `checks` compares a plan with them, `accelerator` decides what machines run under,
//! `probe` boots a guest to prove it, `tools` remembers versions.

pub mod accelerator;
mod checks;
pub mod host;
mod probe;
mod tools;

pub use checks::{PreflightInputs, check};
pub use tools::qemu_version;
