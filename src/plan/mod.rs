//! The plan: a lane with everything resolved that can be resolved without doing anything.
//!
//! What always holds: resolving is pure, so the same lane and inputs give the same plan and the same digest; what is only
//! known by doing (ports, process ids, a probe's outcome) is an event of the run and never stands here.

mod digest;
pub mod model;
mod resolve;
mod schedule;
#[cfg(test)]
mod tests;
mod text;

pub use digest::{canonical_json, digest};
pub use model::Plan;
pub use resolve::{PlanInputs, choose_source, images_needed, resolve, step_deadline};
pub use schedule::{DrawnFault, draw};
pub use text::{action_text, lane_text, plan_text};
