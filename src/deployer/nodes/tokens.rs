//! Bootstrap tokens.

use jiff::Timestamp;
use rusqlite::OptionalExtension;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::access::Hash;
use super::record::{Node, timestamp};
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;

/// A token, without its value, which nobody has but whoever it was given to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenStatus {
    pub id: String,
    /// RFC 3339.
    #[schemars(with = "String")]
    pub created: Timestamp,
    #[schemars(with = "String")]
    pub expires: Timestamp,
    /// Good for many machines; else for the first that comes with it.
    pub reusable: bool,
    /// The node that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When the node was installed: since then it is good for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub spent: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub revoked: Option<Timestamp>,
}

pub struct TokenRequest {
    pub id: String,
    pub hash: Hash,
    pub expires: Timestamp,
    pub reusable: bool,
    /// Bound to a node from the beginning.
    pub node: Option<String>,
}

pub fn create_token(work: &mut Work<'_>, request: &TokenRequest) -> Outcome<TokenStatus> {
    if request.reusable && request.node.is_some() {
        return Err(Refusal::malformed("a token for one node cannot be `reusable`"));
    }
    if let Some(node) = &request.node {
        Node::get(work, node)?;
    }
    let taken: bool = work
        .connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM tokens WHERE hash = ?)")?
        .query_row([&request.hash.0[..]], |row| row.get(0))?;
    if taken {
        return Err(Refusal::new(409, "token-exists", "there is such a token already"));
    }
    work.connection
        .prepare_cached("INSERT INTO tokens (id, hash, created, expires, reusable, node) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute((
            &request.id,
            &request.hash.0[..],
            work.now.as_millisecond(),
            request.expires.as_millisecond(),
            request.reusable,
            &request.node,
        ))?;
    let tokens = list_tokens(work)?;
    tokens.into_iter().find(|token| token.id == request.id).ok_or_else(Refusal::storage)
}

/// Newest last.
pub fn list_tokens(work: &Work<'_>) -> Outcome<Vec<TokenStatus>> {
    let sql = "SELECT id, created, expires, reusable, node, spent, revoked FROM tokens ORDER BY created, id";
    let mut statement = work.connection.prepare_cached(sql)?;
    let tokens = statement.query_map([], |row| {
        Ok(TokenStatus {
            id: row.get(0)?,
            created: timestamp(row.get(1)?),
            expires: timestamp(row.get(2)?),
            reusable: row.get(3)?,
            node: row.get(4)?,
            spent: row.get::<_, Option<i64>>(5)?.map(timestamp),
            revoked: row.get::<_, Option<i64>>(6)?.map(timestamp),
        })
    })?;
    Ok(tokens.collect::<rusqlite::Result<_>>()?)
}

/// Makes a token good for nothing. One that is revoked stays so.
pub fn revoke_token(work: &mut Work<'_>, id: &str) -> Outcome<()> {
    let found = work
        .connection
        .prepare_cached("UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?")?
        .execute((work.now.as_millisecond(), id))?;
    if found == 0 {
        return Err(Refusal::new(404, "unknown-token", "there is no such token").detail(format!("`{id}`")));
    }
    Ok(())
}

/// Whether a token has this hash.
pub fn is_token(work: &Work<'_>, id: &str, hash: Hash) -> Outcome<bool> {
    let stored: Option<Vec<u8>> = work
        .connection
        .prepare_cached("SELECT hash FROM tokens WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(stored.is_some_and(|stored| bool::from(stored[..].ct_eq(&hash.0))))
}
