//! What the tests that run the real program share.
#![allow(dead_code)] // each test binary uses a part of it

pub mod fat;
pub mod files;
pub mod guest_program;
pub mod lane_runs;
pub mod nix;
pub mod own_lane;
pub mod process;
pub mod terminal;
pub mod ways;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program under test.
pub fn bootproof() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("BOOTPROOF_WORK_ROOT", work_root()).stdin(Stdio::null());
    for name in ["NO_COLOR", "CI", "BOOTPROOF_KEEP"] {
        command.env_remove(name);
    }
    command
}

/// One work root for all tests, so that images are built once; runs on it do not collide.
pub fn work_root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("work")
}

/// A work root of a test's own, with the shared images in it.
pub struct OwnWorkRoot {
    path: PathBuf,
    /// Stands for the user's runtime folder, so that what is left there can be told. Short: sockets live in it.
    pub runtime: tempfile::TempDir,
    /// Removed with it; `None` where somebody else does that.
    _folder: Option<tempfile::TempDir>,
}

impl OwnWorkRoot {
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().to_owned();
        Self { _folder: Some(folder), ..Self::at(path) }
    }

    /// In a folder that is there already.
    pub fn at(path: PathBuf) -> Self {
        for shared in ["images", "host"] {
            let there = work_root().join(shared);
            fs::create_dir_all(&there).unwrap();
            std::os::unix::fs::symlink(there, path.join(shared)).unwrap();
        }
        Self { path, runtime: tempfile::tempdir().unwrap(), _folder: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bootproof(&self) -> Command {
        let mut command = bootproof();
        command.env("BOOTPROOF_WORK_ROOT", self.path()).env("XDG_RUNTIME_DIR", self.runtime.path());
        command
    }

    /// The roots of all proofs, finished or not.
    pub fn proofs(&self) -> Vec<PathBuf> {
        let lanes = fs::read_dir(self.path().join("proofs")).into_iter().flatten();
        lanes
            .flat_map(|lane| fs::read_dir(lane.unwrap().path()).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && !path.is_symlink())
            .collect()
    }

    /// The only proof there is.
    pub fn proof(&self) -> PathBuf {
        let proofs = self.proofs();
        assert_eq!(proofs.len(), 1, "{proofs:?}");
        proofs.into_iter().next().unwrap()
    }

    /// The processes that QEMU runs as for this work root.
    pub fn qemus(&self) -> Vec<u32> {
        processes_mentioning("qemu-system", self.path())
    }
}

/// Processes whose program is named so and whose command line or environment mentions the path.
pub fn processes_mentioning(program: &str, path: &Path) -> Vec<u32> {
    let wanted = path.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_it = String::from_utf8_lossy(&command_line).split('\0').next().unwrap_or("").contains(program);
        let is_ours = [command_line, environment].iter().any(|bytes| String::from_utf8_lossy(bytes).contains(&wanted));
        if is_it && is_ours {
            found.push(pid);
        }
    }
    found
}

/// Waits for the child and gives what it said, with a readable panic when the status is another.
pub fn expect_status(output: &Output, wanted: i32) {
    assert_eq!(
        output.status.code(),
        Some(wanted),
        "stdout:\n{}\nstderr:\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `result.json` of a proof.
pub fn result_of(proof: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(proof.join("result.json")).unwrap()).unwrap()
}

/// The events of a proof's log, as far as they are whole.
pub fn events_of(proof: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(proof.join("events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Reads standard error until a line contains the text, which tells that the child has come that far.
pub fn read_until(child: &mut Child, text: &str) -> String {
    let stderr = child.stderr.as_mut().expect("standard error is piped");
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended with: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
