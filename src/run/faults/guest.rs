//! Faults that the agent causes in its guest.

use tokio::io::AsyncReadExt;

use crate::channel::{AgentChannel, ExecRequest, Execution, ExitStatus};
use crate::event::FailureReason;
use crate::run::steps::StepEnd;

/// More than it ever has to say.
const ANSWER_LIMIT: usize = 64 << 10;

fn request(words: &[&str]) -> ExecRequest {
    let argv = ["bootproof-agent", "disturb"].iter().chain(words).map(|word| word.to_string()).collect();
    ExecRequest { argv, ..ExecRequest::default() }
}

/// Has it done; gives what it printed.
pub(super) async fn run(channel: &AgentChannel, words: &[&str]) -> Result<String, StepEnd> {
    let output = channel.exec(request(words)).await?.output(ANSWER_LIMIT).await?;
    match output.status {
        ExitStatus::Code(0) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        ExitStatus::Code(_) | ExitStatus::Signal(_) => Err(refused(&output.stderr)),
    }
}

/// Has it begun something that lasts as long as the answer lives.
pub(super) async fn hold(channel: &AgentChannel, words: &[&str]) -> Result<Execution, StepEnd> {
    let mut execution = channel.exec(request(words)).await?;
    let mut said = Vec::new();
    if let Some(stdout) = &mut execution.stdout {
        let mut byte = [0];
        while said.len() < ANSWER_LIMIT && stdout.read(&mut byte).await.unwrap_or(0) == 1 && byte[0] != b'\n' {
            said.push(byte[0]);
        }
    }
    if said.starts_with(b"held") {
        return Ok(execution);
    }
    let output = execution.output(ANSWER_LIMIT).await?;
    Err(refused(&output.stderr))
}

fn refused(stderr: &[u8]) -> StepEnd {
    let said = String::from_utf8_lossy(stderr);
    let said = said.trim().trim_start_matches("bootproof-agent: ");
    let said = if said.is_empty() { "it ended without a word" } else { said };
    StepEnd::Failed(FailureReason::Refused, format!("the agent could not cause the fault: {said}"))
}
