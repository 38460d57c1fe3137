//! `bootproof man`: manual pages, from the command line's own definition.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::{Context as _, Error, Result};

const AFTER_HELP: &str = "\
Examples:
  bootproof man                             for `man -l -` to show
  bootproof man ~/.local/share/man/man1     where `man bootproof-run` finds them";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Write a page for every command there, `bootproof.1`, `bootproof-run.1` and so on; without it the first of them goes
    /// to standard output
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let pages = pages().infrastructure(|| "failed to make the manual pages".into())?;
    let Some(folder) = arguments.folder else {
        let (_, page) = pages.first().expect("the program itself has a page");
        let mut output = std::io::stdout().lock();
        output
            .write_all(page)
            .and_then(|()| output.flush())
            .infrastructure(|| "failed to write to standard output".into())?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(&folder)
        .map_err(|error| Error::storage(error, format!("failed to make the folder `{}`", folder.display())))?;
    for (name, page) in pages {
        let path = folder.join(name);
        fs::write(&path, page)
            .map_err(|error| Error::storage(error, format!("failed to write `{}`", path.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// File names and texts, the program's own first.
fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = super::command().disable_help_subcommand(true);
    // Gives each command its whole name, and what all of them take.
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    pages.push((man.get_filename(), page));
    command.get_subcommands().filter(|inner| !inner.is_hide_set()).try_for_each(|inner| add(inner, pages))
}
