//! `bootproof run`: boots the machines, does the steps, leaves the proof.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::Context;
use super::backend::BackendArguments;
use super::debug::AtTerminal;
use super::fresh::Fresh;
use super::lane::LaneArguments;
use super::planning::{PlanArguments, StartArgument};
use super::print::print_error;
use crate::budget::{Admission, BudgetDocument};
use crate::error::{Error, Result};
use crate::event::{Kind, Verdict};
use crate::image::ImageProgress;
use crate::lane::model::Lane;
use crate::lane::units::Span;
use crate::proof::environment::ExecutionModel;
use crate::proof::{check_destination, copy};
use crate::report::progress::{Mode, Progress, Tick};
use crate::report::terminal::{self, Style};
use crate::run::{Debugging, Keep, RunOptions, RunOutcome};

const AFTER_HELP: &str = "\
Examples:
  bootproof run smoke
  bootproof run ./my-lane.toml --set machines.node01.memory=2GiB
  bootproof run smoke --control all     every planted bug must fail at its gate
  bootproof run smoke --keep-on-failure
  bootproof run smoke --fresh

Exit codes: 0 passed or reproduced, 1 failed, 2 wrong arguments or an invalid lane, 3 blocked,
4 infrastructure, 5 budget, 130 interrupted.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    lane: LaneArguments,
    #[command(flatten)]
    plan: PlanArguments,
    #[command(flatten)]
    backend: BackendArguments,
    /// Use nothing that an earlier run has left: images are built anew, machines boot, the accelerator is proven again; all
    /// of it in a folder that goes with the run. What Nix has built stays built
    #[arg(long)]
    fresh: bool,
    /// Leave up what is up when the steps are over; `bootproof ps` and `bootproof stop` find it again
    #[arg(long, env = "BOOTPROOF_KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
    /// Leave them up only where the verdict is not a good one, to look into
    #[arg(long)]
    keep_on_failure: bool,
    /// What to do where other runs have what this one needs of memory, processors or disk: wait for them, or be blocked
    #[arg(long, value_enum, default_value = "wait", env = "BOOTPROOF_ADMISSION", value_name = "HOW")]
    admission: AdmissionArgument,
    /// How long to wait for other runs before the run is blocked
    #[arg(long, default_value = "1h", env = "BOOTPROOF_WAIT_AT_MOST", value_name = "TIME", value_parser = parse_span)]
    wait_at_most: Span,
    /// result.json on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// Copy the proof there when the run is over, whatever its verdict; nothing may be in that place
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Set by the runners and checks that Nix builds
    #[arg(long, env = "BOOTPROOF_EXECUTION_MODEL", value_enum, hide = true)]
    execution_model: Option<StartedBy>,
    /// Set by `bootproof debug`.
    #[arg(skip)]
    debug: Option<Stops>,
}

/// Where a run that is debugged stands still, besides at failures.
#[derive(Clone)]
struct Stops {
    at: Option<String>,
}

impl Arguments {
    /// What `bootproof debug` runs.
    pub(super) fn for_debugging(
        lane: LaneArguments,
        plan: PlanArguments,
        backend: BackendArguments,
        at: Option<String>,
    ) -> Self {
        Self {
            lane,
            plan,
            backend,
            fresh: false,
            keep: false,
            keep_on_failure: false,
            json: false,
            output: None,
            execution_model: None,
            admission: AdmissionArgument::Wait,
            wait_at_most: Span::from_secs(3600),
            debug: Some(Stops { at }),
        }
    }
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum AdmissionArgument {
    Wait,
    Block,
}

fn parse_span(text: &str) -> Result<Span, String> {
    text.parse()
}

/// What started the run, for environment.json.
#[derive(clap::ValueEnum, Clone, Copy)]
enum StartedBy {
    MaterializedCheckRunner,
    SandboxedCheck,
}

impl StartedBy {
    fn model(self) -> ExecutionModel {
        match self {
            StartedBy::MaterializedCheckRunner => ExecutionModel::MaterializedCheckRunner,
            StartedBy::SandboxedCheck => ExecutionModel::SandboxedCheck,
        }
    }
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let runtime = super::runtime()?;
    let outcome = run_all(context, &arguments, &runtime);
    // A recording from standard input may still be waited for; nobody needs that any more.
    runtime.shutdown_background();
    outcome
}

fn run_all(context: &Context, arguments: &Arguments, runtime: &tokio::runtime::Runtime) -> Result<ExitCode> {
    if let Some(output) = &arguments.output {
        if arguments.lane.control.as_deref() == Some("all") {
            return Err(Error::usage("`--output` takes one proof, and `--control all` makes several"));
        }
        check_destination(output)?;
    }
    let mut worst: Option<Verdict> = None;
    let mut results = Vec::new();
    if arguments.fresh && (arguments.keep || arguments.keep_on_failure) {
        return Err(Error::usage("a `--fresh` run cannot keep machines")
            .hint("they live on images that are removed with the run; leave out one of the two"));
    }
    for (mut lane, control) in lanes(context, arguments)? {
        arguments.backend.put(&mut lane);
        check_stop(&lane, arguments)?;
        // Gone when this is dropped, whatever becomes of the run.
        let fresh = if arguments.fresh { Some(Fresh::make(&context.work_root)?) } else { None };
        let caches = fresh.as_ref().map_or(&*context.work_root, Fresh::path);
        let mut how = arguments.plan.clone();
        if arguments.fresh {
            how.start = Some(StartArgument::Boot);
        }
        let mut plan = how.plan(&Context { work_root: caches.into(), ..context.clone() }, lane, control)?;
        arguments.backend.complete(&mut plan);
        let outcome = runtime.block_on(run_one(context, arguments, plan, caches))?;
        worst = Some(worst.map_or(outcome.verdict, |worst| graver(worst, outcome.verdict)));
        let stop = outcome.verdict == Verdict::Interrupted;
        results.push(outcome.story.result);
        if stop {
            break;
        }
    }
    if arguments.json {
        // One run gives its result; several give a list.
        let text = match results.as_slice() {
            [result] => super::lane::pretty_json(result)?,
            results => super::lane::pretty_json(&results)?,
        };
        super::lane::print(&text)?;
    }
    let verdict = worst.ok_or_else(|| Error::usage("the lane has no controls").hint("leave out `--control all`"))?;
    Ok(ExitCode::from(verdict.exit_code()))
}

/// The lane as asked for; with `--control all` once for each of its controls.
fn lanes(context: &Context, arguments: &Arguments) -> Result<Vec<(Lane, Option<String>)>> {
    if arguments.lane.control.as_deref() != Some("all") {
        return Ok(vec![(arguments.lane.load(context)?, arguments.lane.control.clone())]);
    }
    let of = |control: Option<String>| LaneArguments {
        lane: arguments.lane.lane.clone(),
        set: arguments.lane.set.clone(),
        control,
    };
    let names: Vec<String> = of(None).load(context)?.controls.into_keys().collect();
    names.into_iter().map(|name| Ok((of(Some(name.clone())).load(context)?, Some(name)))).collect()
}

/// There is such a step to stand still before.
fn check_stop(lane: &Lane, arguments: &Arguments) -> Result<()> {
    let Some(at) = arguments.debug.as_ref().and_then(|stops| stops.at.as_ref()) else { return Ok(()) };
    if lane.steps.iter().any(|step| step.name == *at) {
        return Ok(());
    }
    let names: Vec<&str> = lane.steps.iter().map(|step| step.name.as_str()).collect();
    Err(Error::usage(format!("the lane `{}` has no step `{at}`", lane.name))
        .hint(format!("its steps are: {}", names.join(", "))))
}

async fn run_one(
    context: &Context,
    arguments: &Arguments,
    plan: crate::plan::Plan,
    caches: &std::path::Path,
) -> Result<RunOutcome> {
    // Whoever debugs wants to know where it stands.
    let quiet = context.quiet && arguments.debug.is_none();
    let mode = match (quiet, context.interactive) {
        (true, _) => Mode::Quiet,
        (false, true) => Mode::Interactive,
        (false, false) => Mode::Plain,
    };
    let progress = Arc::new(Mutex::new(Progress::new(mode, context.verbose, context.color)));
    let shown = progress.clone();
    let held = Arc::new(Notify::new());
    let told = held.clone();
    let observer = Box::new(move |event: &crate::event::Event, view: &crate::report::View| {
        shown.lock().expect("rendering does not panic").apply(event, view);
        if matches!(event.event, Kind::RunHeld { .. }) {
            told.notify_one();
        }
    });
    let debugging = arguments.debug.as_ref().map(|stops| Debugging {
        debugger: Arc::new(AtTerminal::new(progress.clone(), held.clone())),
        at: stops.at.clone(),
    });
    let options = RunOptions {
        plan,
        caches: caches.into(),
        debugging,
        work_root: context.work_root.clone(),
        project_root: context.project_root.clone(),
        keep: match (arguments.keep, arguments.keep_on_failure) {
            (true, _) => Keep::Always,
            (false, true) => Keep::OnFailure,
            (false, false) => Keep::Never,
        },
        locked: arguments.plan.locked,
        started_by: arguments.execution_model.map(StartedBy::model),
        admission: match arguments.admission {
            AdmissionArgument::Wait => Admission::Wait,
            AdmissionArgument::Block => Admission::Block,
        },
        wait_at_most: arguments.wait_at_most.duration(),
        budget: BudgetDocument::load(&context.work_root, &context.project_root)?.0,
    };
    let builds = Arc::new(BuildProgress { progress: progress.clone() });
    let outcome = crate::run::run(options, observer, builds).await;
    progress.lock().expect("rendering does not panic").finish();
    let outcome = outcome?;
    for warning in &outcome.warnings {
        print_error(context, warning);
    }
    let good = outcome.verdict.exit_code() == 0;
    if !(context.quiet && good) {
        let root = shown_path(&outcome.root);
        let show_command = format!("bootproof proof show {}", outcome.story.result.run.as_deref().unwrap_or("latest"));
        let style = Style { root, show_command, color: context.color };
        eprint!("{}", terminal::summary(&outcome.story, &style));
    }
    // Whoever asked for less to be said still has to know what goes on.
    if !outcome.kept.is_empty() && !context.quiet {
        eprint!("{}", how_to_get_in(&outcome));
    }
    if let Some(output) = &arguments.output {
        copy(&outcome.root, output)?;
    }
    Ok(outcome)
}

/// What is still up, and what can be done with it.
fn how_to_get_in(outcome: &RunOutcome) -> String {
    let first = outcome.kept.first().map(String::as_str).unwrap_or_default();
    let mut text = format!("kept: {}\n", outcome.kept.join(", "));
    let end = ("bootproof stop --all".to_owned(), "ends all that is up");
    for (command, does) in ways_in(first).into_iter().chain([end]) {
        text.push_str(&format!("  {command:<28}  {does}\n"));
    }
    text
}

/// Commands that get into a machine that is up, and what each gives.
pub(super) fn ways_in(machine: &str) -> [(String, &'static str); 3] {
    [
        (format!("bootproof ssh {machine}"), "a shell in it"),
        (format!("bootproof console {machine}"), "its serial console"),
        (format!("bootproof logs {machine} -f"), "what it prints"),
    ]
}

/// The path as the user can open it from where they are, the shorter form if there is one.
fn shown_path(path: &std::path::Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Of several runs the one that decides the exit code: what is not the product's fault first, as within one run.
fn graver(left: Verdict, right: Verdict) -> Verdict {
    let rank = |verdict: Verdict| match verdict {
        Verdict::Infrastructure => 0,
        Verdict::Incomplete => 1,
        Verdict::Budget => 2,
        Verdict::Interrupted => 3,
        Verdict::Failed => 4,
        Verdict::Blocked => 5,
        Verdict::Reproduced => 6,
        Verdict::Passed => 7,
    };
    if rank(right) < rank(left) { right } else { left }
}

/// Shows what image builds do: lines, or what is going on right now.
pub(super) struct BuildProgress {
    pub progress: Arc<Mutex<Progress>>,
}

impl ImageProgress for BuildProgress {
    fn stage(&self, image: &str, what: &str) {
        let mut progress = self.progress.lock().expect("rendering does not panic");
        progress.say(&format!("image {image}: {what}"));
        progress.tick(Tick::Work { name: image, done: 0, total: None });
    }

    fn advance(&self, image: &str, done: u64, total: u64, last: &str) {
        let tick = Tick::Parts { name: image, done, total, last };
        self.progress.lock().expect("rendering does not panic").tick(tick);
    }

    fn warning(&self, image: &str, text: &str) {
        self.progress.lock().expect("rendering does not panic").warn(&format!("image {image}: {text}"));
    }
}
