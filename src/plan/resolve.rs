//! Resolving a lane into a plan. Pure: what has to be looked up is given as inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::model::{BackendMode, ImageSource, PLAN_VERSION, Plan, PlannedAccelerator, PlannedImage};
use crate::error::{Error, Result};
use crate::lane::model::{Action, Image, Lane, Step};
use crate::lane::units::{Size, Span};

/// A hold ends by itself; what comes on top is for starting and ending it, and is stretched like a deadline.
const HOLD_MARGIN: Span = Span::from_secs(5);

/// What was looked up for a plan.
pub struct PlanInputs {
    /// Of each image that [`images_needed`] names.
    pub images: BTreeMap<String, PlannedImage>,
    /// What was requested, and the mode that this host has been proven to have.
    pub accelerator: PlannedAccelerator,
    /// The planted bug that the lane carries (see `LaneFile::with_control`).
    pub control: Option<String>,
}

/// The images that the lane's machines are made from, and those that its deployer gives out or has booted, in the order of their names.
pub fn images_needed(lane: &Lane) -> BTreeMap<&str, &Image> {
    let used: BTreeSet<&str> = lane
        .machines
        .values()
        .filter(|machine| machine.backend.is_virtual())
        .map(|machine| machine.image.as_str())
        .chain(
            lane.deployer
                .iter()
                .flat_map(|deployer| deployer.images.values().chain(&deployer.netboot).map(String::as_str)),
        )
        .collect();
    lane.images.iter().map(|(name, image)| (name.as_str(), image)).filter(|(name, _)| used.contains(name)).collect()
}

/// Picks where an image comes from: what was asked for if the image has it, else Debian, else what there is.
///
/// # Errors
/// Usage: the image is a choice between sources and has not the one asked for.
pub fn choose_source(name: &str, image: &Image, requested: Option<ImageSource>) -> Result<ImageSource> {
    let has = |source: ImageSource| match source {
        ImageSource::Tiny => image.tiny.is_some(),
        ImageSource::Debian => image.debian.is_some(),
        ImageSource::Nix => image.nix.is_some(),
        ImageSource::Disk => image.disk.is_some(),
        ImageSource::Iso => image.iso.is_some(),
    };
    let choices = [ImageSource::Debian, ImageSource::Nix];
    if let Some(requested) = requested {
        if has(requested) {
            return Ok(requested);
        }
        // `--images` decides between Debian and Nix; an image that is neither has nothing to decide.
        if let Some(other) = choices.into_iter().find(|choice| has(*choice)) {
            return Err(Error::usage(format!("the image `{name}` has no {requested} recipe"))
                .hint(format!("leave `--images` out, or say `--images {other}`")));
        }
    }
    [ImageSource::Debian, ImageSource::Tiny, ImageSource::Disk, ImageSource::Iso, ImageSource::Nix]
        .into_iter()
        .find(|source| has(*source))
        .ok_or_else(|| Error::usage(format!("the image `{name}` comes from nowhere")))
}

/// Makes the plan.
///
/// # Errors
/// Infrastructure: an image that the lane needs is not among the inputs.
pub fn resolve(lane: Lane, inputs: PlanInputs) -> Result<Plan> {
    for name in images_needed(&lane).keys() {
        if !inputs.images.contains_key(*name) {
            return Err(Error::infrastructure(format!("failed to plan: the image `{name}` was not looked up")));
        }
    }
    let factor = inputs.accelerator.deadline_factor;
    let step_deadlines = lane.steps.iter().map(|step| step_deadline(step, factor)).collect();
    let memory_peak =
        lane.machines.values().filter(|machine| machine.backend.is_virtual()).map(|machine| machine.memory);
    Ok(Plan {
        version: PLAN_VERSION,
        lane_digest: lane.digest(),
        control: inputs.control,
        accelerator: inputs.accelerator,
        deadline: lane.deadline.scaled(factor),
        step_deadlines,
        disk_peak: disk_peak(&lane, &inputs.images),
        memory_peak: sum(memory_peak),
        libvirt_uri: None,
        backend_mode: BackendMode::Real,
        images: inputs.images,
        lane,
    })
}

/// A step's deadline: its bound, scaled; what it holds for is not.
pub fn step_deadline(step: &Step, factor: f64) -> Span {
    match &step.action {
        Action::Schedule { schedule } => {
            // Faults begin and end in real time; only what it takes to heal them depends on the host.
            let rest = step.within.duration().saturating_sub(schedule.duration.duration());
            Span(schedule.duration.duration().saturating_add(Span(rest).scaled(factor).duration()))
        }
        Action::Hold { duration } => Span(duration.duration().saturating_add(HOLD_MARGIN.scaled(factor).duration())),
        Action::Parallel { steps } => {
            let longest_hold = steps
                .iter()
                .filter(|step| {
                    matches!(step.action, Action::Hold { .. } | Action::Schedule { .. } | Action::Parallel { .. })
                })
                .map(|step| step_deadline(step, factor))
                .max()
                .unwrap_or_default();
            step.within.scaled(factor).max(longest_hold)
        }
        _ => step.within.scaled(factor),
    }
}

/// At most: images that are not there yet, every machine's disks written full, and what is recorded of its console
/// (the raw bytes and the readable text). What a machine writes over an image that is a file or Nix's is not known here:
/// only its file tells how large that disk may grow.
fn disk_peak(lane: &Lane, images: &BTreeMap<String, PlannedImage>) -> Size {
    let build = images.values().filter(|image| !image.present).map(|image| image.build_disk);
    let machines = lane.machines.values().map(|machine| {
        let root = match images.get(&machine.image).map(|image| image.source) {
            Some(ImageSource::Debian) => {
                lane.images.get(&machine.image).and_then(|image| image.debian.as_ref()).map(|debian| debian.size)
            }
            _ => None,
        };
        // Of a disk whose writes are logged there is also what it was at power-on, and the log.
        let disks = machine.disks.iter().map(|disk| match disk.survives {
            Some(_) => Size(disk.size.bytes().saturating_mul(4)),
            None => disk.size,
        });
        let console = Size(machine.console_limit.bytes().saturating_mul(2));
        sum(disks.chain(root).chain([console]))
    });
    let captures = lane.networks.values().filter(|network| network.capture).map(|network| network.capture_limit);
    sum(build.chain(machines).chain(captures))
}

fn sum(sizes: impl Iterator<Item = Size>) -> Size {
    Size(sizes.fold(0, |sum, size| sum.saturating_add(size.bytes())))
}

impl Plan {
    /// The longest that the run can take: every hold and every deadline used up, or the run's own deadline.
    pub fn longest(&self) -> Span {
        let steps = self.step_deadlines.iter().fold(Duration::ZERO, |sum, span| sum.saturating_add(span.duration()));
        Span(steps.min(self.deadline.duration()))
    }
}
