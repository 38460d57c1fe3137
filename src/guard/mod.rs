//! Guards: whether a project keeps what its profiles promise, without booting anything.
//!
//! Three of them. *eval* reads every profile and lane and forces every canonical entry point, so that a broken one is told
//! before anything is built. *build* realises them. *surface* reads what is shipped and published, and tells what is not
//! finished or should not have come back.
//!
//! What always holds:
//! - A finding names a file, a line, a column and a rule. Whoever reads the report decides nothing more.
//! - Every entry point is tried, also when one before it fails.
//! - What could not be checked is in the report with its reason: nothing is passed over in silence.
//! - An exception (`profiles/guards.toml`) has a reason and a last day. One that has run out, or that allows nothing any
//!   more, is a finding itself.

mod allow;
mod archived;
mod command_line;
mod component;
mod contract;
mod files;
mod finding;
mod flake;
mod render;
mod surface;
mod tokens;
mod wording;

pub use allow::ALLOW_FILE;
pub use command_line::CommandReader;
pub use contract::evaluate;
pub use finding::{Finding, Report, Rule, Skipped};
pub use flake::{NixOptions, build};
pub use render::{annotations, json, text};
pub use surface::surface;
