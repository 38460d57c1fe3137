//! `bootproof libvirt`: what runs have left behind at a libvirt.

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::machine::libvirt::{self, DEFAULT_URI, Target};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// End the domains that carry our name and the mark of a run of this work root that is over
    Prune {
        /// Which libvirt, by any URI that libvirt takes
        #[arg(long, env = "BOOTPROOF_LIBVIRT_URI", value_name = "URI", default_value = DEFAULT_URI)]
        libvirt_uri: String,
        /// Only tell which
        #[arg(long)]
        dry_run: bool,
    },
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let Action::Prune { libvirt_uri, dry_run } = arguments.action;
    let left = libvirt::prune(&Target::new(&libvirt_uri), &context.work_root, dry_run)?;
    for one in &left {
        println!("{}", one.domain);
    }
    if !context.quiet {
        let done = if dry_run { "would be ended" } else { "ended" };
        eprintln!(
            "{} {done}",
            match left.len() {
                0 => "nothing".into(),
                1 => "1 domain".into(),
                count => format!("{count} domains"),
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}
