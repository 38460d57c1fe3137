//! `bootproof console`: the serial console of a machine that is up, both ways.

use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::attached::{RawTerminal, Signals, call_run};
use super::logs::ConsoleArgument;
use super::naming::full_name;
use super::{Context, naming};
use crate::attach::Call;
use crate::error::{Context as _, Error, Result};
use crate::machine::keeper::CONNECTED;
use crate::machine::registry::{self, MachineRecord};

/// Ctrl-]
const ESCAPE: u8 = 0x1d;

const AFTER_HELP: &str = "\
Examples:
  bootproof console node01               Ctrl-] ends it, Enter shows the guest's prompt
  bootproof console a1b2c3d4/node01
  bootproof console node01 --console virtio

What is typed goes to the guest, what it prints is recorded as before, and several may have one console at a time. Where
standard input is no terminal it is passed on as it is, and the command goes on after its end: until the machine is off,
whoever reads goes away, or a signal comes. What was printed before shows `bootproof logs`.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The machine's name, or `RUN/NODE`
    #[arg(value_name = "NODE")]
    machine: String,
    /// Which console: the lane's own choice when left out
    #[arg(long, value_enum, value_name = "WHICH")]
    console: Option<ConsoleArgument>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let live = registry::live(&context.work_root)?;
    let record = naming::find(&live, &arguments.machine)?;
    let console = arguments.console.unwrap_or_else(|| ConsoleArgument::of_record(record));
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(connect_and_carry(context, record, console.name()));
    // Standard input may still be waited for; nobody needs that any more.
    runtime.shutdown_background();
    outcome
}

async fn connect_and_carry(context: &Context, record: &MachineRecord, console: &str) -> Result<ExitCode> {
    let name = full_name(record);
    let stream = if record.kept {
        call_keeper(record, console).await?
    } else {
        let call = Call::Console { machine: record.machine.clone(), console: console.into() };
        call_run(record, &call).await?
    };
    let mut signals = Signals::open()?;
    let terminal = RawTerminal::enter()?;
    if !context.quiet {
        let escape = if terminal.is_some() { "; Ctrl-] ends this" } else { "" };
        // The terminal is raw by now.
        eprint!("connected to the console of {name}{escape}\r\n");
    }
    let ended = tokio::select! {
        ended = carry(stream, terminal.is_some()) => ended,
        () = signals.next() => Ok(End::Left),
    };
    drop(terminal);
    match ended.infrastructure(|| format!("failed to carry the console of `{name}`"))? {
        End::Left if context.quiet => {}
        End::Left => eprintln!("\nleft the console of {name}, which is as it was"),
        End::Off => eprintln!("\n{name} is off, or this was too slow for what it prints"),
    }
    Ok(ExitCode::SUCCESS)
}

enum End {
    /// The user, or whoever reads, has gone.
    Left,
    /// The machine.
    Off,
}

/// `escape`: a key ends it.
async fn carry(stream: UnixStream, escape: bool) -> std::io::Result<End> {
    let (mut from_machine, mut to_machine) = stream.into_split();
    let shown = async {
        let mut stdout = tokio::io::stdout();
        let mut bytes = vec![0; 16 << 10];
        loop {
            let count = match from_machine.read(&mut bytes).await {
                Ok(0) | Err(_) => return Ok(End::Off),
                Ok(count) => count,
            };
            let written = async { stdout.write_all(&bytes[..count]).await.and(stdout.flush().await) };
            match written.await {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(End::Left),
                written => written?,
            }
        }
    };
    let typed = async {
        let mut stdin = tokio::io::stdin();
        let mut bytes = vec![0; 4 << 10];
        loop {
            let count = stdin.read(&mut bytes).await?;
            let typed = &bytes[..count];
            let end = if escape { typed.iter().position(|byte| *byte == ESCAPE) } else { None };
            // A machine that takes no more says so itself, by its end.
            let _ = to_machine.write_all(&typed[..end.unwrap_or(count)]).await;
            match (end, count) {
                (Some(_), _) => return Ok(End::Left),
                // A terminal that was closed.
                (None, 0) if escape => return Ok(End::Left),
                (None, 0) => std::future::pending().await,
                (None, _) => {}
            }
        }
    };
    tokio::select! {
        end = shown => end,
        end = typed => end,
    }
}

/// Asks the keeper of a kept machine for a console.
async fn call_keeper(record: &MachineRecord, console: &str) -> Result<UnixStream> {
    let failed = || format!("failed to get at the console of `{}`", full_name(record));
    let mut stream = UnixStream::connect(&record.control).await.infrastructure(failed)?;
    stream.write_all(format!("{console}\n").as_bytes()).await.infrastructure(failed)?;
    let mut answer = String::new();
    // No byte more than the line has: what follows is the console's.
    while !answer.ends_with('\n') {
        answer.push(char::from(stream.read_u8().await.infrastructure(failed)?));
    }
    match answer.trim() {
        CONNECTED => Ok(stream),
        _ => Err(Error::infrastructure(failed()).hint("it has none of that name, or cannot record it any more")),
    }
}
