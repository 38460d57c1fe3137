//! `bootproof stop`: ends machines that are up.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use super::{Context, naming};
use crate::error::{Context as _, Error, Result};
use crate::machine::keeper::{KILLED, STOP, STOPPED, TERMINATION_BOUND};
use crate::machine::registry::{self, MachineRecord};

/// The keeper kills what does not end by itself; a host that is busy needs a while for that, too.
const PATIENCE: Duration = Duration::from_secs(60);

const AFTER_HELP: &str = "\
Examples:
  bootproof stop node01
  bootproof stop a1b2c3d4     all machines of the run whose name ends so
  bootproof stop --all";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to stop: a machine's name, its run, or `RUN/MACHINE`, as `bootproof ps` shows them
    #[arg(required_unless_present = "all", value_name = "MACHINE")]
    machines: Vec<String>,
    /// Every machine of this work root
    #[arg(long, conflicts_with = "machines")]
    all: bool,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let live = registry::live(&context.work_root)?;
    let mut chosen: Vec<&MachineRecord> = Vec::new();
    if arguments.all {
        chosen.extend(&live);
    }
    for wanted in &arguments.machines {
        let found: Vec<&MachineRecord> = live.iter().filter(|record| is_meant(record, wanted)).collect();
        if found.is_empty() {
            return Err(naming::none_up(&live, wanted));
        }
        chosen.extend(found);
    }
    chosen.sort_by_key(|record| &record.control);
    chosen.dedup_by_key(|record| &record.control);
    // All at once: each may take as long as its guest's disks do.
    let endings: Vec<Result<Ending>> = std::thread::scope(|scope| {
        let stopping: Vec<_> = chosen.iter().map(|record| scope.spawn(move || stop(record))).collect();
        stopping.into_iter().map(|one| one.join().expect("stopping does not panic")).collect()
    });
    let mut failed = None;
    for (record, ending) in chosen.into_iter().zip(endings) {
        let name = naming::full_name(record);
        match ending {
            Ok(Ending::Stopped) if context.quiet => {}
            Ok(Ending::Stopped) => eprintln!("stopped {name}"),
            Ok(Ending::Killed) => eprintln!(
                "killed {name}: its QEMU did not end within {}s of SIGTERM; what it had not written to its disks may be lost",
                TERMINATION_BOUND.as_secs()
            ),
            // Each is told; the first one decides the exit code.
            Err(error) => match &failed {
                None => failed = Some(error),
                Some(_) => super::print::print_error(context, &error),
            },
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn is_meant(record: &MachineRecord, wanted: &str) -> bool {
    naming::is_machine(&record.run, &record.machine, wanted) || naming::is_run(&record.run, wanted)
}

enum Ending {
    /// When asked to.
    Stopped,
    /// It had to be killed.
    Killed,
}

/// Asks the machine's keeper, which answers once the machine is gone.
fn stop(record: &MachineRecord) -> Result<Ending> {
    let said = || format!("failed to stop `{}`", naming::full_name(record));
    let hint = || format!("its QEMU is process {}, its keeper process {}", record.qemu_pid, record.keeper_pid);
    let mut keeper = UnixStream::connect(&record.control).infrastructure(said)?;
    keeper.set_read_timeout(Some(PATIENCE)).infrastructure(said)?;
    keeper.write_all(format!("{STOP}\n").as_bytes()).infrastructure(said)?;
    let mut answer = String::new();
    keeper.read_to_string(&mut answer).infrastructure(said).map_err(|error| error.hint(hint()))?;
    match answer.trim() {
        STOPPED => Ok(Ending::Stopped),
        KILLED => Ok(Ending::Killed),
        _ => Err(Error::infrastructure(said()).hint(hint())),
    }
}
