//! `bootproof proof`: what runs have left, and whether it is still what it was.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::Context;
use crate::error::{Context as _, Result};
use crate::event::Verdict;
use crate::proof::{self, ProofEntry, Replay, Verification};
use crate::report::document::Document;
use crate::report::json;
use crate::report::terminal::{self, Style};
use crate::report::text::one_line;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the proofs, by lane, the oldest first
    List {
        /// Only this lane's
        lane: Option<String>,
        /// As JSON, on standard output
        #[arg(long)]
        json: bool,
    },
    /// Tell what a run's log says: verdict, failure, gates, timeline, machines
    Show {
        #[command(flatten)]
        which: Which,
        /// As JSON, on standard output: result.json
        #[arg(long)]
        json: bool,
    },
    /// Compare a proof with its seal: every changed, missing or added file is named (exit 1)
    Verify {
        #[command(flatten)]
        which: Which,
    },
    /// Keep a proof from being pruned
    Pin {
        #[command(flatten)]
        which: Which,
    },
    /// Let a proof be pruned again
    Unpin {
        #[command(flatten)]
        which: Which,
    },
    /// Fold a run's log again: the same verdict and the same reports must come out (exit 1 otherwise)
    Replay {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(clap::Args)]
struct Which {
    /// `latest`, `LANE/latest`, a run's name or the end of it, or a proof's directory
    #[arg(default_value = "latest", value_name = "ID")]
    id: String,
    /// Look among this lane's runs only
    #[arg(long)]
    lane: Option<String>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let find = |which: &Which| proof::find(&context.work_root, &which.id, which.lane.as_deref());
    match arguments.command {
        Command::List { lane, json } => {
            let entries = proof::list(&context.work_root, lane.as_deref())?;
            if json {
                print(&listed_json(&entries)?)?
            } else {
                print(listed(&entries).as_bytes())?
            }
            if entries.is_empty() && !json && !context.quiet {
                eprintln!("no proofs under `{}`: `bootproof run LANE` makes one", context.work_root.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { which, json } => {
            let root = find(&which)?;
            let replay = proof::replay(&root)?;
            if json {
                print(
                    &json::bytes(&replay.story.result)
                        .infrastructure(|| "failed to express the result as JSON".into())?,
                )?;
            } else {
                print(terminal::details(&Document::of(&replay.story), &style(context, &root)).as_bytes())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { which } => {
            let root = find(&which)?;
            let verification = proof::verify(&root)?;
            print(verified(&root, &verification).as_bytes())?;
            Ok(ExitCode::from(u8::from(!verification.is_intact())))
        }
        Command::Pin { which } => proof::pin(&find(&which)?, true).map(|()| ExitCode::SUCCESS),
        Command::Unpin { which } => proof::pin(&find(&which)?, false).map(|()| ExitCode::SUCCESS),
        Command::Replay { which } => {
            let root = find(&which)?;
            let replay = proof::replay(&root)?;
            print(replayed(&root, &replay).as_bytes())?;
            Ok(ExitCode::from(u8::from(!replay.is_faithful())))
        }
    }
}

fn style(context: &Context, root: &Path) -> Style {
    let here = std::env::current_dir().unwrap_or_default();
    Style {
        root: one_line(&root.strip_prefix(here).unwrap_or(root).display().to_string()),
        show_command: String::new(),
        color: context.color && io::IsTerminal::is_terminal(&io::stdout()),
    }
}

/// Whoever reads may stop reading, as `head` does: that is no failure of ours.
fn print(bytes: &[u8]) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.infrastructure(|| "failed to write to standard output".into()),
    }
}

fn verdict(entry: &ProofEntry) -> Verdict {
    entry.seal.as_ref().map_or(Verdict::Incomplete, |seal| seal.verdict)
}

fn listed(entries: &[ProofEntry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let width = |head: &str, cell: fn(&ProofEntry) -> &str| {
        entries.iter().map(|entry| one_line(cell(entry)).chars().count()).max().unwrap_or(0).max(head.len())
    };
    let (first, second) = (width("LANE", |entry| &entry.lane), width("RUN", |entry| &entry.run));
    let line = |entry: &ProofEntry| {
        let latest = match (entry.latest, proof::is_pinned(&entry.path)) {
            (true, true) => "  latest, pinned",
            (true, false) => "  latest",
            (false, true) => "  pinned",
            (false, false) => "",
        };
        let (lane, run) = (one_line(&entry.lane), one_line(&entry.run));
        format!("{lane:first$}  {run:second$}  {}{latest}\n", verdict(entry).as_str())
    };
    let mut text = format!("{:first$}  {:second$}  VERDICT\n", "LANE", "RUN");
    text.extend(entries.iter().map(line));
    text
}

fn listed_json(entries: &[ProofEntry]) -> Result<Vec<u8>> {
    let values: Vec<serde_json::Value> = entries
        .iter()
        .map(|entry| {
            serde_json::json!({
                "lane": entry.lane,
                "run": entry.run,
                "path": entry.path,
                "verdict": verdict(entry),
                "sealed_at": entry.seal.as_ref().map(|seal| &seal.sealed_at),
                "latest": entry.latest,
                "pinned": proof::is_pinned(&entry.path),
            })
        })
        .collect();
    json::bytes(&values).infrastructure(|| "failed to express the list as JSON".into())
}

fn name(root: &Path) -> String {
    let parts: Vec<String> = root.iter().rev().take(2).map(|part| one_line(&part.to_string_lossy())).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn verified(root: &Path, verification: &Verification) -> String {
    let files = |count: u64| crate::report::text::count(count, "file");
    let mut text = String::new();
    match (&verification.seal, verification.is_intact()) {
        (Some(seal), true) => {
            text.push_str(&format!(
                "intact: {}, {} as sealed with verdict {} at {}\n",
                name(root),
                files(verification.intact),
                seal.verdict.as_str(),
                one_line(&seal.sealed_at)
            ));
            text.push_str(&format!("note: {}\n", one_line(&seal.note)));
        }
        (_, _) => {
            for finding in &verification.findings {
                text.push_str(&format!("{finding}\n"));
            }
            text.push_str(&format!("not intact: {}, {} as sealed\n", name(root), files(verification.intact)));
        }
    }
    text
}

fn replayed(root: &Path, replay: &Replay) -> String {
    let mut text = String::new();
    for difference in &replay.differences {
        text.push_str(&format!("{difference}\n"));
    }
    if replay.torn_bytes > 0 {
        text.push_str(&format!("note: the log's last line was torn after {} bytes and left out\n", replay.torn_bytes));
    }
    for name in &replay.identical {
        text.push_str(&format!("identical: {name}\n"));
    }
    let result = &replay.story.result;
    let ours = env!("CARGO_PKG_VERSION");
    if let Some(theirs) = result.tool_version.as_ref().filter(|theirs| !replay.is_faithful() && *theirs != ours) {
        text.push_str(&format!("note: the run was made by bootproof {}, and this is {ours}\n", one_line(theirs)));
    }
    let events = crate::report::text::count(replay.view.events, "event");
    text.push_str(&format!(
        "{}: {} from {events}: {}\n",
        name(root),
        result.verdict.as_str(),
        one_line(&result.reason)
    ));
    text
}
