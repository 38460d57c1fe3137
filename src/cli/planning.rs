//! From a lane to its plan: the look-ups that `plan` and `run` share. Nothing is started, nothing is built.

use super::Context;
use crate::error::Result;
use crate::image::{self, ImageRequest};
use crate::lane::model::{Lane, Start};
use crate::plan::model::{Accelerator, AcceleratorRequest, ImageSource, Plan, PlannedAccelerator};
use crate::plan::{self, PlanInputs};
use crate::preflight::accelerator::{HostKey, cached, deadline_factor};
use crate::preflight::{self, host};

/// How a lane is to be run.
#[derive(clap::Args, Clone)]
pub struct PlanArguments {
    /// What machines run under; `auto` takes KVM where a guest has been proven to boot under it
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    pub accel: AccelArgument,
    /// Where images with a recipe for both come from; `debian` when left out
    #[arg(long, value_enum, value_name = "SOURCE")]
    pub images: Option<ImagesArgument>,
    /// How machines begin: by booting, or as forks of their image's checkpoint, made first where there is none; as the lane
    /// says when left out
    #[arg(long, value_enum, value_name = "HOW")]
    pub start: Option<StartArgument>,
    /// Fail rather than build an image from other versions than the image lock's
    #[arg(long)]
    pub locked: bool,
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub enum AccelArgument {
    Auto,
    Kvm,
    Tcg,
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub enum ImagesArgument {
    Debian,
    Nix,
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub enum StartArgument {
    Boot,
    Checkpoint,
    CheckpointOrBoot,
}

impl PlanArguments {
    pub fn start(&self) -> Start {
        match self.start {
            None | Some(StartArgument::Boot) => Start::Boot,
            Some(StartArgument::Checkpoint) => Start::Checkpoint,
            Some(StartArgument::CheckpointOrBoot) => Start::CheckpointOrBoot,
        }
    }

    /// Lets machines begin as the command line says, where they can.
    fn set_start(&self, lane: &mut Lane) {
        if self.start.is_none() {
            return;
        }
        let Lane { machines, images, .. } = lane;
        for machine in machines.values_mut() {
            let from_medium = images.get(&machine.image).is_some_and(|image| image.iso.is_some());
            if machine.backend.is_virtual() && !from_medium {
                machine.start = self.start();
            }
        }
    }

    pub fn request(&self) -> AcceleratorRequest {
        match self.accel {
            AccelArgument::Auto => AcceleratorRequest::Auto,
            AccelArgument::Kvm => AcceleratorRequest::Kvm,
            AccelArgument::Tcg => AcceleratorRequest::Tcg,
        }
    }

    pub fn source(&self) -> Option<ImageSource> {
        self.images.map(|images| match images {
            ImagesArgument::Debian => ImageSource::Debian,
            ImagesArgument::Nix => ImageSource::Nix,
        })
    }

    /// The plan for a lane that carries `control`'s bug already.
    pub fn plan(&self, context: &Context, mut lane: Lane, control: Option<String>) -> Result<Plan> {
        self.set_start(&mut lane);
        let mut images = std::collections::BTreeMap::new();
        for (name, image) in plan::images_needed(&lane) {
            let request = ImageRequest {
                name: name.into(),
                image: image.clone(),
                source: plan::choose_source(name, image, self.source())?,
                base_directory: context.project_root.clone(),
                locked: self.locked,
            };
            let planned = image::plan_image(&context.work_root, &context.project_root, &request)?;
            images.insert(name.to_owned(), planned);
        }
        let needs_qemu = lane.machines.values().any(|machine| machine.backend.is_virtual());
        let mode = if needs_qemu { self.known_mode(context) } else { Some(Accelerator::Tcg) };
        let accelerator = PlannedAccelerator {
            requested: self.request(),
            mode,
            // A recording plays as fast as it is read; an unproven host may turn out to be a fast one.
            deadline_factor: if needs_qemu { mode.map_or(1.0, deadline_factor) } else { 1.0 },
        };
        plan::resolve(lane, PlanInputs { images, accelerator, control })
    }

    /// The mode as far as it is known without booting anything.
    fn known_mode(&self, context: &Context) -> Option<Accelerator> {
        if self.request() == AcceleratorRequest::Tcg || host::kvm_device().is_err() {
            return Some(Accelerator::Tcg);
        }
        let version = preflight::qemu_version(&context.work_root)?;
        let proof = cached(&context.work_root, &HostKey::of_this_host(&version))?;
        Some(if proof.kvm_works { Accelerator::Kvm } else { Accelerator::Tcg })
    }
}
