//! A lane of a test's own, in a folder, a work root and a runtime folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::process;
use super::{OwnWorkRoot, expect_status, result_of, stdout_of};

pub struct OwnLane {
    /// Where the lane file is; what it names by relative paths is here.
    pub folder: tempfile::TempDir,
    pub work: OwnWorkRoot,
}

impl OwnLane {
    /// `rest`: the lane from its machines on.
    pub fn new(rest: &str) -> Self {
        Self::with_work_root(rest, OwnWorkRoot::new())
    }

    pub fn with_work_root(rest: &str, work: OwnWorkRoot) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let header = "version = 1\n[lane]\nname = \"own\"\nsummary = \"a test's own\"\ndeadline = \"5m\"\n";
        fs::write(folder.path().join("lane.toml"), format!("{header}{rest}")).unwrap();
        Self { folder, work }
    }

    /// Any command on this work root.
    pub fn bootproof(&self, arguments: &[&str]) -> Command {
        let mut command = self.work.bootproof();
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    /// The command that runs the lane.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bootproof(&["run", "./lane.toml"]);
        command.args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// What the command says on standard output; it has to succeed.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.bootproof(arguments).output().unwrap();
        expect_status(&output, 0);
        stdout_of(&output)
    }

    pub fn proof(&self) -> PathBuf {
        self.work.proof()
    }

    /// `result.json` of the only proof, which is whole and repeats.
    #[track_caller]
    pub fn sealed_result(&self) -> serde_json::Value {
        self.ask(&["proof", "verify", "latest"]);
        self.ask(&["proof", "replay", "latest"]);
        result_of(&self.proof())
    }

    /// Waits until no process is left, then looks that no record, no socket and no disk is.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        process::expect_none_left(self.work.path());
        let folders =
            [self.work.path().join("running"), self.work.path().join("runs"), self.work.runtime.path().into()];
        let left: Vec<PathBuf> = folders.iter().flat_map(|folder| entries(folder)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The records of machines, as they are on the disk.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        entries(&self.work.path().join("running")).into_iter().filter_map(read).collect()
    }
}

/// A test that fails leaves no kept machine up.
impl Drop for OwnLane {
    fn drop(&mut self) {
        if !self.records().is_empty() {
            let _ = self.bootproof(&["stop", "--all"]).output();
        }
    }
}

/// Visible entries of a folder; none where it does not exist.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b".")).collect()
}

/// Asks the monitor of a machine's QEMU for something, as anyone who finds its socket can.
pub fn ask_monitor(record: &serde_json::Value, command: &str) {
    let socket = Path::new(record["control"].as_str().unwrap()).with_file_name("qmp.sock");
    let mut monitor = UnixStream::connect(socket).unwrap();
    monitor.set_read_timeout(Some(process::END)).unwrap();
    let mut lines = BufReader::new(monitor.try_clone().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("QMP"), "it greets");
    for command in ["qmp_capabilities", command] {
        writeln!(monitor, "{{\"execute\": \"{command}\"}}").unwrap();
        assert!(lines.any(|line| line.unwrap().contains("\"return\"")));
    }
}

/// A command that is going on, whose standard error is read as it comes.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    said: String,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Of a child whose standard error is piped; its standard output may be, or may have been taken.
    pub fn of(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let stdout = child.stdout.take();
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes));
            bytes
        });
        Self { child, lines, stdout: Some(stdout), said: String::new() }
    }

    /// The next line of standard error; `None` when there is no more.
    pub fn next_line(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(process::END).ok()?;
        self.said.push_str(&line);
        self.said.push('\n');
        Some(line)
    }

    /// Reads until a line contains the text, which tells that the command has come that far.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        loop {
            match self.next_line() {
                Some(line) if line.contains(text) => return line,
                Some(_) => {}
                None => panic!("`{text}` was never said, but:\n{}", self.said),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// As a process that can be waited for with a bound.
    pub fn process(&self) -> process::Process {
        process::Process::open(self.child.id()).expect("it is not reaped yet")
    }

    /// Kills it as the kernel's memory killer would.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits for the end: status, standard output, and all of standard error.
    pub fn end(mut self) -> (ExitStatus, Vec<u8>, String) {
        assert!(self.process().ends_within(process::END), "it does not end; it said:\n{}", self.said);
        let status = self.child.wait().unwrap();
        // Whoever has inherited standard error and lives on would keep these from ending.
        while self.next_line().is_some() {}
        let stdout = self.stdout.take().unwrap().join().unwrap();
        (status, stdout, std::mem::take(&mut self.said))
    }

    #[track_caller]
    pub fn expect(self, status: i32) -> String {
        let (ended, _, said) = self.end();
        assert_eq!(ended.code(), Some(status), "{said}");
        said
    }
}

/// A test that fails leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
