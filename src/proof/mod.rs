//! The proof root: the directory that a run leaves, and what can be done with it later.
//!
//! Owns its layout, `latest`, the seal, verification and replay. What always holds: a proof root is finished if and only if
//! `seal.json` is in it, because that is written last; `latest` points to a finished one and moves in one step; the
//! seal covers every file, and a link or anything else that is not a plain file is refused rather than followed.
//! Unsigned digests detect damage, not forgery. Never imports `run` or `machine`.

mod atomic;
mod copy;
pub mod digest;
pub mod environment;
mod prune;
pub mod reports;
pub mod root;
pub mod seal;
pub mod sums;
mod tree;
pub mod verify;

pub(crate) use atomic::sync_directory;
pub use atomic::{write_atomic, write_json_atomic};
pub use copy::{check_destination, copy};
pub use environment::Environment;
pub use prune::{Judged, Kept, is_pinned, judge_all, pin, remove};
pub use reports::{Difference, Replay, replay, write_reports};
pub(crate) use root::random_id;
pub use root::{ProofEntry, ProofRoot, find, is_under_way, list, until_over};
pub use seal::{Seal, SealRequest, seal};
pub use verify::{Finding, Verification, verify};

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;
