//! What every subcommand needs to know: where things are, and how to speak.

use std::env;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArguments {
    /// Where bootproof writes all that it writes
    #[arg(long, global = true, env = "BOOTPROOF_WORK_ROOT", value_name = "DIR", default_value = "work")]
    pub work_root: PathBuf,
    /// Say only what went wrong
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more on standard error; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The resolved surroundings of one invocation.
#[derive(Clone)]
pub struct Context {
    /// Absolute.
    pub work_root: PathBuf,
    /// The folder that holds `profiles/`: the working directory or the nearest one above it that has it, absolute.
    /// Without one, the working directory.
    pub project_root: PathBuf,
    pub quiet: bool,
    pub verbose: u8,
    /// Colour on standard error.
    pub color: bool,
    /// Standard error is a terminal: progress may redraw lines.
    pub interactive: bool,
}

impl Context {
    pub fn new(arguments: &GlobalArguments) -> Self {
        let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let interactive = std::io::stderr().is_terminal() && env::var_os("CI").is_none();
        let color = interactive && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            work_root: here.join(&arguments.work_root),
            project_root: project_root(&here),
            quiet: arguments.quiet,
            verbose: arguments.verbose,
            color,
            interactive,
        }
    }
}

fn project_root(here: &Path) -> PathBuf {
    if let Some(given) = env::var_os("BOOTPROOF_PROJECT_ROOT") {
        return here.join(given);
    }
    here.ancestors().find(|folder| folder.join("profiles").is_dir()).unwrap_or(here).to_path_buf()
}
