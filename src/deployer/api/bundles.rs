//! Bundles, whole or in part, read as they are sent.

use std::io::SeekFrom;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::node::bearer;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::service::Deployer;

/// Bytes that are read at once, and held for a connection.
const PIECE: usize = 128 << 10;

/// Any node may fetch any bundle of the configuration.
pub async fn download(
    State(deployer): State<Deployer>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Outcome<Response> {
    let bearer = bearer(&deployer, &headers)?;
    deployer.node_of(bearer).await?;
    let Some(bundle) = deployer.0.rules.configuration.bundles.get(&digest) else {
        return Err(Refusal::new(404, "unknown-bundle", "there is no such bundle"));
    };
    let unreadable = |error: std::io::Error| {
        tracing::error!(%error, path = %bundle.path.display(), "failed to read a bundle");
        Refusal::new(503, "bundle-unreadable", "the bundle cannot be read")
    };
    let mut file = tokio::fs::File::open(&bundle.path).await.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    if !bundle.is_unchanged(&metadata) {
        tracing::error!(path = %bundle.path.display(), "a bundle was changed since the deployer started");
        return Err(Refusal::new(503, "bundle-changed", "the bundle is not what it was")
            .detail("its file was changed since the deployer started"));
    }
    let size = bundle.size;
    let tag = format!("\"{digest}\"");
    let wanted = match headers.get(header::IF_RANGE) {
        Some(condition) if condition.as_bytes() != tag.as_bytes() => Wanted::Whole,
        _ => wanted(headers.get(header::RANGE), size),
    };
    let (status, first, length, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0, size, None),
        Wanted::Part { first, last } => {
            let range = format!("bytes {first}-{last}/{size}");
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1, Some(range))
        }
        Wanted::Nothing => {
            let refusal = Refusal::new(416, "no-such-range", "the bundle does not have this range")
                .detail(format!("it has {size} bytes"));
            let mut response = refusal.into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    if first > 0 {
        file.seek(SeekFrom::Start(first)).await.map_err(unreadable)?;
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE));
    let mut response = (status, body).into_response();
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(&mut response, header::ETAG, &tag);
    if let Some(range) = range {
        set(&mut response, header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

pub(super) fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    // All of ours can stand in a header.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// Both included.
    Part {
        first: u64,
        last: u64,
    },
    Nothing,
}

/// By RFC 9110: what is no range, of other units or several is answered with the whole.
fn wanted(header: Option<&HeaderValue>, size: u64) -> Wanted {
    let text = header.and_then(|value| value.to_str().ok()).and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = text.and_then(|text| text.split_once('-')) else { return Wanted::Whole };
    let number = |text: &str| {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            None => Wanted::Whole,
            Some(count) if count == 0 || size == 0 => Wanted::Nothing,
            Some(count) => Wanted::Part { first: size.saturating_sub(count), last: size - 1 },
        },
        (first, "") => match number(first) {
            None => Wanted::Whole,
            Some(first) if first >= size => Wanted::Nothing,
            Some(first) => Wanted::Part { first, last: size - 1 },
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Wanted::Whole,
            (Some(first), Some(_)) if first >= size => Wanted::Nothing,
            (Some(first), Some(last)) => Wanted::Part { first, last: last.min(size - 1) },
            _ => Wanted::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        let of = |text: &str| wanted(Some(&HeaderValue::from_str(text).unwrap()), 100);
        let part = |first, last| Wanted::Part { first, last };
        for (text, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=10-19", part(10, 19)),
            ("bytes=90-", part(90, 99)),
            ("bytes=90-1000", part(90, 99)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=0-99999999999999999999999", part(0, 99)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
        assert_eq!(wanted(Some(&HeaderValue::from_static("bytes=0-")), 0), Wanted::Nothing);
        assert_eq!(wanted(Some(&HeaderValue::from_static("bytes=-5")), 0), Wanted::Nothing);
    }
}
