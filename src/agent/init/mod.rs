//! The agent as init: of `tiny` and of a live medium's system for good, of a disk image until its root is found.
//!
//! Says on the console what it could not do and goes on where that makes sense: a machine that can be asked is worth more
//! than one that has stopped. Kernel parameters: `bootproof.root=LABEL=<label>` makes it the first stage of a disk image's
//! boot (`UUID=<uuid>` does too), `bootproof.root=live:LABEL=<label>` of a live medium's; `bootproof.node=<name>` is the host name and the markers' node; `bootproof.channel_only` leaves out drivers for disks,
//! network and the power button.

mod coldplug;
mod live;
mod modules;
mod mounts;
pub mod network;
mod power_button;
mod root;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use super::kernel_parameters::KernelParameters;
use super::marker::MarkerJournal;
use super::serve::{Agent, Children, Connection, serve};
use super::{installer, say, uevent};
use crate::channel::protocol::Role;

const LIVE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Process 1. Never comes back: the kernel panics when init ends.
///
/// `arguments`: the kernel's, or what the first stage of a live medium's boot has for the second.
pub fn run(arguments: &[OsString]) -> ! {
    let live = arguments.first().is_some_and(|first| first == live::STAGE);
    if live {
        mounts::mount_late();
    } else {
        mounts::mount_early();
    }
    let parameters = KernelParameters::read();
    if live {
        coldplug::by_modprobe();
    } else {
        modules::load_listed(parameters.has("bootproof.channel_only"));
    }
    if let Some(wanted) = parameters.value("bootproof.root").filter(|_| !live) {
        let reason = match wanted.strip_prefix("live:") {
            Some(wanted) => live::switch(wanted),
            None => root::switch(wanted, &parameters),
        };
        say(&format!("stage 1 failed: {reason}"));
        rustix::fs::sync();
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Halt);
        wait_for_ever();
    }
    network::Declared::of(&parameters).apply();
    let without_name = if live { "installer" } else { "tiny" };
    let hostname = parameters.value("bootproof.node").unwrap_or(without_name);
    if let Err(error) = rustix::system::sethostname(hostname.as_bytes()) {
        say(&format!("failed to set the host name: {error}"));
    }
    let markers = MarkerJournal::of_this_boot();
    if let Err(error) = markers.emit("boot", None, &[]) {
        say(&format!("failed to emit the marker `boot`: {error}"));
    }
    let children = Arc::new(Children::of_init());
    let reaper = children.clone();
    if let Err(error) = std::thread::Builder::new().name("reaper".into()).spawn(move || reaper.reap()) {
        say(&format!("failed to start the reaper: {error}"));
    }
    if let Err(error) = power_button::watch() {
        say(&format!("failed to watch the power button: {error}"));
    }
    if live && installer::is_wanted(&parameters) {
        start_installer(&children);
    }
    serve_for_ever(&Arc::new(Agent::new(Role::Init, markers, children)))
}

/// A process of its own, so that a machine whose installation went wrong can still be asked.
fn start_installer(children: &Arc<Children>) {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(super::OWN_NAME).arg("install").env("PATH", LIVE_PATH);
    match children.spawn(&mut command) {
        Ok(started) => {
            let children = children.clone();
            let waited = std::thread::Builder::new().name("installer".into()).spawn(move || children.wait(started.pid));
            if let Err(error) = waited {
                say(&format!("failed to wait for the installer: {error}"));
            }
        }
        Err(error) => say(&format!("failed to start the installer: {error}")),
    }
}

fn serve_for_ever(agent: &Arc<Agent>) -> ! {
    loop {
        let uevents = uevent::Uevents::subscribe();
        if let Err(error) = Connection::find_port().and_then(|connection| serve(connection, agent.clone())) {
            say(&format!("failed to serve the channel: {error}"));
        }
        // The port was unplugged, or is not usable: only another one helps.
        let waited = uevents.and_then(|uevents| uevents.wait("virtio-ports", None));
        if let Err(error) = waited {
            say(&format!("failed to wait for another port: {error}"));
            wait_for_ever();
        }
    }
}

fn wait_for_ever() -> ! {
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}
