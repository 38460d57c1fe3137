//! Commands on the host: `host` and `script`.
//!
//! What always holds: a command runs in a process group of its own, and the group is killed when the step ends early, also
//! when that is because bootproof was killed; its output is bounded in memory.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::steps::check::ExitStatus;
use crate::error::{Context, Error, Result};
use crate::process_group::ProcessGroup;

/// What is kept of each of a command's outputs.
pub const OUTPUT_LIMIT: u64 = 16 << 20;

pub struct HostCommand<'a> {
    pub argv: &'a [String],
    pub environment: Vec<(String, String)>,
    pub stdin: Vec<u8>,
    /// Where it runs: the lane's own folder.
    pub directory: &'a Path,
}

pub struct HostOutput {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Runs it to its end. Dropping the future kills the command's whole group.
pub async fn run(command: HostCommand<'_>) -> Result<HostOutput> {
    let program = command.argv.first().ok_or_else(|| Error::usage("a command needs a program"))?;
    let said = || format!("failed to run `{program}`");
    let mut group = ProcessGroup::new()?;
    let mut child = Command::new(program)
        .args(&command.argv[1..])
        .envs(command.environment)
        .current_dir(command.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(group.number())
        .spawn()
        .infrastructure(said)?;
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let stdout = child.stdout.take().expect("standard output is piped");
    let stderr = child.stderr.take().expect("standard error is piped");
    let input = command.stdin;
    let feed = async move {
        // A command need not read what it is given.
        let _ = stdin.write_all(&input).await;
        drop(stdin);
    };
    let (_, stdout, stderr, status) = tokio::join!(feed, collect(stdout), collect(stderr), child.wait());
    let status = status.infrastructure(said)?;
    group.ended().await;
    let status = match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(signal) => ExitStatus::Signal(signal),
        None => ExitStatus::Code(status.code().unwrap_or(-1)),
    };
    Ok(HostOutput { status, stdout: stdout.infrastructure(said)?, stderr: stderr.infrastructure(said)? })
}

/// Reads to the end; keeps no more than the limit, but never stops reading, so that nobody stalls on a full pipe.
async fn collect(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(OUTPUT_LIMIT).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn both_outputs_and_the_status_come_back() {
        let argv = argv(&["sh", "-c", "cat; echo err >&2; exit 7"]);
        let directory = std::env::temp_dir();
        let command =
            HostCommand { argv: &argv, environment: Vec::new(), stdin: b"in".to_vec(), directory: &directory };
        let output = run(command).await.unwrap();
        assert_eq!(
            (output.status, output.stdout, output.stderr),
            (ExitStatus::Code(7), b"in".to_vec(), b"err\n".to_vec())
        );
    }

    #[tokio::test]
    async fn a_dropped_command_takes_its_children_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("alive");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        // The grandchild holds the pipe's other end open; the end of the file is the news of its death.
        let argv = argv(&["sh", "-c", "sleep 1000 > alive & wait"]);
        let command = HostCommand { argv: &argv, environment: Vec::new(), stdin: Vec::new(), directory: folder.path() };
        let mut alive = tokio::select! {
            _ = run(command) => panic!("the command does not end by itself"),
            opened = tokio::fs::File::open(&fifo) => opened.unwrap(),
        };
        let mut rest = Vec::new();
        alive.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
}
