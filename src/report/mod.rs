//! What a run's log means, and how that is told.
//!
//! Owns the fold over the log ([`View`]), the verdict that follows from it, and every rendering of it. What always
//! holds: the fold is total (any prefix of a log, and even an ill-ordered one, folds without a panic) and takes bounded
//! memory however much a guest prints; the live run and `proof replay` use this same fold and these same renderings;
//! no report reads a clock, an environment variable or anything else beside the log and the files of the proof root;
//! and nothing that a guest printed is markup, or acts on a terminal, in any of them. Never imports `run` or `machine`.

pub mod describe;
pub mod document;
pub mod excerpt;
mod html;
pub mod json;
mod junit;
mod markdown;
pub mod progress;
mod render;
pub mod result;
pub mod standing;
pub mod story;
pub mod terminal;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod text;
pub mod verdict;
pub mod view;

pub use render::{REPORT_FILES, RESULT_FILE, Rendered, render};
pub use result::RunResult;
pub use story::Story;
pub use verdict::{Decision, decide};
pub use view::View;
