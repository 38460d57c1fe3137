//! The same request again: what carries an `Idempotency-Key` is done once, and answered the same ever after.

use axum::http::HeaderMap;
use rusqlite::OptionalExtension;
use serde_json::Value;

use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;

/// Milliseconds for which an answer is kept.
const KEPT: i64 = 7 * 24 * 3600 * 1000;
const LONGEST_KEY: usize = 255;

/// What an answer was, refusal or not: a status and JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub status: u16,
    pub body: Value,
}

/// # Errors
/// 400: a key that can be none.
pub fn key(headers: &HeaderMap) -> Outcome<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=LONGEST_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::malformed(format!("`Idempotency-Key` has 1 to {LONGEST_KEY} ASCII characters"))),
    }
}

/// Does what was not done before. `digest`: of the request, apart from its key.
///
/// # Errors
/// 422: the key came with another request before. 5xx: nothing was done; the same request may come again.
pub fn once(
    work: &mut Work<'_>,
    key: &str,
    digest: &[u8],
    request: impl FnOnce(&mut Work<'_>) -> Outcome<Answered>,
) -> Outcome<Answered> {
    let before = work
        .connection
        .prepare_cached("SELECT digest, status, answer FROM requests WHERE key = ?")?
        .query_row([key], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u16>(1)?, row.get::<_, String>(2)?)))
        .optional()?;
    match before {
        Some((before, status, answer)) if before == digest => {
            return Ok(Answered { status, body: serde_json::from_str(&answer)? });
        }
        Some(_) => {
            return Err(Refusal::new(422, "idempotency-key-used", "another request came with this `Idempotency-Key`"));
        }
        None => {}
    }
    work.connection.prepare_cached("SAVEPOINT request")?.execute([])?;
    let changed = work.changed.len();
    let outcome = request(work);
    if outcome.is_err() {
        work.connection.prepare_cached("ROLLBACK TO request")?.execute([])?;
        work.changed.truncate(changed);
    }
    work.connection.prepare_cached("RELEASE request")?.execute([])?;
    let answered = match outcome {
        Ok(answered) => answered,
        Err(refusal) if refusal.status >= 500 => return Err(refusal),
        // Whoever asks again is told the same, although meanwhile it might be possible.
        Err(refusal) => Answered { status: refusal.status, body: serde_json::to_value(refusal.problem())? },
    };
    let now = work.now.as_millisecond();
    work.connection
        .prepare_cached("INSERT INTO requests (key, digest, status, answer, time) VALUES (?, ?, ?, ?, ?)")?
        .execute((key, digest, answered.status, answered.body.to_string(), now))?;
    work.connection.prepare_cached("DELETE FROM requests WHERE time < ?")?.execute([now - KEPT])?;
    Ok(answered)
}
