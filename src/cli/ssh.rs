//! `bootproof ssh`: a shell, or a command, in a machine that is up.

use std::fs::File;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};

use super::attached::{RawTerminal, Signals, call_run, runtime, terminal_size};
use super::naming::full_name;
use super::{Context, naming};
use crate::attach::{Call, FromCaller, ToCaller, serve_command};
use crate::channel::{AgentChannel, ExecRequest, RefusalReason};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::lane::units::Span;
use crate::machine::registry::{self, MachineRecord};

/// For anything that is ours and not the command's; as for `exec`.
const OUR_FAILURE: u8 = 125;

/// Shells that are tried, in this order.
const SHELLS: [[&str; 2]; 3] = [["bash", "-l"], ["/run/current-system/sw/bin/bash", "-l"], ["sh", "-l"]];

const AFTER_HELP: &str = "\
Examples:
  bootproof ssh node01                           a shell; `exit` or Ctrl-D ends it
  bootproof ssh node01 -- systemctl --failed     one command, with its output and exit status
  bootproof ssh node01 --tty -- top              one that needs a terminal
  bootproof ssh a1b2c3d4/node01 -- cat /etc/os-release

The way in is our agent in the guest, as root: neither an SSH server nor a network nor a key is needed. It works for
machines of a run under way and for kept ones. The exit code is the command's own; 125 is for whatever went wrong on our
side.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The machine's name, or `RUN/NODE`
    #[arg(value_name = "NODE")]
    machine: String,
    /// Give the command a terminal; a shell has one where standard input is one
    #[arg(long, short)]
    tty: bool,
    /// How long the guest's agent may take to answer
    #[arg(long, default_value = "20s", value_name = "SPAN", value_parser = parse_span)]
    within: Span,
    /// The command and its arguments; a shell when left out
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn parse_span(text: &str) -> Result<Span, String> {
    text.parse()
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let live = registry::live(&context.work_root)?;
    let record = naming::find(&live, &arguments.machine)?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(connect_and_carry(context, record, &arguments));
    // Standard input may still be waited for; nobody needs that any more.
    runtime.shutdown_background();
    match outcome {
        Err(error) if error.kind() != ErrorKind::Usage => {
            super::print::print_error(context, &error);
            Ok(ExitCode::from(OUR_FAILURE))
        }
        outcome => outcome.map(ExitCode::from),
    }
}

fn requests(arguments: &Arguments, wants_terminal: bool) -> Vec<ExecRequest> {
    let terminal = wants_terminal.then(terminal_size);
    let mut request = ExecRequest { stdin: true, terminal, ..ExecRequest::default() };
    if let (true, Ok(kind)) = (wants_terminal, std::env::var("TERM")) {
        request.environment.insert("TERM".into(), kind);
    }
    if !arguments.command.is_empty() {
        return vec![ExecRequest { argv: arguments.command.clone(), ..request }];
    }
    request.environment.insert("HOME".into(), "/root".into());
    SHELLS.iter().map(|shell| ExecRequest { argv: shell.map(String::from).into(), ..request.clone() }).collect()
}

async fn connect_and_carry(context: &Context, record: &MachineRecord, arguments: &Arguments) -> Result<u8> {
    let name = full_name(record);
    let is_shell = arguments.command.is_empty();
    let wants_terminal = arguments.tty || (is_shell && std::io::stdin().is_terminal());
    let requests = requests(arguments, wants_terminal);
    // Held for as long as this lasts: a guest's agent has one port, with room for one.
    let (stream, _turn) = if record.kept {
        let (stream, turn) = through_the_agent(record, requests, arguments.within.duration()).await?;
        (stream, Some(turn))
    } else {
        let patience_ms = u64::try_from(arguments.within.duration().as_millis()).unwrap_or(u64::MAX);
        let call = Call::Command { machine: record.machine.clone(), requests, patience_ms };
        (call_run(record, &call).await?, None)
    };
    let (mut from_guest, to_guest) = stream.into_split();
    let mut signals = Signals::open()?;
    let lost = || format!("lost `{name}`");
    let started = tokio::select! {
        first = ToCaller::read(&mut from_guest) => first.infrastructure(lost)?,
        () = signals.next() => return Err(Error::new(ErrorKind::Interrupted, "stopped before the command began")),
    };
    let has_terminal = match started {
        Some(ToCaller::Started { terminal }) => terminal,
        Some(ToCaller::Refused { reason, message }) => return refused(&name, is_shell, reason, &message),
        Some(ToCaller::Lost { message }) => {
            return Err(Error::infrastructure(format!("failed to get into `{name}`"))
                .with_source(message)
                .hint(format!("`bootproof console {name}` shows what it does")));
        }
        _ => return Err(Error::infrastructure(lost())),
    };
    if is_shell && !context.quiet {
        eprintln!("a shell in {name}, through our agent and not by SSH; `exit` ends it");
    }
    if wants_terminal && !has_terminal {
        eprintln!("warning: the agent in {name} is too old to give a terminal");
    }
    let terminal = if has_terminal { RawTerminal::enter()? } else { None };
    let mut typing = tokio::spawn(type_into(to_guest, terminal.is_some()));
    let ended = loop {
        let frame = tokio::select! {
            frame = ToCaller::read(&mut from_guest) => frame,
            () = signals.next() => break Err(Error::new(ErrorKind::Interrupted, "stopped, and the command with it")),
        };
        match frame.infrastructure(lost) {
            Ok(Some(ToCaller::Output(bytes))) => {
                if let Err(error) = show(tokio::io::stdout(), &bytes).await {
                    break Err(error);
                }
            }
            Ok(Some(ToCaller::Error(bytes))) => {
                if let Err(error) = show(tokio::io::stderr(), &bytes).await {
                    break Err(error);
                }
            }
            Ok(Some(ToCaller::Exited(status))) => {
                break Ok(u8::try_from(status.shell_code() & 0xff).unwrap_or(OUR_FAILURE));
            }
            Ok(Some(ToCaller::Lost { message })) => break Err(Error::infrastructure(lost()).with_source(message)),
            Ok(Some(ToCaller::Started { .. } | ToCaller::Refused { .. })) => {
                break Err(Error::infrastructure(lost()).with_source("it answered twice"));
            }
            Ok(None) => break Err(Error::infrastructure(lost()).with_source("it went off, or its run is over")),
            Err(error) => break Err(error),
        }
    };
    typing.abort();
    let _ = (&mut typing).await;
    drop(terminal);
    ended
}

fn refused(name: &str, is_shell: bool, reason: RefusalReason, message: &str) -> Result<u8> {
    match reason {
        RefusalReason::NotFound if is_shell => Err(Error::infrastructure(format!("there is no shell in `{name}`"))
            .hint(format!("one command does without: `bootproof ssh {name} -- uname -a`"))),
        // As a shell says it.
        RefusalReason::NotFound => {
            eprintln!("bootproof: {message}");
            Ok(127)
        }
        RefusalReason::PermissionDenied => {
            eprintln!("bootproof: {message}");
            Ok(126)
        }
        _ => Err(Error::infrastructure(format!("failed to start it in `{name}`")).with_source(message.to_owned())),
    }
}

async fn show(mut to: impl tokio::io::AsyncWrite + Unpin, bytes: &[u8]) -> Result<()> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    written.await.infrastructure(|| "failed to pass on what the command says".into())
}

/// Until there is no more; the terminal's new sizes, too.
async fn type_into(mut guest: OwnedWriteHalf, has_terminal: bool) {
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    let mut stdin = tokio::io::stdin();
    let mut bytes = vec![0; 16 << 10];
    let mut open = true;
    loop {
        let frame = tokio::select! {
            count = stdin.read(&mut bytes), if open => match count {
                Ok(count @ 1..) => FromCaller::Input(bytes[..count].to_vec()),
                Ok(0) | Err(_) => {
                    open = false;
                    FromCaller::InputEnd
                }
            },
            Some(()) = resized.recv(), if has_terminal => FromCaller::Resize(terminal_size()),
            // Dropping our end would say that we are gone.
            else => std::future::pending().await,
        };
        if frame.write(&mut guest).await.is_err() {
            return;
        }
    }
}

/// The port of a kept machine's agent is free, unless another of us is there.
async fn through_the_agent(
    record: &MachineRecord,
    requests: Vec<ExecRequest>,
    patience: Duration,
) -> Result<(UnixStream, File)> {
    let name = full_name(record);
    let failed = || format!("failed to reach the agent of `{name}`");
    let folder = runtime(record);
    let turn = File::options().create(true).truncate(false).write(true).open(folder.join("agent.lock"));
    let turn = turn.infrastructure(failed)?;
    if flock(&turn, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Error::infrastructure(failed())
            .with_source("another `bootproof ssh` is in it, and a kept machine has room for one")
            .hint(format!("`bootproof console {name}` has room for several")));
    }
    let agent = UnixStream::connect(folder.join("agent.sock")).await.infrastructure(failed)?;
    let (ours, theirs) = UnixStream::pair().infrastructure(failed)?;
    tokio::spawn(async move {
        let (channel, _events) = AgentChannel::start(agent);
        // What cannot be told concerns nobody: we are the ones who listen.
        let _ = serve_command(&channel, requests, patience, theirs).await;
    });
    Ok((ours, turn))
}
