//! How a node came to where it is.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::deployer::refusal::Outcome;
use crate::deployer::store::Work;
use crate::provisioning::{Firmware, NodeEvent, NodeState, Stage};

/// One thing that happened to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Grows over all nodes.
    pub sequence: i64,
    /// RFC 3339.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// Absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeState>,
    pub to: NodeState,
    pub cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// By an administrator, before it came.
    Registered {
        class: String,
    },
    /// By the configuration.
    Configured {
        class: String,
    },
    PhonedHome {
        stage: Stage,
        firmware: Firmware,
        /// It was given a credential, and the ones before are dead.
        credential: bool,
    },
    Claimed {
        class: String,
    },
    ReinstallOrdered {
        class: String,
    },
    DesiredSystemChanged {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        system: Option<String>,
        generation: u64,
    },
    Reported {
        id: String,
        report: NodeEvent,
    },
    Retired,
}

pub(super) fn record(
    work: &Work<'_>,
    node: &str,
    from: Option<NodeState>,
    to: NodeState,
    cause: &Cause,
) -> Outcome<()> {
    work.connection
        .prepare_cached("INSERT INTO history (node, time, state_before, state_after, cause) VALUES (?, ?, ?, ?, ?)")?
        .execute((
            node,
            work.now.as_millisecond(),
            from.map(|state| super::record::text(&state)).transpose()?,
            super::record::text(&to)?,
            serde_json::to_string(cause)?,
        ))?;
    tracing::info!(node, from = ?from, to = ?to, ?cause, "node");
    Ok(())
}

pub(super) fn of_node(work: &Work<'_>, node: &str) -> Outcome<Vec<HistoryEntry>> {
    let mut statement = work.connection.prepare_cached(
        "SELECT sequence, time, state_before, state_after, cause FROM history WHERE node = ? ORDER BY sequence",
    )?;
    let mut rows = statement.query([node])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(HistoryEntry {
            sequence: row.get(0)?,
            time: super::record::timestamp(row.get(1)?),
            from: row.get::<_, Option<String>>(2)?.map(|state| super::record::from_text(&state)).transpose()?,
            to: super::record::from_text(&row.get::<_, String>(3)?)?,
            cause: serde_json::from_str(&row.get::<_, String>(4)?)?,
        });
    }
    Ok(entries)
}
