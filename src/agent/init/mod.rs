//! The agent as init: of `tiny` for good, of a disk image until its root is found.
//!
//! Says on the console what it could not do and goes on where that makes sense: a machine that can be asked is worth more
//! than one that has stopped. Kernel parameters: `bootproof.root=LABEL=<label>` makes it the first stage of a disk image's
//! boot; `bootproof.node=<name>` is the host name and the markers' node; `bootproof.channel_only` leaves out drivers for disks,
//! network and the power button.

mod modules;
mod mounts;
mod network;
mod power_button;
mod root;

use std::sync::Arc;

use super::kernel_parameters::KernelParameters;
use super::marker::MarkerJournal;
use super::serve::{Agent, Children, Connection, serve};
use super::{say, uevent};
use crate::channel::protocol::Role;

/// Process 1. Never comes back: the kernel panics when init ends.
pub fn run() -> ! {
    mounts::mount_early();
    let parameters = KernelParameters::read();
    modules::load_listed(parameters.has("bootproof.channel_only"));
    if let Some(wanted) = parameters.value("bootproof.root") {
        let reason = root::switch(wanted, &parameters);
        say(&format!("stage 1 failed: {reason}"));
        rustix::fs::sync();
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Halt);
        wait_for_ever();
    }
    network::Declared::of(&parameters).apply();
    let hostname = parameters.value("bootproof.node").unwrap_or("tiny");
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
    serve_for_ever(&Arc::new(Agent::new(Role::Init, markers, children)))
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
