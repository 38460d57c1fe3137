//! `host`: a command on the host.

use std::time::Instant;

use super::check::command_outcome;
use super::{StepContext, StepResult, report_command};
use crate::event::{FailureReason, Kind};
use crate::lane::model::Command;
use crate::run::host_command::{self, HostCommand, HostOutput};

/// Among the words of a command: the bootproof that runs the lane.
const PROGRAM: &str = "${program}";

fn this_program() -> Result<String, super::StepEnd> {
    let unknown =
        |why: String| super::StepEnd::Failed(FailureReason::Harness, format!("failed to find this program: {why}"));
    let path = std::env::current_exe().map_err(|error| unknown(error.to_string()))?;
    path.into_os_string().into_string().map_err(|path| unknown(format!("`{}` is no text", path.display())))
}

pub async fn host(context: &StepContext, index: usize, command: &Command) -> StepResult {
    let stdin = context.fill(command.stdin.as_deref().unwrap_or_default())?.into_bytes();
    let output = run(context, index, command, stdin).await?;
    let (stdout, stderr) = (context.secrets.redact_bytes(&output.stdout), context.secrets.redact_bytes(&output.stderr));
    Ok(command_outcome(command, &output.status, &stdout, &stderr)?)
}

/// Runs it where the lane lies, keeps its output below `artifacts/host/`, and reports it.
pub async fn run(
    context: &StepContext,
    index: usize,
    command: &Command,
    stdin: Vec<u8>,
) -> Result<HostOutput, super::StepEnd> {
    let began = Instant::now();
    let mut argv = context.fill_all(&command.argv)?;
    for word in argv.iter_mut().filter(|word| *word == PROGRAM) {
        *word = this_program()?;
    }
    let mut environment: Vec<_> = context.fill_environment(&command.environment)?.into_iter().collect();
    if let Some(proxy) = context.faults.networks.proxy() {
        environment.push(("BOOTPROOF_PROXY".into(), proxy));
    }
    let host = HostCommand { argv: &argv, environment, stdin, directory: &context.lane_directory };
    let output = host_command::run(host).await?;
    let stdout = context.keep_output(&format!("artifacts/host/{index}.stdout"), &output.stdout)?;
    let stderr = context.keep_output(&format!("artifacts/host/{index}.stderr"), &output.stderr)?;
    let finished = Kind::CommandFinished {
        index,
        argv: command.argv.clone(),
        status: output.status.code(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout,
        stderr,
    };
    report_command(&context.reporter.correlated(format!("step:{index}")), None, finished);
    Ok(output)
}
