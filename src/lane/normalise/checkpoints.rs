//! Checkpoints: what an image says of its own, and that a step only goes back to what was saved before.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use crate::lane::document::{ImageDocument, MachineDocument, ReadyDocument, StepDocument};
use crate::lane::model::{Action, Backend, Image, Ready, Start, Step};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;

impl Checker<'_> {
    pub(super) fn ready(&mut self, image: &ImageDocument) -> Option<Ready> {
        let ready: &Spanned<ReadyDocument> = image.ready.as_ref()?;
        if image.iso.is_some() {
            self.report(
                Problem::new("a medium is booted, and has no checkpoint")
                    .at(ready.place.clone())
                    .hint("leave `ready` out"),
            );
        }
        for marker in &ready.markers {
            self.marker_name(marker, "a marker's name");
        }
        for unit in &ready.restart {
            let valid = unit.contains('.')
                && !unit.starts_with('-')
                && unit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_@:\\".contains(&byte));
            if !valid {
                self.report(
                    Problem::new(format!("`{}` is not a unit's name", unit.value))
                        .at(unit.place.clone())
                        .hint("write it like `ssh.service`"),
                );
            }
        }
        if let Some(within) = &ready.within {
            self.not_zero(within);
        }
        let defaults = Ready::default();
        Some(Ready {
            markers: ready.markers.iter().map(|marker| marker.value.clone()).collect(),
            within: ready.within.as_ref().map_or(defaults.within, |within| within.value),
            restart: ready.restart.iter().map(|unit| unit.value.clone()).collect(),
            reseed: ready.reseed.unwrap_or(defaults.reseed),
        })
    }

    pub(super) fn start(&mut self, machine: &MachineDocument, images: &BTreeMap<String, Image>) -> Start {
        let Some(start) = &machine.start else { return Start::Boot };
        if start.is_boot() {
            return Start::Boot;
        }
        let image = machine.image.as_ref().and_then(|image| images.get(&image.value));
        let problem = match machine.backend {
            Backend::Recorder => Some("a recording is played from its beginning"),
            Backend::Qemu | Backend::Libvirt if image.is_some_and(|image| image.iso.is_some()) => {
                Some("a machine that boots a medium has no checkpoint to begin from")
            }
            Backend::Qemu | Backend::Libvirt => None,
        };
        if let Some(problem) = problem {
            self.report(Problem::new(problem).at(start.place.clone()).hint("leave `start` out"));
        }
        start.value
    }

    /// Each `restore` comes after a `checkpoint` of that name, and is of machines that were saved with it.
    pub(super) fn checkpoints(&mut self, documents: &[Spanned<StepDocument>], steps: &[Step]) {
        let mut saved: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (document, step) in documents.iter().zip(steps) {
            match &step.action {
                Action::Checkpoint { name } => {
                    saved.entry(name).or_default().extend(step.on.iter().map(String::as_str));
                }
                Action::Restore { name } => {
                    let Some(given) = &document.restore else { continue };
                    match saved.get(name.as_str()) {
                        None => self.report(
                            Problem::new(format!("no step before this one makes a checkpoint `{name}`"))
                                .at(given.place.clone())
                                .nearest(given, saved.keys().copied()),
                        ),
                        Some(machines) => {
                            for machine in step.on.iter().filter(|machine| !machines.contains(machine.as_str())) {
                                self.report(
                                    Problem::new(format!("`{machine}` is not in the checkpoint `{name}`"))
                                        .at(given.place.clone())
                                        .hint("say `on` which machines go back"),
                                );
                            }
                        }
                    }
                }
                Action::Parallel { steps } => {
                    for inner in steps {
                        if matches!(inner.action, Action::Checkpoint { .. } | Action::Restore { .. }) {
                            self.report(
                                Problem::new("machines are saved and restored while nothing else happens")
                                    .at(document.place.clone())
                                    .hint("make it a step of its own; it is for several machines at once"),
                            );
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
