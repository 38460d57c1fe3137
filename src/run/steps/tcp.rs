//! `tcp`: one connection to an address of the guest, or of a machine in a network.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Origin;
use super::{StepContext, StepEnd, StepResult, check};
use crate::channel::ChannelError;
use crate::event::FailureReason;
use crate::lane::model::TextCheck;

/// A response beyond this is not read.
const RESPONSE_LIMIT: usize = 1 << 20;

/// Being connected is enough where nothing is said about the response; else it is read until it fits or ends.
pub async fn tcp(
    context: &StepContext,
    index: usize,
    address: &str,
    send: Option<&str>,
    response: &TextCheck,
    origin: Origin<'_>,
) -> StepResult {
    let mut stream = origin.dial(context, address).await?;
    if let Some(text) = send {
        stream.write_all(context.fill(text)?.as_bytes()).await.map_err(|error| lost(address, &error))?;
        stream.flush().await.map_err(|error| lost(address, &error))?;
    }
    if *response == TextCheck::default() {
        return Ok(());
    }
    let mut received = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    let verdict = loop {
        let count = stream.read(&mut chunk).await.map_err(|error| lost(address, &error))?;
        received.extend_from_slice(&chunk[..count]);
        let verdict = check::text("the response", response, &context.secrets.redact_bytes(&received));
        // Not yet what it must be: more may come.
        if verdict.is_ok() || count == 0 || received.len() > RESPONSE_LIMIT {
            break verdict;
        }
    };
    context.keep_output(&origin.response_file(index), &received)?;
    Ok(verdict?)
}

pub(super) fn lost(address: &str, error: &std::io::Error) -> StepEnd {
    match ChannelError::from_io(error) {
        Some(error @ (ChannelError::Lost { .. } | ChannelError::Closed { .. })) => error.clone().into(),
        _ => StepEnd::Failed(FailureReason::Refused, format!("the connection to `{address}` failed: {error}")),
    }
}
