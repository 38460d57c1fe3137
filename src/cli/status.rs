//! `bootproof status`: the runs that go on, and what came of the last one of each lane.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::Context;
use crate::error::{Error, Result};
use crate::event::Verdict;
use crate::event::reader::LogReader;
use crate::lane::model::Lane;
use crate::proof::{self, ProofEntry, root};
use crate::report::View;
use crate::report::standing::Standing;
use crate::report::text::{duration, one_line};

const AFTER_HELP: &str = "\
Examples:
  bootproof status                 runs under way, and the last verdict of each lane
  bootproof status a1b2c3d4        one run, by its name or the end of it
  bootproof status --json

A run that is under way is read from its log, with the same fold as every report.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only this one: `latest`, `LANE/latest`, a run's name or the end of it, or a proof's directory
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// As JSON, on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    under_way: Vec<Standing>,
    lanes: Vec<LaneStatus>,
}

/// The last run of a lane that is over.
#[derive(Serialize)]
struct LaneStatus {
    lane: String,
    run: String,
    /// `incomplete`: it was killed.
    verdict: Verdict,
    reason: Option<String>,
    /// RFC 3339.
    sealed_at: Option<String>,
    path: std::path::PathBuf,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let status = match &arguments.run {
        None => all(context)?,
        Some(run) => one(context, run)?,
    };
    if arguments.json {
        super::lane::print(&super::lane::pretty_json(&status)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if status.under_way.is_empty() && status.lanes.is_empty() && !context.quiet {
        eprintln!("nothing was run under `{}` yet: `bootproof run LANE` does", context.work_root.display());
    }
    super::lane::print(&text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn all(context: &Context) -> Result<Status> {
    let mut under_way = Vec::new();
    let mut last: BTreeMap<String, ProofEntry> = BTreeMap::new();
    for entry in proof::list(&context.work_root, None)? {
        if entry.seal.is_none() && proof::is_under_way(&entry.path) {
            under_way.push(standing(&entry.path)?);
        } else {
            // Of one lane the oldest comes first: where clocks have gone back, what was sealed last is the last.
            let is_newer = last.get(&entry.lane).is_none_or(|known| known.seal.is_none() || entry.seal.is_some());
            if is_newer {
                last.insert(entry.lane.clone(), entry);
            }
        }
    }
    let lanes = last.into_values().map(lane_status).collect();
    Ok(Status { under_way, lanes })
}

fn one(context: &Context, run: &str) -> Result<Status> {
    let found = proof::find(&context.work_root, run, None)?;
    if proof::is_under_way(&found) {
        return Ok(Status { under_way: vec![standing(&found)?], lanes: Vec::new() });
    }
    let replay = proof::replay(&found)?;
    let result = replay.story.result;
    let seal = proof::Seal::read(&found).ok().flatten();
    let name = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lane = LaneStatus {
        lane: result.lane.unwrap_or_default(),
        run: result.run.unwrap_or(name),
        verdict: result.verdict,
        reason: Some(result.reason),
        sealed_at: seal.map(|seal| seal.sealed_at),
        path: found,
    };
    Ok(Status { under_way: Vec::new(), lanes: vec![lane] })
}

fn lane_status(entry: ProofEntry) -> LaneStatus {
    LaneStatus {
        verdict: entry.seal.as_ref().map_or(Verdict::Incomplete, |seal| seal.verdict),
        reason: None,
        sealed_at: entry.seal.map(|seal| seal.sealed_at),
        lane: entry.lane,
        run: entry.run,
        path: entry.path,
    }
}

/// From the log as far as it is written.
fn standing(proof: &Path) -> Result<Standing> {
    let mut view = View::default();
    for event in LogReader::open(&proof.join(root::EVENTS_FILE))? {
        view.apply(&event?);
    }
    let lane = std::fs::read(proof.join(root::LANE_FILE)).ok();
    let lane: Option<Lane> = lane.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Standing::of(&view, lane.as_ref(), since_beginning(&view)?))
}

/// Nanoseconds between the run's first event and now.
fn since_beginning(view: &View) -> Result<u64> {
    let Some(began) = &view.first_wall else { return Ok(0) };
    let began: jiff::Timestamp = began
        .parse()
        .map_err(|error: jiff::Error| Error::infrastructure("the log's first event has no time").with_source(error))?;
    let elapsed = jiff::Timestamp::now().duration_since(began).as_nanos();
    // A clock that was set back tells less than the newest event.
    Ok(u64::try_from(elapsed).unwrap_or(0).max(view.elapsed_ns))
}

fn text(status: &Status) -> String {
    let mut text: String = status.under_way.iter().map(Standing::text).collect();
    if status.lanes.is_empty() {
        return text;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let cell = |lane: &LaneStatus| [one_line(&lane.lane), lane.verdict.as_str().into(), one_line(&lane.run), ago(lane)];
    let mut rows = vec![["LANE", "LAST VERDICT", "RUN", "WHEN"].map(String::from)];
    rows.extend(status.lanes.iter().map(cell));
    let widths: Vec<usize> = (0..4).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for (row, lane) in rows.iter().zip(std::iter::once(None).chain(status.lanes.iter().map(Some))) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        if let Some(reason) = lane.and_then(|lane| lane.reason.as_ref()) {
            text.push_str(&format!("  {}\n", one_line(reason)));
        }
    }
    text
}

fn ago(lane: &LaneStatus) -> String {
    let sealed: Option<jiff::Timestamp> = lane.sealed_at.as_ref().and_then(|sealed| sealed.parse().ok());
    match sealed.map(|sealed| jiff::Timestamp::now().duration_since(sealed).as_millis()) {
        Some(milliseconds) => format!("{} ago", duration(u64::try_from(milliseconds).unwrap_or(0))),
        None => "killed before its end".into(),
    }
}
