//! Which backend machines run under, and whether anything is started.

use crate::lane::model::{Backend, Lane};
use crate::machine::libvirt::DEFAULT_URI;
use crate::plan::Plan;
use crate::plan::model::BackendMode;

/// What machines run under.
#[derive(clap::Args, Clone)]
pub struct BackendArguments {
    /// What runs the machines; as the lane says when left out, which is QEMU where it says nothing
    #[arg(long, env = "BOOTPROOF_BACKEND", value_enum, value_name = "BACKEND")]
    pub backend: Option<BackendArgument>,
    /// Which libvirt, by any URI that libvirt takes
    #[arg(long, env = "BOOTPROOF_LIBVIRT_URI", value_name = "URI", default_value = DEFAULT_URI)]
    pub libvirt_uri: String,
    /// What the backend does: start machines, write down what it would start, or refuse
    #[arg(long, env = "BOOTPROOF_BACKEND_MODE", value_enum, value_name = "MODE", default_value = "real")]
    pub backend_mode: ModeArgument,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum BackendArgument {
    Qemu,
    Libvirt,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum ModeArgument {
    /// Machines are started
    Real,
    /// Nothing is started; what would have been is in the proof, which is `blocked`
    Record,
    /// Nothing is started, planned or written down but that it was asked for
    Disabled,
}

impl BackendArguments {
    /// Puts the lane's virtual machines under the backend that was asked for; recordings stay what they are.
    pub fn put(&self, lane: &mut Lane) {
        let Some(backend) = self.backend else { return };
        for machine in lane.machines.values_mut().filter(|machine| machine.backend.is_virtual()) {
            machine.backend = match backend {
                BackendArgument::Qemu => Backend::Qemu,
                BackendArgument::Libvirt => Backend::Libvirt,
            };
        }
    }

    /// Says in the plan which libvirt, and what the backend may do.
    pub fn complete(&self, plan: &mut Plan) {
        let libvirt = plan.lane.machines.values().any(|machine| machine.backend == Backend::Libvirt);
        plan.libvirt_uri = libvirt.then(|| self.libvirt_uri.clone());
        plan.backend_mode = match self.backend_mode {
            ModeArgument::Real => BackendMode::Real,
            ModeArgument::Record => BackendMode::Record,
            ModeArgument::Disabled => BackendMode::Disabled,
        };
    }
}
