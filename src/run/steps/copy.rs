//! `copy`: files into the guest and out of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use tokio::io::AsyncWriteExt;

use super::{RunningMachine, StepContext, StepEnd, StepResult};
use crate::error::Error;
use crate::event::FailureReason;

pub async fn copy_in(context: &StepContext, from: &Path, to: &str, machine: &RunningMachine) -> StepResult {
    let channel = context.channel(machine).await?;
    let path = context.lane_directory.join(from);
    let unreadable = |error| {
        let message = format!("failed to read `{}`: {error}", path.display());
        StepEnd::Failed(FailureReason::Harness, message)
    };
    let source = tokio::fs::File::open(&path).await.map_err(unreadable)?;
    let mode = source.metadata().await.map_err(unreadable)?.permissions().mode() & 0o7777;
    channel.write_file(to, mode, source).await?;
    Ok(())
}

pub async fn copy_out(context: &StepContext, from: &str, to: &Path, machine: &RunningMachine) -> StepResult {
    let channel = context.channel(machine).await?;
    let file = artifact_file(machine.state.name(), to)?;
    let path = context.root.join(&file);
    let unwritable = |error| StepEnd::from(Error::storage(error, format!("failed to write the artifact `{file}`")));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    let mut source = channel.read_file(from).await?;
    let mut target = tokio::fs::File::create(&path).await.map_err(unwritable)?;
    tokio::io::copy(&mut source, &mut target).await.map_err(|error| {
        match crate::channel::ChannelError::from_io(&error) {
            Some(lost) => lost.clone().into(),
            None => unwritable(error),
        }
    })?;
    target.flush().await.map_err(unwritable)?;
    context.report_artifact(&file)
}

/// Where an artifact stands in the proof root; never outside it.
fn artifact_file(machine: &str, to: &Path) -> Result<String, StepEnd> {
    let plain = to.components().all(|part| matches!(part, Component::Normal(_)));
    let path: PathBuf = ["artifacts", machine].iter().collect::<PathBuf>().join(to);
    match path.to_str() {
        Some(file) if plain && to.file_name().is_some() => Ok(file.to_owned()),
        _ => Err(StepEnd::Failed(FailureReason::Harness, format!("`{}` is not a place for an artifact", to.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_never_leaves_the_proof() {
        assert!(artifact_file("node01", Path::new("a/b.txt")).is_ok_and(|file| file == "artifacts/node01/a/b.txt"));
        for outside in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(artifact_file("node01", Path::new(outside)).is_err(), "{outside}");
        }
    }
}
