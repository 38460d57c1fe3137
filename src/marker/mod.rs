//! What a console line means: markers, failure patterns, and the waits that both decide. Pure: no clock, no file, no task.
//!
//! Owns the form of a marker line as the host reads it ([`parse_marker`]), which of a lane's names it carries, the
//! built-in failure patterns, what a machine has shown so far ([`MarkerHistory`]) and the state machine of a wait
//! ([`Wait`]).
//!
//! What always holds:
//! - A marker is a whole, complete line. A line that carries the prefix but whose bytes had to be changed (a control
//!   character dropped from inside it, invalid UTF-8, over-long) or whose checksum does not fit is `damaged`: it is
//!   reported and never counts.
//! - Only a line with a checksum that fits has a sequence number, so that a bare line cannot make a genuine one look
//!   like a duplicate.
//! - The same findings in the same order give the same answer; nothing here depends on time.
//! - Memory is bounded whatever a guest prints.

mod history;
mod line;
mod literals;
mod names;
mod patterns;
mod rules;
mod wait;

pub use history::{MarkerHistory, Observed};
pub use line::{MARKER_LIMIT, Marker, parse_marker};
pub use patterns::{BuiltInPattern, built_in_failure_patterns};
pub use rules::{CompiledRules, Found, Line, LineFinding, RuleParts};
pub use wait::{MachineEvent, Wait, WaitEnd, WaitProgress};

#[cfg(test)]
mod tests;
