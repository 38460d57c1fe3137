//! What machines print: recorded, decoded, and searched for what the lane waits for.
//!
//! Owns the way of a console's bytes: to disk as they came ([`capture`]), then through the decoder into lines, then
//! past the lane's rules ([`Interpreter`]); and the reading of recordings afterwards ([`decode_file`], [`excerpt`]).
//!
//! What always holds:
//! - Bytes are written to the recording before anything interprets them, and a finding's evidence lies within what has
//!   been written.
//! - The findings are the same however the bytes were cut into reads. Time plays a part in one place only: a line whose
//!   end has not come (a prompt) is searched for patterns once the console has gone quiet.
//! - A line feed always ends a line, and a carriage return always ends a text: no escape sequence reaches past either,
//!   so nothing that is unfinished hides what follows. Texts that a carriage return (or a cursor movement) parts are
//!   examined each by itself; none is ever composed of two. A marker can therefore neither be hidden by printing over
//!   it nor be put together from pieces; one that a cursor movement ends (a reset in its middle looks so) is damaged. The readable log keeps the last text of a line that is not blank.
//! - Memory is bounded: a line is examined on its first 16 KiB, a console's recording ends at its limit.
//! - Nothing that leaves here can control a terminal.

mod capture;
mod decode;
mod interpret;
mod readable;

pub use crate::text::{is_safe, sanitize};
pub use capture::{Capture, CaptureOptions, CaptureSummary, ConsoleReport, Recorded, Source, capture};
pub use decode::LINE_LIMIT;
pub use interpret::Interpreter;
pub use readable::{Excerpt, ReadableLines, decode_file, excerpt};

#[cfg(test)]
mod tests;
