//! A node as the database keeps it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::history::{self, Cause, HistoryEntry};
use crate::deployer::progress::{Happening, Impossible, Installation, Position};
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;
use crate::provisioning::{DesiredSystem, Disk, Firmware, Identity, NodeState, Stage};

/// A node, without what is long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    pub node: String,
    pub state: NodeState,
    /// Absent while it is not known what it shall become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    pub identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The system that it shall run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_system: Option<String>,
    /// Grows with every change of the desired system.
    pub generation: u64,
    /// The system that it said to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_system: Option<String>,
    /// RFC 3339.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// When something last happened to it.
    #[schemars(with = "String")]
    pub changed: Timestamp,
    /// When it last phoned home or reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub seen: Option<Timestamp>,
}

/// A node with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDetail {
    pub version: u32,
    pub node: NodeStatus,
    pub disks: Vec<Disk>,
    /// Bytes.
    pub memory: u64,
    pub agent_version: String,
    /// In its order: what led to the state.
    pub history: Vec<HistoryEntry>,
}

pub(super) struct Node {
    pub status: NodeStatus,
    pub installation: Installation,
    pub stage: Option<Stage>,
    pub number: Option<u32>,
    pub disks: Vec<Disk>,
    pub memory: u64,
    pub agent_version: String,
    pub credential: Option<Vec<u8>>,
    /// It shall run what its class says.
    pub desired_by_class: bool,
    pub desired_definition: Option<DesiredSystem>,
}

/// An enumeration's value by its name.
pub(super) fn text<T: Serialize>(value: &T) -> Outcome<String> {
    match serde_json::to_value(value)? {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(Refusal::storage()),
    }
}

pub(super) fn from_text<T: DeserializeOwned>(text: &str) -> Outcome<T> {
    Ok(serde_json::from_value(serde_json::Value::String(text.to_owned()))?)
}

pub(super) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

const COLUMNS: &str = "name, state, installation, stage, class, node_id, serial, uuid, firmware, hostname, number, disks, \
     memory, agent_version, credential, desired_system, desired_by_class, desired_definition, generation, \
     active_system, created, changed, seen";

impl Node {
    pub fn new(name: &str, identity: Identity, now: Timestamp) -> Self {
        Self {
            status: NodeStatus {
                node: name.into(),
                state: NodeState::Discovered,
                class: None,
                hostname: None,
                identity,
                firmware: None,
                desired_system: None,
                generation: 0,
                active_system: None,
                created: now,
                changed: now,
                seen: None,
            },
            installation: Installation::NotBegun,
            stage: None,
            number: None,
            disks: Vec::new(),
            memory: 0,
            agent_version: String::new(),
            credential: None,
            desired_by_class: true,
            desired_definition: None,
        }
    }

    pub fn load(connection: &Connection, name: &str) -> Outcome<Option<Self>> {
        let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM nodes WHERE name = ?"))?;
        let mut rows = statement.query([name])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut node = Self::of_row(row)?;
        node.status.identity.macs = connection
            .prepare_cached("SELECT mac FROM macs WHERE node = ? ORDER BY mac")?
            .query_map([name], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some(node))
    }

    /// # Errors
    /// There is none.
    pub fn get(work: &Work<'_>, name: &str) -> Outcome<Self> {
        Self::load(work.connection, name)?.ok_or_else(|| Refusal::unknown_node(name))
    }

    fn of_row(row: &Row<'_>) -> Outcome<Self> {
        let optional = |name: &str| row.get::<_, Option<String>>(name);
        Ok(Self {
            status: NodeStatus {
                node: row.get("name")?,
                state: from_text(&row.get::<_, String>("state")?)?,
                class: optional("class")?,
                hostname: optional("hostname")?,
                identity: Identity {
                    node_id: optional("node_id")?,
                    serial: optional("serial")?,
                    uuid: optional("uuid")?,
                    macs: Vec::new(),
                },
                firmware: optional("firmware")?.map(|text| from_text(&text)).transpose()?,
                desired_system: optional("desired_system")?,
                generation: row.get::<_, i64>("generation")? as u64,
                active_system: optional("active_system")?,
                created: timestamp(row.get("created")?),
                changed: timestamp(row.get("changed")?),
                seen: row.get::<_, Option<i64>>("seen")?.map(timestamp),
            },
            installation: from_text(&row.get::<_, String>("installation")?)?,
            stage: optional("stage")?.map(|text| from_text(&text)).transpose()?,
            number: row.get("number")?,
            disks: serde_json::from_str(&row.get::<_, String>("disks")?)?,
            memory: row.get::<_, i64>("memory")? as u64,
            agent_version: row.get("agent_version")?,
            credential: row.get("credential")?,
            desired_by_class: row.get("desired_by_class")?,
            desired_definition: optional("desired_definition")?.map(|text| serde_json::from_str(&text)).transpose()?,
        })
    }

    /// Writes all of it, and lets whoever waits for it know.
    pub fn save(&self, work: &mut Work<'_>) -> Outcome<()> {
        let status = &self.status;
        let assignments: Vec<String> =
            COLUMNS.split(", ").skip(1).map(|column| format!("{0} = excluded.{0}", column.trim())).collect();
        let sql = format!(
            "INSERT INTO nodes ({COLUMNS}) VALUES ({}) ON CONFLICT (name) DO UPDATE SET {}",
            vec!["?"; COLUMNS.split(", ").count()].join(", "),
            assignments.join(", ")
        );
        work.connection.prepare_cached(&sql)?.execute(rusqlite::params![
            status.node,
            text(&status.state)?,
            text(&self.installation)?,
            self.stage.map(|stage| text(&stage)).transpose()?,
            status.class,
            status.identity.node_id,
            status.identity.serial,
            status.identity.uuid,
            status.firmware.map(|firmware| text(&firmware)).transpose()?,
            status.hostname,
            self.number,
            serde_json::to_string(&self.disks)?,
            self.memory as i64,
            self.agent_version,
            self.credential,
            status.desired_system,
            self.desired_by_class,
            self.desired_definition.as_ref().map(serde_json::to_string).transpose()?,
            status.generation as i64,
            status.active_system,
            status.created.as_millisecond(),
            status.changed.as_millisecond(),
            status.seen.map(|time| time.as_millisecond()),
        ])?;
        let mut add = work.connection.prepare_cached("INSERT OR IGNORE INTO macs (node, mac) VALUES (?, ?)")?;
        for mac in &status.identity.macs {
            add.execute([&status.node, mac])?;
        }
        drop(add);
        work.changed.push(status.node.clone());
        Ok(())
    }

    pub fn position(&self) -> Position {
        Position { state: self.status.state, installation: self.installation, stage: self.stage }
    }

    /// Moves it on, where that is possible.
    pub fn follow(&mut self, happening: Happening<'_>) -> Outcome<()> {
        let before = self.status.state;
        let after =
            self.position().after(happening, self.status.desired_system.as_deref()).map_err(|why| match why {
                Impossible::Transition => Refusal::new(
                    409,
                    "impossible-transition",
                    "this cannot happen to the node now",
                )
                .detail(format!("`{}` is {}", self.status.node, shown(before))),
                Impossible::AlreadyInstalled => Refusal::new(409, "already-installed", "the node is installed")
                    .detail(format!("`{}` is not installed again unless it is told so: `reinstall`", self.status.node)),
                Impossible::Retired => Refusal::new(403, "node-retired", "the node is retired")
                    .detail(format!("`{}` can be claimed anew", self.status.node)),
            })?;
        self.status.state = after.state;
        self.installation = after.installation;
        self.stage = after.stage;
        Ok(())
    }

    /// Writes it, with what brought it there.
    pub fn save_with(&mut self, work: &mut Work<'_>, from: Option<NodeState>, cause: &Cause) -> Outcome<()> {
        self.status.changed = work.now;
        self.save(work)?;
        history::record(work, &self.status.node, from, self.status.state, cause)
    }
}

fn shown(state: NodeState) -> String {
    format!("{state:?}").to_lowercase()
}

/// Names, in their order.
pub(super) fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare_cached("SELECT name FROM nodes ORDER BY name")?.query_map([], |row| row.get(0))?.collect()
}

pub fn status(connection: &Connection, name: &str) -> rusqlite::Result<Option<NodeStatus>> {
    match Node::load(connection, name) {
        Ok(node) => Ok(node.map(|node| node.status)),
        // What went wrong is in the log.
        Err(_) => {
            connection.query_row("SELECT 1 FROM nodes WHERE name = ?", [name], |_| Ok(())).optional().map(|_| None)
        }
    }
}

pub fn all_statuses(connection: &Connection) -> Outcome<Vec<NodeStatus>> {
    let mut statuses = Vec::new();
    for name in names(connection)? {
        statuses.extend(Node::load(connection, &name)?.map(|node| node.status));
    }
    Ok(statuses)
}
