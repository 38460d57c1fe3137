//! `bootproof stop`: ends machines that are up.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use super::Context;
use crate::error::{Context as _, Error, Result};
use crate::machine::keeper::{KILLED, STOPPED, TERMINATION_BOUND};
use crate::machine::registry::{self, MachineRecord};

/// The keeper kills what does not end by itself; a host that is busy needs a while for that, too.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
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
            let up: Vec<String> = live.iter().map(|record| format!("{}/{}", record.run, record.machine)).collect();
            let hint = if up.is_empty() { "no machine is up".into() } else { format!("up are: {}", up.join(", ")) };
            return Err(Error::usage(format!("no machine `{wanted}` is up")).hint(hint));
        }
        chosen.extend(found);
    }
    for record in chosen {
        let ending = stop(record)?;
        let name = format!("{}/{}", record.run, record.machine);
        match ending {
            Ending::Stopped if context.quiet => {}
            Ending::Stopped => eprintln!("stopped {name}"),
            Ending::Killed => eprintln!(
                "killed {name}: its QEMU did not end within {}s of SIGTERM; what it had not written to its disks may be lost",
                TERMINATION_BOUND.as_secs()
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_meant(record: &MachineRecord, wanted: &str) -> bool {
    wanted == record.machine || wanted == record.run || wanted == format!("{}/{}", record.run, record.machine)
}

enum Ending {
    /// When asked to.
    Stopped,
    /// It had to be killed.
    Killed,
}

/// Asks the machine's keeper, which answers once the machine is gone.
fn stop(record: &MachineRecord) -> Result<Ending> {
    let said = || format!("failed to stop `{}/{}`", record.run, record.machine);
    let hint = || format!("its QEMU is process {}, its keeper process {}", record.qemu_pid, record.keeper_pid);
    let mut keeper = UnixStream::connect(&record.control).infrastructure(said)?;
    keeper.set_read_timeout(Some(PATIENCE)).infrastructure(said)?;
    keeper.write_all(b"stop\n").infrastructure(said)?;
    let mut answer = String::new();
    keeper.read_to_string(&mut answer).infrastructure(said).map_err(|error| error.hint(hint()))?;
    match answer.trim() {
        STOPPED => Ok(Ending::Stopped),
        KILLED => Ok(Ending::Killed),
        _ => Err(Error::infrastructure(said()).hint(hint())),
    }
}
