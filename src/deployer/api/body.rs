//! Bodies in and out, and the secret that a request carries.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::deployer::refusal::{Outcome, Refusal};
use crate::provisioning::VERSION;

/// Bytes. A machine with hundreds of disks fits.
const LARGEST: usize = 256 << 10;
const WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a token or a credential.
const LONGEST_SECRET: usize = 1024;

/// All of it.
///
/// # Errors
/// 413: too much. 408: it takes too long. 400: the connection broke.
pub async fn read(body: Body) -> Outcome<Bytes> {
    match tokio::time::timeout(WITHIN, Limited::new(body, LARGEST).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Refusal::new(413, "too-large", "the body is too large").detail(format!("at most {LARGEST} bytes")))
        }
        Ok(Err(_)) => Err(Refusal::malformed("the body ends before its end")),
        Err(_) => Err(Refusal::new(408, "too-slow", "the body took too long")),
    }
}

/// # Errors
/// 400: it is no such document, or of a version that is not known.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    /// Of every body.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    // What is wrong is told by place and kind; what was sent may hold anything and is not repeated.
    let wrong = |error: serde_json::Error| {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "it is JSON, but not what is expected here",
            serde_json::error::Category::Syntax => "it is no JSON",
            serde_json::error::Category::Eof | serde_json::error::Category::Io => "it ends before its end",
        };
        Refusal::malformed(format!("the body at line {} column {}: {kind}", error.line(), error.column()))
    };
    let version = serde_json::from_slice::<Versioned>(bytes).map_err(wrong)?.version;
    if version != VERSION {
        return Err(Refusal::new(400, "unsupported-version", "the body's version is not known")
            .detail(format!("it has {version}; this deployer knows {VERSION}")));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            // What is told to one is nobody else's.
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (status, headers, bytes).into_response()
        }
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// What stands after `Authorization: Bearer`.
///
/// # Errors
/// 400: the header is there and is something else.
pub fn bearer(headers: &HeaderMap) -> Outcome<Option<&str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || Refusal::malformed("the header `Authorization` has to be `Bearer` and a secret");
    let (scheme, secret) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    let secret = secret.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || secret.is_empty() || secret.len() > LONGEST_SECRET {
        return Err(malformed());
    }
    Ok(Some(secret))
}
