//! Getting into machines that are up, from another process than the one that drives them.
//!
//! A run listens on `run.sock` in its runtime folder for as long as it has machines; a caller says in one line what it
//! wants (`Call`), is answered in one line (`Answer`), and then has a console's bytes, or the frames of one command.
//! A kept machine has nobody but its keeper, which knows consoles only: whoever wants a command run in it speaks to its
//! agent directly, with the same frames, served in the caller's own process.
//!
//! What always holds: a caller that goes away takes its command along, one that does not read loses its place and holds
//! up nobody, and what is typed into a console changes nothing about how it is recorded.

mod protocol;
mod serve;

pub use protocol::{Answer, Call, FromCaller, LONGEST_LINE, ToCaller, read_line, write_line};
pub use serve::serve_command;

use std::path::{Path, PathBuf};

/// The run's socket, in its runtime folder.
pub fn run_socket(runtime: &Path) -> PathBuf {
    runtime.join("run.sock")
}
