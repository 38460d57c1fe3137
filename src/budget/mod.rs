//! What the work root takes from the host, and what it may.
//!
//! Owns the count of the work root (`scan`, `sizes`) and its budgets (`document`). What always holds: figures are allocated bytes,
//! and nothing is counted twice; counting changes nothing; a tree that changes meanwhile is no error.

mod document;
mod scan;
mod sizes;

pub use document::{BudgetDocument, Hard, Soft, budget_schema};
pub use scan::{Problem, Scan, Usage, scan};
pub use sizes::{Budgeted, Over, Part, Sizes};
