//! The one place that prints errors.

use std::error::Error as _;

use super::Context;
use crate::error::Error;

/// Prints the error, its causes, its excerpt and its hints on standard error.
pub fn print_error(context: &Context, error: &Error) {
    let (red, cyan, reset) = if context.color { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    match error.rendered_excerpt(context.color) {
        // A rendered excerpt begins with its own `error:` line.
        Some(excerpt) => eprintln!("{excerpt}"),
        None => eprintln!("{red}error:{reset} {error}"),
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    for hint in error.hints() {
        eprintln!("{cyan}hint:{reset} {hint}");
    }
}
