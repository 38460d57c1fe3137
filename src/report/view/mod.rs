//! The fold: from events to what is known of a run.
//!
//! [`View::apply`] takes one event and never fails. Lists that a guest can make grow are [`Window`]s: a count, and the
//! first and the last few entries.

mod facts;
mod fold;
mod trouble;
mod window;

pub use facts::*;
pub use trouble::{Trouble, TroubleKind};
pub use window::Window;

#[cfg(test)]
mod tests;
