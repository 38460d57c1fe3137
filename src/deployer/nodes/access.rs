//! Who is asking: hashes of tokens and credentials, compared in constant time.

use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;

/// Of salt and secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

/// One pass suffices: what is hashed is random, or is refused for being short, and the salt is the database's own.
pub fn hash(salt: &[u8], secret: &str) -> Hash {
    Hash(Sha256::new().chain_update(salt).chain_update(secret.as_bytes()).finalize().into())
}

/// What a bearer's secret turned out to be.
pub(super) enum Bearer {
    Nobody,
    /// A node's credential.
    Node(String),
    Token(Token),
}

pub(super) struct Token {
    pub id: String,
    pub reusable: bool,
    /// Which node it is bound to.
    pub node: Option<String>,
}

/// The node that a credential belongs to.
pub fn node_of_credential(work: &Work<'_>, bearer: Option<Hash>) -> Outcome<String> {
    let Some(hash) = bearer else {
        return Err(Refusal::new(401, "credential-missing", "this needs the node's credential"));
    };
    credential(work, hash)?.ok_or_else(|| {
        Refusal::new(401, "credential-unknown", "no node has this credential")
            .detail("it was given up when the machine phoned home again, or when the node was retired")
    })
}

/// What was found by its hash, which tells nothing of it without the salt, is compared once more as one compares secrets.
fn credential(work: &Work<'_>, hash: Hash) -> Outcome<Option<String>> {
    let found = work
        .connection
        .prepare_cached("SELECT name, credential FROM nodes WHERE credential = ?")?
        .query_row([&hash.0[..]], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    Ok(found.filter(|(_, stored)| bool::from(stored[..].ct_eq(&hash.0))).map(|(name, _)| name))
}

/// Who phones home.
///
/// # Errors
/// A token that is not good, or not good any more.
pub(super) fn bearer(work: &Work<'_>, bearer: Option<Hash>) -> Outcome<Bearer> {
    let Some(hash) = bearer else { return Ok(Bearer::Nobody) };
    if let Some(node) = credential(work, hash)? {
        return Ok(Bearer::Node(node));
    }
    let found = work
        .connection
        .prepare_cached("SELECT id, hash, expires, reusable, node, spent, revoked FROM tokens WHERE hash = ?")?
        .query_row([&hash.0[..]], |row| {
            let token = Token { id: row.get(0)?, reusable: row.get(3)?, node: row.get(4)? };
            let (stored, expires): (Vec<u8>, i64) = (row.get(1)?, row.get(2)?);
            let (spent, revoked): (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
            Ok((token, stored, expires, spent, revoked))
        })
        .optional()?;
    let Some((token, stored, expires, spent, revoked)) = found else { return Err(unknown()) };
    if !bool::from(stored[..].ct_eq(&hash.0)) {
        return Err(unknown());
    }
    if revoked.is_some() {
        return Err(Refusal::new(401, "token-revoked", "this bootstrap token was revoked"));
    }
    if spent.is_some() {
        return Err(used("the node that it was for is installed"));
    }
    if expires <= work.now.as_millisecond() {
        return Err(Refusal::new(401, "token-expired", "this bootstrap token has expired"));
    }
    Ok(Bearer::Token(token))
}

fn unknown() -> Refusal {
    Refusal::new(401, "token-unknown", "there is no such bootstrap token")
}

fn used(detail: &str) -> Refusal {
    Refusal::new(401, "token-used", "this bootstrap token was used").detail(detail)
}

impl Token {
    /// Makes sure that it is this node's: it becomes so where it was nobody's.
    pub fn bind(&self, work: &Work<'_>, node: &str) -> Outcome<()> {
        match &self.node {
            Some(bound) if bound == node => Ok(()),
            Some(_) => Err(used("another machine came with it first")),
            None if self.reusable => Ok(()),
            None => {
                work.connection
                    .prepare_cached("UPDATE tokens SET node = ?1 WHERE id = ?2")?
                    .execute([node, &self.id])?;
                Ok(())
            }
        }
    }
}
