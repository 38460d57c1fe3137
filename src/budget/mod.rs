//! What the work root takes from the host, and what it may.
//!
//! Owns the count of the work root (`scan`, `sizes`), its budgets (`document`), who may start (`admission`) and the watch over those
//! that have (`watch`). What always holds: figures are allocated bytes, and nothing is counted twice; counting changes nothing; a
//! tree that changes meanwhile is no error; what a run has reserved is free again when the run is gone, however it went.

mod admission;
mod document;
mod scan;
mod sizes;
mod watch;

pub use admission::{Admission, Admitting, Decision, Demand, KEPT_FREE, Lack};
pub use document::{BudgetDocument, Hard, Soft, budget_schema};
pub use scan::{Problem, Scan, Usage, scan};
pub use sizes::{Budgeted, Over, Part, Sizes};
pub use watch::{Crossed, Limits, Peak, Watch, Watched, written};
