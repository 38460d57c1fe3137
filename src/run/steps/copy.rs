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
    channel.write_file(to, mode, Box::new(source)).await?;
    Ok(())
}

/// What stands in the folder beside libraries and loader: a script that starts the program with them, and the program.
const LAUNCHER: &str = "bootproof";
const PROGRAM: &str = "bootproof.program";

/// This program with all that it is linked with, as it runs now: the guest's own libraries may be older than the host's.
pub async fn copy_program(context: &StepContext, to: &str, machine: &RunningMachine) -> StepResult {
    let channel = context.channel(machine).await?;
    let unreadable = |what: &Path, error: std::io::Error| {
        let message = format!("failed to read `{}`, which this program runs from: {error}", what.display());
        StepEnd::Failed(FailureReason::Harness, message)
    };
    // What runs, also where its file was replaced since.
    let itself = Path::new("/proc/self/exe");
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| unreadable(itself, error))?;
    let name = std::fs::read_link(itself).map_err(|error| unreadable(itself, error))?;
    let libraries = libraries(&maps, &name);
    let mut files = vec![(PROGRAM.to_owned(), itself.to_owned())];
    for library in &libraries {
        let name = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        files.push((name, library.clone()));
    }
    for (name, path) in &files {
        let source = tokio::fs::File::open(path).await.map_err(|error| unreadable(path, error))?;
        channel.write_file(&format!("{to}/{name}"), 0o755, Box::new(source)).await?;
    }
    let script = launcher(to, &libraries);
    let script = Box::new(std::io::Cursor::new(script.into_bytes()));
    channel.write_file(&format!("{to}/{LAUNCHER}"), 0o755, script).await?;
    Ok(())
}

/// Files whose code is mapped, but for the program's own: shared libraries and the loader.
fn libraries(maps: &str, program: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path != program && path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn launcher(folder: &str, libraries: &[PathBuf]) -> String {
    let folder = folder.replace('\'', "'\\''");
    let names = libraries.iter().filter_map(|path| path.file_name()?.to_str());
    let start = match names.into_iter().find(|name| name.starts_with("ld-")) {
        Some(loader) => format!("'{folder}/{loader}' --library-path '{folder}' '{folder}/{PROGRAM}'"),
        None => format!("'{folder}/{PROGRAM}'"),
    };
    format!("#!/bin/sh\nexec {start} \"$@\"\n")
}

pub async fn copy_out(context: &StepContext, from: &str, to: &Path, machine: &RunningMachine) -> StepResult {
    let channel = context.channel(machine).await?;
    let file = artifact_file(machine.state.name(), to)?;
    let path = context.root.join(&file);
    let unwritable = |error| StepEnd::from(Error::storage(error, format!("failed to write the artifact `{file}`")));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    let mut source = channel.read_file(from).await?.reader;
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
    fn what_is_mapped_tells_which_libraries_the_program_needs() {
        let maps = "55e0-55e1 r-xp 00000000 fe:00 1 /opt/b/bootproof\n\
                    7f10-7f11 r--p 00000000 fe:00 2 /lib/libz.so.1\n\
                    7f20-7f21 r-xp 00000000 fe:00 3 /lib/libc.so.6\n\
                    7f30-7f31 r-xp 00000000 fe:00 3 /lib/libc.so.6\n\
                    7f40-7f41 r-xp 00000000 fe:00 4 /lib64/ld-linux-x86-64.so.2\n\
                    7f50-7f51 r-xp 00000000 00:00 0 [vdso]\n7f60-7f61 rwxp 00000000 00:00 0\n";
        let found = libraries(maps, Path::new("/opt/b/bootproof"));
        assert_eq!(found, [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert_eq!(
            launcher("/opt/it's", &found),
            "#!/bin/sh\nexec '/opt/it'\\''s/ld-linux-x86-64.so.2' --library-path '/opt/it'\\''s' \
             '/opt/it'\\''s/bootproof.program' \"$@\"\n"
        );
        assert_eq!(launcher("/opt", &[]), "#!/bin/sh\nexec '/opt/bootproof.program' \"$@\"\n");
    }

    #[test]
    fn this_program_starts_by_its_launcher() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let libraries = libraries(&maps, &program);
        for library in &libraries {
            std::fs::copy(library, folder.path().join(library.file_name().unwrap())).unwrap();
        }
        std::os::unix::fs::symlink(&program, folder.path().join(PROGRAM)).unwrap();
        let script = launcher(folder.path().to_str().unwrap(), &libraries);
        // The test program's own list of tests: it has got as far as to its arguments.
        let output = std::process::Command::new("sh").args(["-c", &script, "sh", "--list"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("this_program_starts_by_its_launcher"));
    }

    #[test]
    fn an_artifact_never_leaves_the_proof() {
        assert!(artifact_file("node01", Path::new("a/b.txt")).is_ok_and(|file| file == "artifacts/node01/a/b.txt"));
        for outside in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(artifact_file("node01", Path::new(outside)).is_err(), "{outside}");
        }
    }
}
