//! Machines: hosts under test, and what holds them.
//!
//! A machine is started from a definition, reports what happens to it through an `event::Reporter`, and is driven
//! through the `Machine` trait. It decides nothing: what a fact means for the run is the executor's and the fold's.
//! What always holds: a machine never outlives its run unless it was kept on purpose (see `keeper`).

mod boundary;
pub mod capabilities;
mod consoles;
mod folders;
pub mod keeper;
pub mod libvirt;
pub mod qemu;
mod recorder;
pub mod registry;
mod resets;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use boundary::ConsoleTap;
pub use folders::{RunFolders, abandon as abandon_folders, left_over as left_over_folders};
pub use recorder::RecorderMachine;
pub use state::{MachineState, WaitHandle};

use crate::channel::{AgentChannel, Channel};
use crate::error::Result;
use crate::lane::model::DiskOperations;

/// What the firmware tries first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstBoot {
    /// The disks in their order; the medium where none of them boots.
    #[default]
    Disk,
    /// The medium, whatever the disks hold.
    Medium,
    /// Nothing: the guest goes on as a fork of a checkpoint, which knows nothing of its cards and data disks.
    Forked,
    /// Nothing: the guest goes on where it was saved, with all that it had.
    Restored,
}

/// One host under test, started.
pub trait Machine: Send + Sync {
    /// The way into the guest that the lane has chosen; `None` where the backend has none.
    fn channel(&self) -> Option<Arc<dyn Channel>>;

    /// Our agent in the guest, for what only it can do; `None` where another way leads into the guest.
    fn agent(&self) -> Option<AgentChannel>;

    /// Looks on at a console that is being recorded, and types into it; `None` while it is off, and where a backend has no
    /// such thing. `console`: its recording's name without the ending.
    fn tap_console<'a>(&'a self, console: &'a str) -> BoxFuture<'a, Option<ConsoleTap>> {
        let _ = console;
        async { None }.boxed()
    }

    /// Presses the power button; the machine's end is reported when it comes.
    fn press_power_button(&self) -> BoxFuture<'_, Result<()>>;

    /// Pulls the reset line; the new epoch is reported when it comes.
    fn reset(&self) -> BoxFuture<'_, Result<()>>;

    /// Cuts the power. Returns once the machine is off; says what that did to its disks (`blocks lost`), where it is known.
    fn cut(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>>>;

    /// Switches a machine that is off on again, on the disks it has.
    fn power_on(&self, first: FirstBoot) -> BoxFuture<'_, Result<()>>;

    /// Saves memory, devices and disks into an empty folder. The guest is paused before (whoever saves several of them
    /// pauses all first), and stays so.
    fn save(&self, folder: PathBuf) -> BoxFuture<'_, Result<()>>;

    /// Goes back to what was saved in that folder; the guest runs on from there.
    fn restore<'a>(&'a self, folder: &'a Path, origin: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Stops the guest's processors and clocks, or lets them go on.
    fn pause(&self, paused: bool) -> BoxFuture<'_, Result<()>>;

    /// Bounds what goes through a disk, in bytes per second of reads and writes each; `None` for no bound.
    fn slow_disk<'a>(&'a self, disk: &'a str, bytes_per_second: Option<u64>) -> BoxFuture<'a, Result<()>>;

    /// Makes a disk's requests fail from now on, or none of them.
    fn fail_disk<'a>(&'a self, disk: &'a str, requests: Option<DiskOperations>) -> BoxFuture<'a, Result<()>>;

    /// Ends the machine with the run: nothing of it is left when this returns.
    fn end(&self) -> BoxFuture<'_, Result<()>>;

    /// Lets the machine go on without the run; gives its process number. What it prints from now on goes to a file
    /// outside the proof, in `folder`.
    fn keep(&self, folder: PathBuf) -> BoxFuture<'_, Result<u32>>;
}
