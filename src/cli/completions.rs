//! `bootproof completions`: the shell's part in typing our command lines, from their own definition.

use std::io::Write;
use std::process::ExitCode;

use crate::error::{Context as _, Result};

const AFTER_HELP: &str = "\
Examples:
  bootproof completions bash     goes to ~/.local/share/bash-completion/completions/bootproof
  bootproof completions fish     goes to ~/.config/fish/completions/bootproof.fish
  bootproof completions zsh      goes to a file `_bootproof` in one of the folders of its `fpath`";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Whose script to print on standard output
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "bootproof", &mut script);
    let mut output = std::io::stdout().lock();
    output
        .write_all(&script)
        .and_then(|()| output.flush())
        .infrastructure(|| "failed to write to standard output".into())?;
    Ok(ExitCode::SUCCESS)
}
