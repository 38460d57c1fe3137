//! `bootproof plan`: what a run would do. Nothing is started.

use std::process::ExitCode;

use super::Context;
use super::backend::BackendArguments;
use super::lane::{LaneArguments, pretty_json, print};
use super::planning::PlanArguments;
use crate::error::Result;
use crate::plan::plan_text;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    lane: LaneArguments,
    #[command(flatten)]
    plan: PlanArguments,
    #[command(flatten)]
    backend: BackendArguments,
    /// As JSON, on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let mut lane = arguments.lane.load(context)?;
    arguments.backend.put(&mut lane);
    let mut plan = arguments.plan.plan(context, lane, arguments.lane.control.clone())?;
    arguments.backend.complete(&mut plan);
    print(&if arguments.json { pretty_json(&plan)? } else { plan_text(&plan) })
}
