//! What a run has learnt about its surroundings, for `environment.json`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::image::BuiltImage;
use crate::plan::model::Accelerator;
use crate::preflight::accelerator::Choice;
use crate::preflight::host;
use crate::proof::environment::{
    ENVIRONMENT_VERSION, Environment, EnvironmentImage, EnvironmentLibvirt, ExecutionModel, Host,
};

/// Collected while the run goes on; what stays unknown is left out.
#[derive(Default)]
pub struct Facts {
    pub qemu_version: Option<String>,
    /// The libvirt that machines were to run under.
    pub libvirt: Option<EnvironmentLibvirt>,
    /// With the factor that deadlines were stretched by.
    pub accelerator: Option<(Choice, f64)>,
    pub images: BTreeMap<String, BuiltImage>,
    /// A machine was to be started.
    pub started: bool,
    /// What started the run, where that says more than what the machines ran under.
    pub started_by: Option<ExecutionModel>,
}

impl Facts {
    pub fn into_environment(self) -> Environment {
        let execution_model = match (&self.accelerator, self.started, self.started_by) {
            (_, false, _) => ExecutionModel::NothingStarted,
            (_, true, Some(model)) => model,
            (None, true, None) => ExecutionModel::Recorded,
            (Some((choice, _)), true, None) => match choice.mode {
                Accelerator::Kvm => ExecutionModel::HardwareVirtualMachines,
                Accelerator::Tcg => ExecutionModel::EmulatedVirtualMachines,
            },
        };
        let (choice, factor) = self.accelerator.unzip();
        let revision = git(&["rev-parse", "HEAD"]);
        let dirty = revision.as_ref().and_then(|_| git(&["status", "--porcelain"])).map(|changes| !changes.is_empty());
        Environment {
            version: ENVIRONMENT_VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            git_revision: revision,
            git_dirty: dirty,
            host: this_host(),
            qemu_version: self.qemu_version,
            libvirt: self.libvirt,
            vm_accelerator_mode: choice.as_ref().map(|choice| choice.mode.as_str().into()),
            vm_accelerator_proven_by: choice.as_ref().map(|choice| choice.proven_by.into()),
            vm_accelerator_detail: choice.map(|choice| choice.detail),
            deadline_factor: factor,
            images: self.images.iter().map(|(name, image)| (name.clone(), describe(image))).collect(),
            execution_model,
        }
    }
}

fn describe(image: &BuiltImage) -> EnvironmentImage {
    EnvironmentImage {
        source: image.source.to_string(),
        digest: image.digest.clone(),
        store_path: image.provenance.as_ref().map(|provenance| provenance.store_path.clone()),
        provenance: image.provenance.clone(),
        packages: image.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect(),
    }
}

fn this_host() -> Host {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    Host {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        kernel: host::kernel_release(),
        architecture: host::architecture(),
        operating_system: pretty.map(|name| name.trim_matches('"').to_owned()),
        cpu_model: Some(host::cpu_model()),
        cpus: u32::try_from(host::cpu_count()).unwrap_or(u32::MAX),
        memory: total.unwrap_or(0_u64) << 10,
        virtualized_by: std::fs::read_to_string("/sys/hypervisor/type").ok().map(|text| text.trim().to_owned()),
    }
}

/// What git says of the folder that the run was started in; nothing, where that is no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
