//! A cluster's state, as the flake's `lib.mkCluster` renders it: one source for the deployer, the lanes and the nodes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::document::ConfigurationDocument;
use crate::error::{Context, Error, Result};

/// The newest format that this version reads.
const CLUSTER_VERSION: u32 = 1;

/// The state of a cluster, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// Always 1.
    pub version: u32,
    pub name: String,
    /// The network that the nodes' addresses are in: `10.20.0.0/24`.
    pub subnet: String,
    pub nodes: BTreeMap<String, ClusterNode>,
    /// What the deployer has to know: install plans, desired systems, and by what each node is recognised.
    pub deployer: ConfigurationDocument,
}

/// A node, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    pub role: ClusterRole,
    #[schemars(with = "String")]
    pub address: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterRole {
    ControlPlane,
    Worker,
    /// Only asks the others.
    Client,
}

impl ClusterState {
    /// Reads JSON. `name`: of the file, for errors.
    ///
    /// # Errors
    /// Usage: what is no such document, with its place.
    pub fn parse(text: &str, name: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let said = || format!("failed to understand the cluster's state `{}`", name.display());
        let Versioned { version } = serde_json::from_str(text).usage(said)?;
        if version != CLUSTER_VERSION {
            return Err(Error::usage(said())
                .with_source(format!("`version` is {version}: this program reads version {CLUSTER_VERSION}")));
        }
        serde_json::from_str(text).usage(said)
    }

    /// The JSON Schema of the document.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = r#"{"version":1,"name":"demo","subnet":"10.20.0.0/24",
        "nodes":{"node01":{"role":"control-plane","address":"10.20.0.11"}},
        "deployer":{"version":1,"nodes":{"node01":{"class":"control-plane","match":{"serial":"node01"}}}}}"#;

    #[test]
    fn the_checked_in_schema_is_the_one_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/cluster-state.schema.json");
        let generated = String::from_utf8(crate::report::json::bytes(&ClusterState::schema()).unwrap()).unwrap();
        if std::env::var_os("BOOTPROOF_UPDATE_SCHEMAS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let checked_in = std::fs::read_to_string(path).unwrap();
        assert!(checked_in == generated, "run this test with BOOTPROOF_UPDATE_SCHEMAS=1 and look at the difference");
    }

    #[test]
    fn a_state_is_read_and_what_is_none_is_told() {
        let parse = |text: &str| ClusterState::parse(text, Path::new("cluster.json"));
        let state = parse(DEMO).unwrap();
        assert_eq!(state.nodes["node01"].role, ClusterRole::ControlPlane);
        assert_eq!(state.deployer.nodes["node01"].matches.serial.as_deref(), Some("node01"));
        for (from, to, said) in [
            ("\"version\":1,\"name\"", "\"version\":7,\"name\"", "this program reads version 1"),
            ("control-plane\",\"address", "boss\",\"address", "unknown variant `boss`"),
            ("10.20.0.11", "10.20.0.300", "invalid IPv4 address"),
            ("\"subnet\"", "\"colour\"", "unknown field `colour`"),
        ] {
            let error = parse(&DEMO.replace(from, to)).unwrap_err().chain();
            assert!(error.contains(said), "{error}");
        }
    }
}
