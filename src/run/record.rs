//! A run that starts nothing: what each machine would be started with is written into the proof.

use std::collections::BTreeMap;
use std::path::Path;

use super::libvirt;
use super::machines::{self, KERNEL_COMMAND_LINE, Surroundings};
use crate::error::{Error, Result};
use crate::image::BuiltImage;
use crate::lane::model::Backend;
use crate::machine::qemu;
use crate::machine::{FirstBoot, RunFolders};

/// Writes down the machines: QEMU's command line, or libvirt's domain XML, and the kernel's command line.
///
/// # Errors
/// Infrastructure: they cannot be written.
pub async fn record(
    surroundings: &Surroundings<'_>,
    folders: &RunFolders,
    images: &BTreeMap<String, BuiltImage>,
) -> Result<()> {
    for (index, (name, machine)) in surroundings.lane.machines.iter().enumerate() {
        let Some(image) = images.get(&machine.image).filter(|_| machine.backend.is_virtual()) else { continue };
        let runtime = folders.runtime().join(index.to_string());
        let scratch = folders.scratch().join(name);
        let evidence = surroundings.evidence.join("machines").join(name);
        for folder in [&runtime, &scratch, &evidence] {
            std::fs::create_dir_all(folder)
                .map_err(|error| Error::storage(error, format!("failed to create `{}`", folder.display())))?;
        }
        let defined = machines::define(surroundings, name, machine, (image, None), (&scratch, &runtime)).await?;
        if let Some(line) = defined.command_line() {
            write(&evidence.join(KERNEL_COMMAND_LINE), &line)?;
        }
        if machine.backend == Backend::Libvirt {
            write(&evidence.join("domain.xml"), &libvirt::render(surroundings, &defined, runtime)?)?;
        } else {
            let arguments = defined.arguments(FirstBoot::Disk, jiff::Timestamp::now());
            write(&evidence.join("cmdline.txt"), &qemu::render(&qemu::program(), &arguments))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::storage(error, format!("failed to write `{}`", path.display())))
}
