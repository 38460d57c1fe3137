//! `bootproof budget`: what the work root takes, and whether it may.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Context;
use super::lane::{pretty_json, print};
use crate::budget::{BudgetDocument, Budgeted, Over, Part, Sizes, Usage};
use crate::error::{ErrorKind, Result};
use crate::event::Verdict;
use crate::lane::units::Size;
use crate::machine::registry;
use crate::preflight::host;
use crate::proof::{self, Judged, Kept};
use crate::report::text::{count as count_of, one_line};

const AFTER_HELP: &str = "\
Sizes are what is allocated on the disk: holes are nothing, and what several places share counts once.
Bounds stand in `budget.toml` in the work root, else in the project (docs/budget.md).";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Tell what the work root and its parts take, beside what they may
    Status(Output),
    /// As `status`, and exit with 5 where something takes more than it may
    Enforce(Output),
    /// Remove all but the newest proofs of each lane. Pinned ones stay, and the latest, those of runs that go on, and the only
    /// one with which a lane passes
    PruneProofs {
        /// How many of each lane stay
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Do it; without, it is only told what would go
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(clap::Args)]
struct Output {
    /// As JSON, on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Status(output) => {
            tell(context, &output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::PruneProofs { keep, apply, output } => prune_proofs(context, keep, apply, &output),
        Command::Enforce(output) => {
            let over = tell(context, &output)?;
            if over.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            for over in &over {
                eprintln!("over: {} take {}, and may take {}", over.what, shown(over.used), Size(over.limit));
            }
            eprintln!(
                "hint: `bootproof clean`, `bootproof budget prune-proofs` and `bootproof checkpoint prune` make room"
            );
            Ok(ExitCode::from(ErrorKind::Budget.exit_code()))
        }
    }
}

fn prune_proofs(context: &Context, keep: u32, apply: bool, output: &Output) -> Result<ExitCode> {
    let up: BTreeSet<String> = registry::peek(&context.work_root)?.into_iter().map(|record| record.run).collect();
    let judged = proof::judge_all(&context.work_root, keep as usize, |run| up.contains(run))?;
    let sizes = Sizes::survey(&context.work_root)?;
    let (mut entries, mut text, mut freed, mut count) = (Vec::new(), String::new(), 0, 0u64);
    for Judged { entry, mut kept } in judged {
        let bytes = sizes.scan.below(&Path::new("proofs").join(&entry.lane).join(&entry.run)).freed();
        if kept.is_none() && apply && !proof::remove(&entry.path)? {
            // Something has come between.
            kept = Some(Kept::UnderWay);
        }
        let verdict = entry.seal.as_ref().map_or(Verdict::Incomplete, |seal| seal.verdict).as_str();
        if kept.is_none() {
            (freed, count) = (freed + bytes, count + 1);
            let (lane, run) = (one_line(&entry.lane), one_line(&entry.run));
            text.push_str(&format!("{:>10}  {lane}  {run}  {verdict}\n", shown(bytes)));
        }
        entries.push(json!({
            "lane": entry.lane, "run": entry.run, "verdict": verdict, "bytes": bytes,
            "goes": kept.is_none(), "kept_because": kept.map(kept_because),
        }));
    }
    if output.json {
        let document = json!({ "version": 1, "applied": apply, "freed": freed, "proofs": entries });
        return print(&pretty_json(&document)?);
    }
    print(&text)?;
    if !context.quiet {
        let proofs = count_of(count, "proof");
        match (count, apply) {
            (0, _) => eprintln!("there is nothing to remove"),
            (_, true) => eprintln!("{proofs} removed, {} freed", shown(freed)),
            (_, false) => eprintln!("{proofs} would go and free {}; `--apply` removes them", shown(freed)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kept_because(kept: Kept) -> &'static str {
    match kept {
        Kept::Newest => "newest",
        Kept::Pinned => "pinned",
        Kept::Latest => "latest",
        Kept::UnderWay => "under-way",
        Kept::OnlyPassing => "only-passing",
    }
}

/// Prints what there is, and gives what is too much.
fn tell(context: &Context, output: &Output) -> Result<Vec<Over>> {
    // A broken file is told before anything is counted.
    let (budget, file) = BudgetDocument::load(&context.work_root, &context.project_root)?;
    let sizes = Sizes::survey(&context.work_root)?;
    let over = sizes.over(&budget);
    let free = host::free_disk(&context.work_root);
    if output.json {
        print(&pretty_json(&document(&context.work_root, &sizes, &budget, file.as_deref(), &over, free))?)?;
    } else {
        print(&table(&context.work_root, &sizes, &budget, free))?;
    }
    for problem in &sizes.problems {
        let path = context.work_root.join(&problem.path);
        eprintln!("warning: not counted: `{}`: {}", one_line(&path.display().to_string()), problem.reason);
    }
    Ok(over)
}

/// Every line of the table: what, how much, how much it may be.
fn lines<'a>(sizes: &'a Sizes, budget: &'a BudgetDocument) -> Vec<(Budgeted, Usage, Option<Size>)> {
    let parts = Part::ALL
        .into_iter()
        .map(|part| (Budgeted::Part(part), sizes.parts.get(&part).copied().unwrap_or_default(), budget.soft.of(part)));
    let lanes = sizes.lanes.iter().map(|(lane, usage)| {
        (Budgeted::Lane(lane.clone()), *usage, budget.lanes.get(lane).copied().or(budget.soft.lane))
    });
    let total = (Budgeted::Total, sizes.total, budget.soft.total);
    parts.chain([total]).chain(lanes).collect()
}

fn name(what: &Budgeted) -> String {
    match what {
        Budgeted::Total => "total".into(),
        Budgeted::Part(part) => part.as_str().into(),
        Budgeted::Lane(lane) => format!("proofs/{}", one_line(lane)),
    }
}

fn table(work_root: &Path, sizes: &Sizes, budget: &BudgetDocument, free: Option<u64>) -> String {
    let mut rows = vec![["PART".to_owned(), "SIZE".into(), "FILES".into(), "BUDGET".into()]];
    for (what, usage, limit) in lines(sizes, budget) {
        let over = limit.is_some_and(|limit| usage.bytes > limit.bytes());
        let limit = limit.map_or_else(|| "-".into(), |limit| limit.to_string());
        let limit = if over { format!("{limit}  over") } else { limit };
        rows.push([name(&what), shown(usage.bytes), usage.files.to_string(), limit]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    let mut text = String::new();
    for [what, size, files, limit] in &rows {
        text.push_str(&format!("{what:<first$}  {size:>second$}  {files:>third$}  {limit}\n"));
    }
    if let Some(free) = free {
        text.push_str(&format!("{} free for `{}`\n", shown(free), one_line(&work_root.display().to_string())));
    }
    text
}

fn document(
    work_root: &Path,
    sizes: &Sizes,
    budget: &BudgetDocument,
    file: Option<&Path>,
    over: &[Over],
    free: Option<u64>,
) -> Value {
    let entry = |usage: &Usage, limit: Option<Size>| {
        json!({
            "bytes": usage.bytes, "files": usage.files, "folders": usage.folders,
            "budget": limit.map(Size::bytes),
            "over": limit.is_some_and(|limit| usage.bytes > limit.bytes()),
        })
    };
    let (mut parts, mut lanes, mut total) = (serde_json::Map::new(), serde_json::Map::new(), Value::Null);
    for (what, usage, limit) in lines(sizes, budget) {
        let entry = entry(&usage, limit);
        match what {
            Budgeted::Total => total = entry,
            Budgeted::Part(part) => drop(parts.insert(part.as_str().into(), entry)),
            Budgeted::Lane(lane) => drop(lanes.insert(lane, entry)),
        }
    }
    let problems = sizes.problems.iter().map(|problem| json!({ "path": problem.path, "reason": problem.reason }));
    json!({
        "version": 1,
        "work_root": work_root,
        "budget_file": file,
        "total": total,
        "parts": parts,
        "lanes": lanes,
        "free": free,
        "within_budget": over.is_empty(),
        "problems": problems.collect::<Vec<_>>(),
    })
}

fn shown(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}
