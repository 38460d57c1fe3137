//! `bootproof logs`: what a machine has printed on its console, and what it prints on.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Context, naming};
use crate::console::ReadableLines;
use crate::error::{Context as _, Error, Result};
use crate::machine::registry::{self, MachineRecord};
use crate::proof::{self, root};

const AFTER_HELP: &str = "\
Examples:
  bootproof logs node01                    a machine that is up, in a run or kept
  bootproof logs node01 -f                 and what it prints from now on, across reboots, until it is gone
  bootproof logs a1b2c3d4/node01           where several are called so: with the end of its run's name
  bootproof logs node01 --run latest       of a proof
  bootproof logs node01 --raw              as the machine printed it

Of a kept machine it is what its run has recorded, and then what came since.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The machine's name, or `RUN/NODE`
    #[arg(value_name = "NODE")]
    machine: String,
    /// Of this run, under way or over: `latest`, `LANE/latest`, its name or the end of it, or a proof's directory
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Go on with what it prints, until the machine is gone
    #[arg(long, short)]
    follow: bool,
    /// The bytes as they came, which may control your terminal; without it, only text
    #[arg(long)]
    raw: bool,
    /// Which console: the lane's own choice when left out
    #[arg(long, value_enum, value_name = "WHICH")]
    console: Option<ConsoleArgument>,
}

/// A machine has two.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleArgument {
    /// `ttyS0`, there from the firmware on
    Serial,
    /// `hvc0`, which the guest's kernel brings
    Virtio,
}

impl ConsoleArgument {
    /// Its recording, and its socket without the ending.
    pub fn name(self) -> &'static str {
        match self {
            ConsoleArgument::Serial => "console",
            ConsoleArgument::Virtio => "console-hvc0",
        }
    }

    /// The one that its lane has given a machine that is up.
    pub fn of_record(record: &MachineRecord) -> Self {
        Self::of_lane(proof_of(record), &record.machine)
    }

    /// What the lane of that proof has given the machine; `serial` where nobody knows.
    pub fn of_lane(proof: &Path, machine: &str) -> Self {
        let lane = std::fs::read(proof.join(root::LANE_FILE)).ok();
        let lane: Option<serde_json::Value> = lane.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match lane.as_ref().and_then(|lane| lane["machines"][machine]["console"].as_str()) {
            Some("virtio") => ConsoleArgument::Virtio,
            _ => ConsoleArgument::Serial,
        }
    }
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let found = find(context, &arguments)?;
    let name = arguments.console.unwrap_or_else(|| ConsoleArgument::of_lane(&found.proof, &found.machine)).name();
    let mut output = Output { lines: (!arguments.raw).then(ReadableLines::default), stdout: io::stdout() };
    let mut files: Vec<Recording> = Vec::new();
    files.extend(Recording::open(found.evidence.join(format!("{name}.raw")))?);
    if files.is_empty() && found.kept.is_none() && !found.is_going_on() {
        return Err(Error::usage(format!("`{}` has recorded no console `{name}`", found.evidence.display())));
    }
    if let Some(record) = &found.kept {
        files.extend(Recording::open(record.console.with_file_name(format!("{name}.raw")))?);
    }
    let told = if arguments.follow && found.is_going_on() {
        follow(context, found, name, &mut files, &mut output)
    } else {
        files.iter_mut().try_for_each(|file| file.carry(&mut output)).and_then(|()| output.finish())
    };
    match told {
        // Whoever reads may stop reading, as `head` does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        told => told.infrastructure(|| "failed to pass on what the console says".into()).map(|()| ExitCode::SUCCESS),
    }
}

/// Whose console.
struct Found {
    machine: String,
    /// The run's proof root, or where it would be.
    proof: PathBuf,
    /// Where the run records what the machine prints.
    evidence: PathBuf,
    /// The machine is up.
    up: Option<MachineRecord>,
    /// It is, without its run.
    kept: Option<MachineRecord>,
}

/// The proof root that the machine's folder is in.
fn proof_of(record: &MachineRecord) -> &Path {
    record.evidence.ancestors().nth(2).unwrap_or(&record.evidence)
}

impl Found {
    fn of_record(record: &MachineRecord) -> Self {
        Self {
            machine: record.machine.clone(),
            proof: proof_of(record).to_path_buf(),
            evidence: record.evidence.clone(),
            up: Some(record.clone()),
            kept: record.kept.then(|| record.clone()),
        }
    }

    /// More may come.
    fn is_going_on(&self) -> bool {
        self.up.is_some() || proof::is_under_way(&self.proof)
    }
}

fn find(context: &Context, arguments: &Arguments) -> Result<Found> {
    let live = registry::live(&context.work_root)?;
    let wanted = &arguments.machine;
    if let Some(run) = &arguments.run {
        let proof = proof::find(&context.work_root, run, None)?;
        return of_proof(proof, wanted, &live);
    }
    let up: Vec<&MachineRecord> =
        live.iter().filter(|record| naming::is_machine(&record.run, &record.machine, wanted)).collect();
    if !up.is_empty() {
        return Ok(Found::of_record(naming::find(&live, wanted)?));
    }
    // Off for now, in a run that goes on.
    let mut off: Vec<Found> = Vec::new();
    for entry in proof::list(&context.work_root, None)? {
        let name = wanted.rsplit('/').next().unwrap_or(wanted);
        let evidence = entry.path.join(root::MACHINES_DIRECTORY).join(name);
        let is_meant = naming::is_machine(&entry.run, name, wanted) && evidence.is_dir();
        if entry.seal.is_none() && is_meant && proof::is_under_way(&entry.path) {
            off.push(Found { machine: name.into(), proof: entry.path, evidence, up: None, kept: None });
        }
    }
    match off.len() {
        0 => Err(naming::none_up(&live, wanted)
            .hint(format!("`bootproof logs {wanted} --run latest` shows what it printed in the last run"))),
        1 => Ok(off.remove(0)),
        _ => Err(naming::ambiguous(
            wanted,
            off.iter().map(|found| {
                let run = found.proof.file_name().unwrap_or_default().to_string_lossy();
                format!("{run}/{}", found.machine)
            }),
        )),
    }
}

fn of_proof(proof: PathBuf, machine: &str, live: &[MachineRecord]) -> Result<Found> {
    let run = proof.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = proof.join(root::MACHINES_DIRECTORY);
    let evidence = folder.join(machine);
    let plain = !machine.is_empty() && !machine.contains('/') && !machine.starts_with('.');
    if !plain || !evidence.is_dir() {
        let mut there: Vec<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        there.sort();
        let hint = if there.is_empty() { "none was started".into() } else { format!("it has: {}", there.join(", ")) };
        return Err(Error::usage(format!("the run `{run}` has no machine `{machine}`")).hint(hint));
    }
    let up = live.iter().find(|record| record.run == run && record.machine == machine);
    Ok(match up {
        Some(record) => Found { proof, evidence, ..Found::of_record(record) },
        None => Found { machine: machine.into(), proof, evidence, up: None, kept: None },
    })
}

/// A file that may still grow.
struct Recording {
    path: PathBuf,
    file: File,
}

impl Recording {
    /// `None` where it is not there.
    fn open(path: PathBuf) -> Result<Option<Self>> {
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { path, file })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).infrastructure(|| format!("failed to read `{}`", path.display())),
        }
    }

    /// Everything that has come and was not passed on yet.
    fn carry(&mut self, output: &mut Output) -> io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match self.file.read(&mut bytes) {
                Ok(0) => return output.flush(),
                Ok(count) => output.take(&bytes[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Output {
    /// `None`: the bytes as they are.
    lines: Option<ReadableLines>,
    stdout: io::Stdout,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.lines {
            Some(lines) => lines.feed(bytes, &mut self.stdout),
            None => self.stdout.write_all(bytes),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(lines) = &mut self.lines {
            lines.finish(&mut self.stdout)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Passes on what comes until nothing more can: the run is over and the machine not kept, or the kept one is gone. The
/// kernel tells of all of it.
fn follow(
    context: &Context,
    mut found: Found,
    name: &str,
    files: &mut Vec<Recording>,
    output: &mut Output,
) -> io::Result<()> {
    let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let watch = |path: &Path| inotify::add_watch(&changes, path, WatchFlags::MODIFY).map(drop);
    // Watched before it is read, so that nothing is missed.
    files.iter().try_for_each(|file| watch(&file.path))?;
    if files.is_empty() {
        // The run goes on, and the machine was not started yet.
        inotify::add_watch(&changes, &found.evidence, WatchFlags::CREATE)?;
        if let Ok(Some(file)) = Recording::open(found.evidence.join(format!("{name}.raw"))) {
            watch(&file.path)?;
            files.push(file);
        }
    }
    let over = if found.kept.is_none() && proof::is_under_way(&found.proof) { Some(over(&found.proof)?) } else { None };
    let mut keeper = found.up.as_ref().and_then(keeper_of);
    let mut run_is_over = over.is_none();
    files.iter_mut().try_for_each(|file| file.carry(output))?;
    loop {
        let ended = match (&over, run_is_over) {
            (Some(over), false) => wait(&changes, &[Some(over.as_fd()), keeper.as_ref().map(AsFd::as_fd)], output)?,
            _ => wait(&changes, &[None, keeper.as_ref().map(AsFd::as_fd)], output)?,
        };
        if files.is_empty()
            && let Ok(Some(file)) = Recording::open(found.evidence.join(format!("{name}.raw")))
        {
            watch(&file.path)?;
            files.push(file);
        }
        files.iter_mut().try_for_each(|file| file.carry(output))?;
        if ended[0] {
            run_is_over = true;
            found.kept = kept_now(context, &found);
            keeper = found.kept.as_ref().and_then(keeper_of);
            if let Some(record) = &found.kept
                && let Ok(Some(mut file)) = Recording::open(record.console.with_file_name(format!("{name}.raw")))
            {
                watch(&file.path)?;
                file.carry(output)?;
                files.push(file);
            }
        } else if ended[1] {
            keeper = None;
            if !run_is_over && !context.quiet {
                eprintln!("{} is off, and its run goes on", found.machine);
            }
        }
        if run_is_over && keeper.is_none() {
            output.finish()?;
            if !context.quiet {
                let why = if found.kept.is_some() || over.is_none() { "" } else { ": its run is over" };
                eprintln!("{} is gone{why}", found.machine);
            }
            return Ok(());
        }
    }
}

/// Waits until a file has changed, or one of these has ended; says which of these.
fn wait(changes: &OwnedFd, ends: &[Option<BorrowedFd<'_>>; 2], output: &Output) -> io::Result<[bool; 2]> {
    let mut watched = vec![PollFd::new(changes, PollFlags::IN)];
    watched.extend(ends.iter().flatten().map(|end| PollFd::from_borrowed_fd(*end, PollFlags::IN)));
    // Also a reader that goes away while nothing is printed.
    watched.push(PollFd::new(&output.stdout, PollFlags::empty()));
    while let Err(error) = poll(&mut watched, None) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    let ready: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
    if ready.last() == Some(&true) {
        return Err(ErrorKind::BrokenPipe.into());
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(changes, &mut buffer);
    while events.next().is_ok() {}
    let first = ends[0].is_some() && ready[1];
    let second = ends[1].is_some() && ready[1 + usize::from(ends[0].is_some())];
    Ok([first, second])
}

/// Becomes readable once the run is over.
fn over(proof: &Path) -> io::Result<OwnedFd> {
    let told = eventfd(0, EventfdFlags::CLOEXEC)?;
    let (teller, proof) = (told.try_clone()?, proof.to_path_buf());
    // Nobody waits for this thread: it ends with the run, or with this program.
    std::thread::Builder::new().name("until-over".into()).spawn(move || {
        let _ = proof::until_over(&proof);
        let _ = rustix::io::write(&teller, &1_u64.to_ne_bytes());
    })?;
    Ok(told)
}

/// Becomes readable once the keeper has ended, and its machine with it.
fn keeper_of(record: &MachineRecord) -> Option<OwnedFd> {
    let pid = i32::try_from(record.keeper_pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The machine's record, where it goes on without its run.
fn kept_now(context: &Context, found: &Found) -> Option<MachineRecord> {
    let run = found.proof.file_name()?.to_str()?;
    let live = registry::live(&context.work_root).ok()?;
    live.into_iter().find(|record| record.kept && record.run == run && record.machine == found.machine)
}
