//! `bootproof checkpoint`: the checkpoints that are there, and making room.

use std::process::ExitCode;

use serde_json::json;

use super::Context;
use super::lane::{pretty_json, print};
use crate::checkpoint::{CheckpointStore, StoredCheckpoint, cap};
use crate::error::Result;
use crate::lane::units::Size;

const AFTER_HELP: &str = "\
A checkpoint is a machine that has booted, saved; machines are forked from it (`--start checkpoint`, or `start` in a lane).
Those that were not used for longest go when all of them would take more than BOOTPROOF_CHECKPOINT_CAP (8GiB).";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the checkpoints that are there, the one that was used last at the end
    List {
        /// As JSON, on standard output
        #[arg(long)]
        json: bool,
    },
    /// Remove those that were not used for longest; those in use stay
    Prune {
        /// What the others may take in all
        #[arg(long, default_value = "0B", value_name = "SIZE", value_parser = parse_size)]
        keep: Size,
    },
}

fn parse_size(text: &str) -> Result<Size, String> {
    text.parse()
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let store = CheckpointStore::open(&context.work_root, cap()?)?;
    match arguments.command {
        Command::List { json } => list(&store, json),
        Command::Prune { keep } => {
            let removed = store.prune(keep)?;
            let freed: u64 = removed.iter().map(|checkpoint| checkpoint.disk_usage).sum();
            print(&format!("{} removed, {} freed\n", removed.len(), shown(freed)))
        }
    }
}

fn list(store: &CheckpointStore, as_json: bool) -> Result<ExitCode> {
    let mut checkpoints = store.list()?;
    checkpoints.sort_by_key(|checkpoint| checkpoint.used);
    if as_json {
        let entries: Vec<_> = checkpoints.iter().map(entry).collect();
        return print(&pretty_json(&json!({ "version": 1, "checkpoints": entries }))?);
    }
    let mut text = String::new();
    for checkpoint in &checkpoints {
        let (image, made) = match &checkpoint.manifest {
            Some(manifest) => (manifest.image.as_str(), manifest.made.as_str()),
            None => ("(unreadable)", ""),
        };
        let in_use = if checkpoint.in_use { "  in use" } else { "" };
        let short = checkpoint.key.get(..12).unwrap_or(&checkpoint.key);
        text.push_str(&format!("{short}  {image:<16} {:>10}  {made}{in_use}\n", shown(checkpoint.disk_usage)));
    }
    print(&text)
}

fn entry(checkpoint: &StoredCheckpoint) -> serde_json::Value {
    json!({
        "key": checkpoint.key,
        "image": checkpoint.manifest.as_ref().map(|manifest| &manifest.image),
        "image_digest": checkpoint.manifest.as_ref().map(|manifest| &manifest.key.image),
        "made": checkpoint.manifest.as_ref().map(|manifest| &manifest.made),
        "disk_usage": checkpoint.disk_usage,
        "in_use": checkpoint.in_use,
    })
}

fn shown(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}
