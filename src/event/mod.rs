//! The log: its vocabulary, the one writer and the one reader.
//!
//! Owns what an event is and how it lies on the disk (one JSON object per line, `events.jsonl`). What events mean is the
//! fold's (`report::view`); who may write one is the dispatcher's (`run`). What always holds: an append that has
//! returned is on the disk; after one that failed the writer takes nothing more; a reader gives a prefix of what was
//! written or says which line is wrong. Depends on nothing else in the crate but `error`.

mod kind;
pub mod log;
pub mod reader;
mod reporter;
#[cfg(test)]
pub mod sample;

pub use kind::*;
pub use reporter::{Report, Reporter};

/// The present wall clock as events carry it: RFC 3339 with offset, milliseconds.
pub fn wall_clock() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}
