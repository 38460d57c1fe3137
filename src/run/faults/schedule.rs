//! Faults on a schedule.

use std::collections::BTreeMap;

use tokio::time::{Instant, sleep_until};

use crate::event::{Kind, Reporter};
use crate::lane::model::Schedule;
use crate::plan::{self, DrawnFault};
use crate::run::steps::{RunningMachine, StepContext, StepEnd, StepResult};

/// Begins and ends the faults at their times; what still lasts at the end is healed. A fault that cannot be caused (its
/// process has not come back yet) is said, and is no failure: what the schedule does must not decide what the lane proves.
pub async fn schedule(context: &StepContext, reporter: &Reporter, step: &str, schedule: &Schedule) -> StepResult {
    let start = Instant::now();
    let drawn = plan::draw(schedule);
    let mut lasting: BTreeMap<(std::time::Duration, usize), String> = BTreeMap::new();
    for (number, next) in drawn.iter().enumerate() {
        heal_until(context, reporter, &mut lasting, start, next.begins.duration()).await?;
        sleep_until(start + next.begins.duration()).await;
        let DrawnFault { ends, fault, machine, .. } = next;
        let scheduled = &schedule.faults[*fault];
        let name = format!("{step}/{}-{}", scheduled.name, number + 1);
        let machine = machine.as_deref().map(|name| context.machine(name)).transpose()?;
        let machines: Vec<&RunningMachine> = machine.into_iter().collect();
        match context.faults.begin(context, reporter, &name, &scheduled.fault, &machines).await {
            Ok(()) if scheduled.fault.lasts() => drop(lasting.insert((ends.duration(), number), name)),
            Ok(()) => {}
            Err(end) => reporter.warning(None, Kind::Note { text: format!("{name}: {}", message(&end)) }),
        }
    }
    heal_until(context, reporter, &mut lasting, start, schedule.duration.duration()).await?;
    sleep_until(start + schedule.duration.duration()).await;
    let left: Vec<String> = lasting.into_values().collect();
    if left.is_empty() { Ok(()) } else { context.faults.heal(context, reporter, &left).await }
}

/// Heals what ends up to then, each at its time.
async fn heal_until(
    context: &StepContext,
    reporter: &Reporter,
    lasting: &mut BTreeMap<(std::time::Duration, usize), String>,
    start: Instant,
    until: std::time::Duration,
) -> StepResult {
    while let Some(entry) = lasting.first_entry() {
        let (ends, _) = *entry.key();
        if ends > until {
            break;
        }
        let name = entry.remove();
        sleep_until(start + ends).await;
        context.faults.heal(context, reporter, &[name]).await?;
    }
    Ok(())
}

fn message(end: &StepEnd) -> String {
    match end {
        StepEnd::Failed(_, message) | StepEnd::Skipped(message) | StepEnd::ChannelLost(message) => message.clone(),
        StepEnd::Because(failure) => failure.message.clone(),
    }
}
