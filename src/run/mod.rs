//! Running a plan: the dispatcher owns the run's state, the executor drives the machines step by step, the session puts a
//! run together from preflight to seal.
//!
//! What always holds: only the dispatcher turns reports into events; the executor learns what happened from each
//! machine's state; every wait has a deadline and ends at once with a reason when what
//! it waits for can no longer come.

mod artifacts;
mod boot_data;
mod checkpoints;
mod control;
mod debugging;
mod deployer;
mod deployer_account;
mod dispatcher;
mod environment;
mod executor;
mod faults;
mod host_command;
mod identity;
mod libvirt;
pub mod machines;
mod netboot;
mod networks;
mod proxy;
mod record;
mod resources;
mod session;
mod signals;
mod ssh;
mod steps;

pub use checkpoints::Checkpoints;
pub use debugging::{Debugger, Debugging, Held};
pub use networks::Networks;
pub use session::{Keep, RunOptions, RunOutcome, run};
pub use signals::SignalWatch;
pub use steps::RunningMachine;
