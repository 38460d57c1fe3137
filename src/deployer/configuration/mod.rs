//! What the deployer is told: classes of nodes, systems that they shall run, nodes that are known beforehand.
//!
//! `document` is what is written (TOML, or a table of a lane), `resolved` what follows from it once every file was read:
//! nothing that the deployer promises later can turn out not to be there. Errors name the key and its value.

mod cluster;
mod document;
mod resolved;

pub use cluster::{ClusterNode, ClusterRole, ClusterState};
pub use document::{
    ClassDocument, ConfigurationDocument, DiskDocument, HealthCheckDocument, LayoutDocument, MatchDocument,
    NetbootDocument, NodeDocument, PartitionDocument, SystemDocument, TlsDocument, TokensDocument,
};
pub use resolved::{Class, Configuration, ConfiguredNode, Netboot};
pub(super) use resolved::{fill_pattern, valid_hostname, valid_name, wrong};
