//! `bootproof debug`: runs a lane, and stops where it fails, with the machines up.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::sync::Notify;

use super::backend::BackendArguments;
use super::lane::LaneArguments;
use super::planning::PlanArguments;
use super::{Context, run};
use crate::error::Result;
use crate::event::Release;
use crate::report::progress::Progress;
use crate::run::{Debugger, Held};

const AFTER_HELP: &str = "\
Examples:
  bootproof debug quickstart
  bootproof debug quickstart --at kv-healthy     before that step, too
  bootproof debug quickstart --control kv-down

The run stands still after a step that fails, with machines, networks and deployer as they are and deadlines stopped.
`bootproof ssh`, `console` and `logs` get into its machines from another terminal. Enter goes on, `r` tries the failed step
again, Ctrl-C ends the run. What failed stays failed, and a run that stood still never passes: without a failure its verdict
is `interrupted` (130).";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    lane: LaneArguments,
    #[command(flatten)]
    plan: PlanArguments,
    #[command(flatten)]
    backend: BackendArguments,
    /// Stand still before this step as well
    #[arg(long, value_name = "STEP")]
    at: Option<String>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let Arguments { lane, plan, backend, at } = arguments;
    run::run(context, run::Arguments::for_debugging(lane, plan, backend, at))
}

/// The user, at standard input.
pub struct AtTerminal {
    progress: Arc<Mutex<Progress>>,
    /// Told once the event is shown: what is said here comes after it.
    shown: Arc<Notify>,
    lines: tokio::sync::Mutex<Lines<BufReader<Stdin>>>,
}

impl AtTerminal {
    pub fn new(progress: Arc<Mutex<Progress>>, shown: Arc<Notify>) -> Self {
        Self { progress, shown, lines: tokio::sync::Mutex::new(BufReader::new(tokio::io::stdin()).lines()) }
    }

    fn say(&self, text: &str) {
        self.progress.lock().expect("rendering does not panic").say(text);
    }
}

impl Debugger for AtTerminal {
    fn held<'a>(&'a self, held: &'a Held) -> BoxFuture<'a, Release> {
        async move {
            self.shown.notified().await;
            let up = if held.machines.is_empty() { "none is up".into() } else { held.machines.join(", ") };
            self.say(&format!("  machines  {up}; nothing is torn down, and no deadline passes"));
            if let Some(first) = held.machines.first() {
                for (command, does) in run::ways_in(first) {
                    self.say(&format!("  {command:<28}  {does}, from another terminal"));
                }
            }
            let again = if held.failed { "`r` and Enter try the step again, " } else { "" };
            self.say(&format!("  Enter goes on, {again}Ctrl-C ends the run"));
            let mut lines = self.lines.lock().await;
            loop {
                match lines.next_line().await.map(|line| line.map(|line| line.trim().to_owned())) {
                    Ok(Some(line)) if line.is_empty() => return Release::GoOn,
                    Ok(Some(line)) if line == "r" && held.failed => return Release::Retry,
                    Ok(Some(line)) => self.say(&format!("  `{line}` means nothing here")),
                    // Nobody can say it any more: a signal ends the run.
                    Ok(None) | Err(_) => {
                        self.say("  standard input has ended: only a signal ends this");
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
        .boxed()
    }
}
