//! `bootproof lane`: list them, show one, check files, start a new one, print the JSON Schema.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::Context;
use super::print::print_error;
use crate::error::{Context as _, Error, Result};
use crate::lane::{Catalog, Lane, lane_schema, open, profile_schema};
use crate::plan::lane_text;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the lanes below profiles/, with what they prove
    List {
        /// As JSON, on standard output
        #[arg(long)]
        json: bool,
    },
    /// Show one lane with its defaults filled in
    Show {
        #[command(flatten)]
        lane: LaneArguments,
        /// As JSON, on standard output: what a run keeps as lane.json
        #[arg(long)]
        json: bool,
    },
    /// Tell all that is wrong with lane files; runs nothing that they name
    Check {
        /// Lane names or files
        #[arg(value_name = "LANE_OR_FILE", required_unless_present = "all")]
        lanes: Vec<String>,
        /// All lanes and profiles, and whether they fit each other
        #[arg(long, conflicts_with = "lanes")]
        all: bool,
    },
    /// Write NAME.toml in this folder: a lane to start from
    New {
        /// Lower-case letters, digits and hyphens
        name: String,
    },
    /// Print the JSON Schema of lane files, for editors
    Schema {
        /// Of profile files instead
        #[arg(long)]
        profile: bool,
    },
}

/// Which lane, and how it is changed before it is used.
#[derive(clap::Args)]
pub struct LaneArguments {
    /// A lane's name, or a file when it has a `/` or ends in .toml or .json
    #[arg(value_name = "LANE_OR_FILE")]
    pub lane: String,
    /// Change a value of the lane: machines.node01.memory=2GiB; may be given again
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Plant the bug of this control; `run` also takes `all`, for each in turn
    #[arg(long, value_name = "NAME")]
    pub control: Option<String>,
}

impl LaneArguments {
    /// Reads the lane, with overrides and the control applied.
    pub fn load(&self, context: &Context) -> Result<Lane> {
        let path = Catalog::scan(&context.project_root)?.locate(&self.lane)?;
        let file = open(&path, &context.project_root)?;
        match &self.control {
            Some(control) => file.with_control(control, &self.set),
            None => file.lane(&self.set),
        }
    }
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::List { json } => list(context, json),
        Command::Show { lane, json } => {
            let lane = lane.load(context)?;
            print(&if json { pretty_json(&lane)? } else { lane_text(&lane) })
        }
        Command::Check { lanes, all } => check(context, &lanes, all),
        Command::New { name } => new(context, &name),
        Command::Schema { profile } => print(&if profile { profile_schema() } else { lane_schema() }),
    }
}

/// Writes the answer to standard output; a reader that has gone away (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::infrastructure("failed to write to standard output").with_source(error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

pub(super) fn pretty_json<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).infrastructure(|| "failed to write JSON".into())?;
    text.push('\n');
    Ok(text)
}

fn list(context: &Context, as_json: bool) -> Result<ExitCode> {
    let catalog = Catalog::scan(&context.project_root)?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for entry in &catalog.lanes {
        let path = entry.path.strip_prefix(&context.project_root).unwrap_or(&entry.path);
        match open(&entry.path, &context.project_root).and_then(|file| file.lane(&[])) {
            Ok(lane) => {
                let controls: Vec<&str> = lane.controls.keys().map(String::as_str).collect();
                values.push(json!({
                    "name": entry.name, "profile": entry.profile, "tier": lane.tier, "summary": lane.summary,
                    "controls": controls, "valid": true, "path": path,
                }));
                rows.push([entry.name.clone(), entry.profile.clone(), lane.tier.to_string(), lane.summary]);
            }
            Err(error) => {
                values.push(json!({
                    "name": entry.name, "profile": entry.profile, "valid": false, "error": error.to_string(),
                    "path": path,
                }));
                let told = format!("not valid: see `bootproof lane check {}`", entry.name);
                rows.push([entry.name.clone(), entry.profile.clone(), "-".into(), told]);
            }
        }
    }
    if as_json {
        return print(&pretty_json(&values)?);
    }
    if rows.is_empty() {
        eprintln!("no lanes below `{}`", context.project_root.join("profiles").display());
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["LANE", "PROFILE", "TIER", "PROVES"].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [name, profile, tier, summary] in std::iter::once(&head).chain(&rows) {
        let [first, second, third] = widths;
        text.push_str(&format!("{name:first$}  {profile:second$}  {tier:third$}  {summary}\n"));
    }
    print(&text)
}

fn check(context: &Context, lanes: &[String], all: bool) -> Result<ExitCode> {
    let catalog = Catalog::scan(&context.project_root)?;
    let (checked, errors) = if all {
        let (lanes, errors) = catalog.check();
        if lanes.is_empty() && errors.is_empty() {
            return Err(Error::usage(format!(
                "no lanes are below `{}`",
                context.project_root.join("profiles").display()
            ))
            .hint("run from the project's folder"));
        }
        (lanes.len(), errors)
    } else {
        let mut errors = Vec::new();
        for lane in lanes {
            let outcome = catalog
                .locate(lane)
                .and_then(|path| open(&path, &context.project_root))
                .and_then(|file| file.lane(&[]));
            errors.extend(outcome.err());
        }
        (lanes.len() - errors.len(), errors)
    };
    for error in &errors {
        print_error(context, error);
    }
    if !errors.is_empty() {
        return Ok(ExitCode::from(2));
    }
    if !context.quiet {
        let count = if checked == 1 { "1 lane is".to_owned() } else { format!("{checked} lanes are") };
        eprintln!("{count} valid");
    }
    Ok(ExitCode::SUCCESS)
}

const STARTER: &str = include_str!("../lane/starter.toml");

fn new(context: &Context, name: &str) -> Result<ExitCode> {
    let path = PathBuf::from(format!("{name}.toml"));
    let schema = schema_comment(context);
    let text = STARTER.replace("NAME", name).replace("#:schema SCHEMA\n", &schema);
    // The name is what a user may get wrong here: the lane is checked before anything is written.
    crate::lane::LaneFile::parse(&path.display().to_string(), &text, crate::lane::Format::Toml, Path::new(""))?
        .lane(&[])?;
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => {
            eprintln!("wrote `{}`", path.display());
            eprintln!("next: `bootproof lane check ./{name}.toml`, then `bootproof run ./{name}.toml`");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::usage(format!("failed to write `{}`: it is there already", path.display()))
                .hint("take another name, or move the file away"))
        }
        Err(error) => Err(Error::usage(format!("failed to write `{}`", path.display())).with_source(error)),
    }
}

/// The line by which editors find the schema, where the project has it.
fn schema_comment(context: &Context) -> String {
    let schema = context.project_root.join("schemas/lane.schema.json");
    if !schema.is_file() {
        return String::new();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let up = here.strip_prefix(&context.project_root).map_or(0, |below| below.components().count());
    format!("#:schema {}schemas/lane.schema.json\n", if up == 0 { "./".to_owned() } else { "../".repeat(up) })
}
