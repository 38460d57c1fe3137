//! Gates: what their outcomes are worth together. Pure: no tokio, no file system.

mod score;

pub use score::{GateResult, Score, score};
