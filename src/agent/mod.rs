//! The guest's program: init of `tiny`, first stage of a disk image's boot, installer of a live system, a
//! service elsewhere.
//!
//! Plain blocking threads over `rustix`, no tokio: it is linked statically and put into every image. What always holds:
//! it waits for events and never polls in a loop; nothing that a command does can end an agent that is init; and where it
//! stands in for a missing command (`APPLETS`), it does so only as init. What is said on the console beside markers
//! begins with `bootproof-agent: `.

mod applets;
mod bus;
mod command_line;
mod configuration;
mod converge;
mod datagrams;
mod deployer;
mod disturb;
mod http;
mod identity;
mod init;
mod installer;
mod kernel_parameters;
mod marker;
mod serve;
mod surface;
mod uevent;
mod waits;

pub use command_line::main;
pub use marker::{MAX_LINE, MarkerJournal};
pub use serve::{Agent, Children, Connection, serve};
pub use surface::{Component, Manifest, SurfaceReport};

/// The few commands that the agent itself can be, by the name it is called with. The initramfs of `tiny` has a link for
/// each in `/bin`; as init the agent also stands in for them when `exec` names one that the image lacks.
///
/// - `cat [FILE...]`: copies files, or standard input (`-`, or no file), to standard output
/// - `echo [-n] [WORD...]`
/// - `false`, `true`
/// - `hold`: does nothing until it is killed
/// - `poweroff`: switches the machine off at once
/// - `uname [-s|-n|-r|-v|-m|-a]`: what the kernel says of itself
pub const APPLETS: &[&str] = &["cat", "echo", "false", "hold", "poweroff", "true", "uname"];

/// The name by which the agent is called for what is no applet: faults in the guest, datagrams.
pub const OWN_NAME: &str = "bootproof-agent";

/// Says something to whoever reads standard error: the console as init, the journal as a service. Never fails.
fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("bootproof-agent: {text}\n").as_bytes());
}
