//! Making a system the one that runs.
//!
//! What always holds: every step may be done again, also after one that was broken off; whoever says that a system is active
//! has seen all of them done.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host::{Host, Invocation};
use super::journal::{Trial, sync_folder};
use super::places::{CURRENT, Places};
use super::{nixos, trees, units};
use crate::provisioning::{DesiredSystem, DesiredTarget, HealthCheck};

/// Of a tree's `activate`, and of starting or stopping its units.
pub const ACTIVATION_BOUND: Duration = Duration::from_secs(600);

/// Activates a system in place of whatever is active.
pub fn switch_to(
    places: &Places,
    host: &dyn Host,
    system: &DesiredSystem,
    before: Option<&DesiredSystem>,
) -> Result<(), String> {
    match &system.target {
        DesiredTarget::Nixos { store_path } => {
            clear_tree(places, host)?;
            nixos::switch(host, store_path)
        }
        DesiredTarget::Tree { bundle } => {
            let name = trees::name_of(bundle)?;
            let tree = trees::folder_of(places, bundle)?;
            if !tree.is_dir() {
                return Err(format!("its tree `{}` is gone", tree.display()));
            }
            let names = units::list(&tree)?;
            stop(host, &units::linked(places)?);
            point(places, host, name)?;
            units::link(places, &names)?;
            host.durable("units");
            systemctl(host, &["daemon-reload"])?;
            run_activate(places, host, &tree, system, before)?;
            start(host, "restart", &names)
        }
    }
}

/// Starts what is active already, after a boot.
pub fn start_again(places: &Places, host: &dyn Host, system: &DesiredSystem) -> Result<(), String> {
    match &system.target {
        // It is what was booted.
        DesiredTarget::Nixos { .. } => Ok(()),
        DesiredTarget::Tree { bundle } => {
            let tree = trees::folder_of(places, bundle)?;
            let names = units::list(&tree)?;
            point(places, host, trees::name_of(bundle)?)?;
            units::link(places, &names)?;
            // The units' folder may not have been there when systemd looked.
            systemctl(host, &["daemon-reload"])?;
            start(host, "start", &names)
        }
    }
}

/// Takes back what a trial has changed, and activates what was good before it.
pub fn undo(places: &Places, host: &dyn Host, trial: &Trial, good: Option<&DesiredSystem>) -> Result<(), String> {
    let is_nixos = |system: Option<&DesiredSystem>| {
        matches!(system.map(|system| &system.target), Some(DesiredTarget::Nixos { .. }))
    };
    if is_nixos(Some(&trial.system)) && !is_nixos(good) {
        match &trial.before {
            Some(before) => nixos::switch(host, before)?,
            None => return Err("nobody knows what NixOS system ran before".into()),
        }
    }
    match good {
        Some(good) => switch_to(places, host, good, None),
        None => clear_tree(places, host),
    }
}

/// No tree is active any more.
fn clear_tree(places: &Places, host: &dyn Host) -> Result<(), String> {
    let linked = units::linked(places)?;
    stop(host, &linked);
    if !linked.is_empty() {
        units::link(places, &BTreeSet::new())?;
        host.durable("units");
        systemctl(host, &["daemon-reload"])?;
    }
    let current = places.current();
    match fs::remove_file(&current) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("failed to remove `{}`: {error}", current.display())),
    }
    sync_folder(&places.state()).map_err(|error| error.to_string())?;
    host.durable("current");
    Ok(())
}

/// Lets `current` lead to a tree, from one instant to the next.
fn point(places: &Places, host: &dyn Host, name: &str) -> Result<(), String> {
    let current = places.current();
    let wanted = Path::new("generations").join(name);
    if fs::read_link(&current).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("failed to change `{}`: {error}", current.display());
    let new = places.state().join("current.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    symlink(&wanted, &new).and_then(|()| fs::rename(&new, &current)).map_err(failed)?;
    sync_folder(&places.state()).map_err(failed)?;
    host.durable("current");
    Ok(())
}

fn systemctl(host: &dyn Host, words: &[&str]) -> Result<(), String> {
    host.run(&Invocation::new("systemctl", words, ACTIVATION_BOUND)).map(drop)
}

/// What does not stop is started anew by `restart`.
fn stop(host: &dyn Host, names: &BTreeSet<String>) {
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains("@.")).collect();
    if names.is_empty() {
        return;
    }
    if let Err(reason) = systemctl(host, &[&["stop"], &names[..]].concat()) {
        host.say(&format!("failed to stop units: {reason}"));
    }
}

fn start(host: &dyn Host, how: &str, names: &BTreeSet<String>) -> Result<(), String> {
    let names = units::to_start(names);
    if names.is_empty() {
        return Ok(());
    }
    // What failed too often before is started all the same; a unit that systemd has not heard of has nothing to forget.
    let _ = systemctl(host, &[&["reset-failed"], &names[..]].concat());
    systemctl(host, &[&[how], &names[..]].concat())
}

fn environment(system: &DesiredSystem, tree: &Path) -> Vec<(&'static str, String)> {
    let mut environment =
        vec![("BOOTPROOF_SYSTEM", system.name.clone()), ("BOOTPROOF_TREE", tree.to_string_lossy().into_owned())];
    if let DesiredTarget::Tree { bundle } = &system.target {
        environment.push(("BOOTPROOF_GENERATION", bundle.digest.clone()));
    }
    environment
}

fn run_activate(
    places: &Places,
    host: &dyn Host,
    tree: &Path,
    system: &DesiredSystem,
    before: Option<&DesiredSystem>,
) -> Result<(), String> {
    let program = tree.join("activate");
    if !is_program(&program) {
        return Ok(());
    }
    let mut invocation = Invocation::new(program, &[], ACTIVATION_BOUND);
    invocation.folder = Some(tree.into());
    invocation.environment = environment(system, tree);
    if let Some(DesiredTarget::Tree { bundle }) = before.map(|before| &before.target) {
        let previous = trees::folder_of(places, bundle)?;
        invocation.environment.push(("BOOTPROOF_PREVIOUS", previous.to_string_lossy().into_owned()));
    }
    host.run(&invocation).map(drop)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs the health check of an active system; why it is not good.
pub fn check_health(places: &Places, host: &dyn Host, system: &DesiredSystem) -> Result<(), String> {
    let HealthCheck { argv, within } = &system.health_check;
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let tree = match &system.target {
        DesiredTarget::Tree { bundle } => Some(trees::folder_of(places, bundle)?),
        DesiredTarget::Nixos { .. } => None,
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = find(program, tree.as_deref())?;
    let mut invocation = Invocation::new(program, &arguments, Duration::from_secs(*within));
    invocation.environment = environment(system, tree.as_deref().unwrap_or(Path::new(CURRENT)));
    invocation.folder = tree;
    host.run(&invocation).map(drop).map_err(|reason| format!("the health check failed: {reason}"))
}

/// A program of the tree wins over one of the system.
fn find(program: &str, tree: Option<&Path>) -> Result<PathBuf, String> {
    let path = Path::new(program);
    if path.is_absolute() {
        return Ok(path.into());
    }
    let plain = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
    let own = tree.map(|tree| tree.join(path)).filter(|own| plain && is_program(own));
    match own {
        Some(own) => Ok(own),
        None if plain && !program.contains('/') => Ok(path.into()),
        None => Err(format!("the health check's program `{program}` is not in the tree")),
    }
}
