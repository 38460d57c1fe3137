//! `http`: one request to an address of the guest, or of a machine in a network.

use std::collections::BTreeMap;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

use super::dial::Origin;
use super::{StepContext, StepEnd, StepResult, check};
use crate::event::FailureReason;
use crate::lane::model::TextCheck;

/// A body beyond this is refused.
const BODY_LIMIT: usize = 16 << 20;

pub struct Request<'a> {
    pub url: &'a str,
    pub method: &'a str,
    pub headers: &'a BTreeMap<String, String>,
    pub body: Option<&'a str>,
}

pub async fn http(
    context: &StepContext,
    index: usize,
    request: Request<'_>,
    status: u16,
    response: &TextCheck,
    origin: Origin<'_>,
) -> StepResult {
    let url = request.url;
    let failed = |what: String| StepEnd::Failed(FailureReason::Refused, format!("`{url}`: {what}"));
    let wrong = |error: &dyn std::fmt::Display| {
        StepEnd::Failed(FailureReason::Harness, format!("`{url}` makes no request: {error}"))
    };
    let uri: hyper::Uri = context.fill(url)?.parse().map_err(|error| wrong(&error))?;
    let host = uri.host().ok_or_else(|| wrong(&"it has no host"))?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let body = context.fill(request.body.unwrap_or_default())?;
    let mut message = hyper::Request::builder()
        .method(request.method)
        .uri(path)
        .header(hyper::header::HOST, format!("{host}:{port}"));
    for (name, value) in request.headers {
        message = message.header(name, context.fill(value)?);
    }
    let message = message.body(Full::new(Bytes::from(body))).map_err(|error| wrong(&error))?;

    let stream = origin.dial(context, &format!("{host}:{port}")).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(message).await.map_err(|error| failed(error.to_string()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| failed(error.to_string()))?;
        Ok::<_, StepEnd>((head, body.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    let (head, body) = tokio::select! {
        answer = &mut exchange => answer?,
        ended = &mut connection => {
            ended.map_err(|error| failed(error.to_string()))?;
            exchange.await?
        }
    };
    context.keep_output(&origin.response_file(index), &body)?;
    if head.status.as_u16() != status {
        let message = format!("`{url}` answered {} instead of {status}", head.status);
        return Err(StepEnd::Failed(FailureReason::OutputMismatch, message));
    }
    Ok(check::text("the response", response, &context.secrets.redact_bytes(&body))?)
}
