//! Tables, and how a database is opened.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::{Context, Error, Result};

/// Of the database; a newer one is refused.
pub const SCHEMA_VERSION: u32 = 1;

/// The file's name in the state folder.
pub(in crate::deployer) const DATABASE: &str = "deployer.sqlite";

/// `bpdp`, so that another program's database is not taken for ours.
const APPLICATION_ID: u32 = 0x6270_6470;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    installation TEXT NOT NULL,
    stage TEXT,
    class TEXT,
    node_id TEXT,
    serial TEXT,
    uuid TEXT,
    firmware TEXT,
    hostname TEXT,
    number INTEGER,
    disks TEXT NOT NULL DEFAULT '[]',
    memory INTEGER NOT NULL DEFAULT 0,
    agent_version TEXT NOT NULL DEFAULT '',
    credential BLOB UNIQUE,
    desired_system TEXT,
    desired_by_class INTEGER NOT NULL DEFAULT 1,
    desired_definition TEXT,
    generation INTEGER NOT NULL DEFAULT 0,
    active_system TEXT,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    seen INTEGER
) STRICT;
CREATE INDEX nodes_by_node_id ON nodes (node_id);
CREATE INDEX nodes_by_serial ON nodes (serial);
CREATE INDEX nodes_by_class ON nodes (class, number);
CREATE TABLE macs (
    node TEXT NOT NULL REFERENCES nodes (name),
    mac TEXT NOT NULL,
    PRIMARY KEY (node, mac)
) STRICT, WITHOUT ROWID;
CREATE INDEX macs_by_mac ON macs (mac);
CREATE TABLE history (
    sequence INTEGER PRIMARY KEY,
    node TEXT NOT NULL REFERENCES nodes (name),
    time INTEGER NOT NULL,
    state_before TEXT,
    state_after TEXT NOT NULL,
    cause TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_node ON history (node, sequence);
CREATE TABLE reports (
    node TEXT NOT NULL REFERENCES nodes (name),
    id TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (node, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    reusable INTEGER NOT NULL,
    node TEXT REFERENCES nodes (name),
    spent INTEGER,
    revoked INTEGER
) STRICT;
CREATE INDEX tokens_by_node ON tokens (node);
CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests (time);
";

/// Opens a database, and makes one where there is none.
///
/// # Errors
/// Blocked: it is damaged, another program's, or newer than this program.
pub(in crate::deployer) fn open(path: &Path) -> Result<Connection> {
    let failed = || format!("failed to open the deployer's database `{}`", path.display());
    let connection = Connection::open(path).infrastructure(failed)?;
    let version = check(&connection, path)?;
    let prepare = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(128);
        if version == 0 {
            let mut salt = [0; 32];
            crate::secret::random(&mut salt).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let transaction = connection.unchecked_transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.execute("INSERT INTO meta VALUES ('salt', ?)", [&salt[..]])?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        }
        Ok(())
    };
    prepare().infrastructure(failed)?;
    Ok(connection)
}

/// Opens one that is there, only to read it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    let failed = || format!("failed to open the deployer's database `{}`", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).infrastructure(failed)?;
    if check(&connection, path)? == 0 {
        return Err(Error::blocked(failed()).with_source("it is empty"));
    }
    Ok(connection)
}

/// Whether it is whole and ours; gives its version, 0 where nothing is in it.
fn check(connection: &Connection, path: &Path) -> Result<u32> {
    let damaged = |source: String| {
        Error::blocked(format!("the deployer's database `{}` is damaged", path.display())).with_source(source).hint(
            "move it away with its `-wal` and `-shm`, and put a backup in its place: `bootproof deployer restore`",
        )
    };
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let version = number("user_version").map_err(|error| damaged(error.to_string()))?;
    let application = number("application_id").map_err(|error| damaged(error.to_string()))?;
    if version > SCHEMA_VERSION {
        return Err(Error::blocked(format!("the deployer's database `{}` has version {version}", path.display()))
            .with_source(format!("this program knows version {SCHEMA_VERSION} and none after it"))
            .hint("use the bootproof that wrote it, or a newer one"));
    }
    let found = connection
        .pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0))
        .map_err(|error| damaged(error.to_string()))?;
    if found != "ok" {
        return Err(damaged(found));
    }
    let tables: u32 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| damaged(error.to_string()))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(Error::blocked(format!("`{}` is not a deployer's database", path.display()))
            .hint("give the deployer a state folder of its own"));
    }
    if tables > 0 && version == 0 {
        return Err(damaged("it has tables but no version".into()));
    }
    Ok(version)
}
