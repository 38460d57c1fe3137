//! `script`: any executable; context as JSON on standard input, result as JSON on standard output.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::check::command_outcome;
use super::{StepContext, StepEnd, StepResult, host};
use crate::event::FailureReason;
use crate::lane::model::{Command, Step};

/// What a script is told.
#[derive(Serialize)]
struct ScriptInput<'a> {
    version: u32,
    run: &'a str,
    lane: &'a str,
    step: &'a str,
    on: &'a [String],
    machines: BTreeMap<&'a str, ScriptMachine>,
    /// Files that it leaves here and names in its result become artifacts of the proof.
    artifacts: &'a Path,
}

#[derive(Serialize)]
struct ScriptMachine {
    epoch: u32,
    on: bool,
}

/// What a script answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptResult {
    outcome: ScriptOutcome,
    #[serde(default)]
    message: String,
    /// Paths below `artifacts`, as it was told.
    #[serde(default)]
    artifacts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ScriptOutcome {
    Passed,
    Failed,
    Skipped,
}

pub async fn script(context: &StepContext, index: usize, step: &Step, command: &Command) -> StepResult {
    let folder = format!("artifacts/script-{index}");
    let artifacts = context.root.join(&folder);
    std::fs::create_dir_all(&artifacts)
        .map_err(|error| crate::error::Error::storage(error, format!("failed to create `{folder}`")))?;
    let machines = context.machines.iter().map(|(name, machine)| {
        (name.as_str(), ScriptMachine { epoch: machine.state.epoch(), on: machine.state.off().is_none() })
    });
    let input = ScriptInput {
        version: 1,
        run: &context.run,
        lane: &context.lane,
        step: &step.name,
        on: &step.on,
        machines: machines.collect(),
        artifacts: &artifacts,
    };
    let stdin = serde_json::to_vec(&input).expect("the input is plain data");
    let output = host::run(context, index, command, stdin).await?;
    command_outcome(command, &output.status, &[], &output.stderr)?;
    let result: ScriptResult = serde_json::from_slice(&output.stdout).map_err(|error| {
        let message = format!("`{}` did not answer with a result: {error}", command.argv.join(" "));
        StepEnd::Failed(FailureReason::Harness, message)
    })?;
    for artifact in &result.artifacts {
        let path = artifacts.join(artifact);
        let inside = path.canonicalize().ok().zip(artifacts.canonicalize().ok());
        if !inside.is_some_and(|(path, folder)| path.starts_with(folder)) {
            let message = format!("the artifact `{artifact}` is not in the folder that the script was given");
            return Err(StepEnd::Failed(FailureReason::Harness, message));
        }
        context.report_artifact(&format!("{folder}/{artifact}"))?;
    }
    match result.outcome {
        ScriptOutcome::Passed => Ok(()),
        ScriptOutcome::Failed => Err(StepEnd::Failed(FailureReason::OutputMismatch, result.message)),
        ScriptOutcome::Skipped => Err(StepEnd::Skipped(result.message)),
    }
}
