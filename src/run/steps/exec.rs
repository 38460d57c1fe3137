//! `exec`: a command in the guest.

use std::time::Instant;

use tokio::io::AsyncWriteExt;

use super::check::{ExitStatus, command_outcome};
use super::{RunningMachine, StepContext, StepResult, report_command};
use crate::channel::{self, ExecRequest};
use crate::event::Kind;
use crate::lane::model::Command;

/// What is kept of each of a command's outputs.
const OUTPUT_LIMIT: usize = 16 << 20;

pub async fn exec(context: &StepContext, index: usize, command: &Command, machine: &RunningMachine) -> StepResult {
    let began = Instant::now();
    let channel = context.channel(machine).await?;
    let request = ExecRequest {
        argv: context.fill_all(&command.argv)?,
        environment: context.fill_environment(&command.environment)?,
        directory: None,
        stdin: command.stdin.is_some(),
        terminal: None,
    };
    let mut execution = channel.exec(request).await?;
    let stdin = execution.stdin.take();
    let feed = async {
        if let (Some(mut stdin), Some(text)) = (stdin, &command.stdin) {
            let text = context.fill(text)?;
            // A command need not read what it is given.
            let _ = stdin.write_all(text.as_bytes()).await;
            let _ = stdin.shutdown().await;
        }
        Ok::<(), super::StepEnd>(())
    };
    let (fed, output) = tokio::join!(feed, execution.output(OUTPUT_LIMIT));
    fed?;
    let output = output?;
    let status = match output.status {
        channel::ExitStatus::Code(code) => ExitStatus::Code(code),
        channel::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
    };
    let name = machine.state.name();
    let stdout = context.keep_output(&format!("machines/{name}/commands/{index}.stdout"), &output.stdout)?;
    let stderr = context.keep_output(&format!("machines/{name}/commands/{index}.stderr"), &output.stderr)?;
    let finished = Kind::CommandFinished {
        index,
        argv: command.argv.clone(),
        status: status.code(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout,
        stderr,
    };
    let reporter = machine.state.reporter().correlated(format!("step:{index}"));
    report_command(&reporter, Some(machine.state.epoch()), finished);
    let (stdout, stderr) = (context.secrets.redact_bytes(&output.stdout), context.secrets.redact_bytes(&output.stderr));
    Ok(command_outcome(command, &status, &stdout, &stderr)?)
}
