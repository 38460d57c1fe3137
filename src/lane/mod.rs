//! Lanes and profiles: reading their files, saying all that is wrong with them, and giving the normalised form.
//!
//! A file's text becomes a tree whose values know their places (`syntax`, `tree`); overrides and controls change the tree
//! (`overrides`); the typed document is read from it (`reader`, `document`) and checked and completed (`normalise`).
//!
//! What always holds: reading executes nothing and, but for `load` and `catalog`, touches no file system; a `Lane` that
//! was given here is valid, and so is each of its controls; the same checks hold for the file, `--set` and controls.

mod await_document;
mod catalog;
mod channel_document;
mod deployer_document;
mod disturbance_document;
mod document;
mod file;
mod load;
pub mod model;
mod normalise;
mod overrides;
mod problem;
mod profile;
mod reader;
mod schema;
mod syntax;
mod tree;
pub mod units;

pub use catalog::{Catalog, CatalogLane};
pub use file::LaneFile;
pub(crate) use file::read_document;
pub use load::{load, open};
pub use model::Lane;
pub use normalise::all_steps;
pub use problem::nearest;
pub(crate) use problem::{Position, Problem, Sources};
pub(crate) use profile::ProfileFile;
pub use profile::{ArchivedHelper, Component, NixEntryPoints, Profile};
pub(crate) use reader::Spanned;
pub use schema::{lane_schema, profile_schema};
pub use syntax::Format;
