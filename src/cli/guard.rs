//! `bootproof guard`: whether the project keeps what its profiles promise.

use std::process::ExitCode;

use jiff::Zoned;

use super::Context;
use super::image::cancelled_by_signals;
use super::lane::print;
use crate::error::{Error, Result};
use crate::guard::{self, NixOptions, Report};

const AFTER_HELP: &str = "\
Exit codes: 0 nothing found, 1 something found, 2 wrong arguments or an allow list that is not valid,
3 blocked, 4 infrastructure, 130 interrupted. Exceptions stand in profiles/guards.toml.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Force every canonical entry point: profiles, lanes, commands, outputs of the flake
    Eval(NixArguments),
    /// Build the outputs of the flake that profiles promise
    Build(NixArguments),
    /// Tell what is not finished in what is shipped or published, and archived helpers that came back
    Surface {
        #[command(flatten)]
        format: FormatArguments,
    },
}

#[derive(clap::Args)]
struct FormatArguments {
    /// How findings are written
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// A line for each, and annotations as well where GitHub runs it
    Text,
    Json,
}

#[derive(clap::Args)]
struct NixArguments {
    #[command(flatten)]
    format: FormatArguments,
    /// Outputs of the flake that cannot be tried are `blocked`, not skipped
    #[arg(long)]
    require_nix: bool,
    /// Handed on to Nix: -- --override-input nixpkgs path:DIR
    #[arg(last = true, value_name = "NIX_OPTION")]
    nix: Vec<String>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let today = Zoned::now().date();
    let root = std::fs::canonicalize(&context.project_root).unwrap_or_else(|_| context.project_root.clone());
    match arguments.command {
        Command::Surface { format } => {
            let work_root = std::fs::canonicalize(&context.work_root).unwrap_or_else(|_| context.work_root.clone());
            give(&guard::surface(&root, &work_root, today)?, format, false)
        }
        Command::Eval(arguments) => super::runtime()?.block_on(async {
            let options = NixOptions { arguments: &arguments.nix, cancel: &cancelled_by_signals()? };
            let report = guard::evaluate(&root, &understand, &options, today).await?;
            give(&report, arguments.format, arguments.require_nix)
        }),
        Command::Build(arguments) => super::runtime()?.block_on(async {
            let options = NixOptions { arguments: &arguments.nix, cancel: &cancelled_by_signals()? };
            let report = guard::build(&root, &options, today).await?;
            give(&report, arguments.format, arguments.require_nix)
        }),
    }
}

/// Reads a command line of bootproof without running it: gives the lane of `run`.
fn understand(words: &[String]) -> Result<Option<String>, String> {
    let matches = super::command().try_get_matches_from(words).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    let lane = matches.subcommand_matches("run").and_then(|run| run.get_one::<String>("lane"));
    Ok(lane.cloned())
}

fn give(report: &Report, format: FormatArguments, require_nix: bool) -> Result<ExitCode> {
    let mut text = match format.format {
        Format::Json => guard::json(report),
        Format::Text => guard::text(report),
    };
    if matches!(format.format, Format::Text) && std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
    {
        text.insert_str(0, &guard::annotations(report));
    }
    print(&text)?;
    if !report.findings.is_empty() {
        return Ok(ExitCode::from(1));
    }
    match report.skipped.first() {
        Some(skipped) if require_nix => Err(Error::blocked(format!("{}: {}", skipped.what, skipped.reason))
            .hint("install Nix (https://nixos.org/download, or `apt-get install nix-bin` on Debian)")),
        _ => Ok(ExitCode::SUCCESS),
    }
}
