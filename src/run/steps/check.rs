//! Whether a command's outcome is what the lane says it must be.

use regex::Regex;

use crate::event::FailureReason;
use crate::lane::model::{Command, TextCheck};

/// At most this much of an unexpected text is quoted.
const QUOTED: usize = 200;

/// Why a step's outcome is not what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    pub reason: FailureReason,
    pub message: String,
}

/// Checks exit status and both texts; the first mismatch is told.
pub fn command_outcome(command: &Command, status: &ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<(), Mismatch> {
    let wanted = command.status;
    match status {
        ExitStatus::Code(code) if *code == wanted => {}
        other => {
            let said = last_line(stderr).or_else(|| last_line(stdout));
            let said = said.map_or_else(String::new, |line| format!("; it said `{line}`"));
            return Err(Mismatch {
                reason: FailureReason::ExitStatus,
                message: format!("`{}` {other} instead of exiting with {wanted}{said}", command.argv.join(" ")),
            });
        }
    }
    text("standard output", &command.stdout, stdout)?;
    text("standard error", &command.stderr, stderr)
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    pub fn code(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code),
            ExitStatus::Signal(_) => None,
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(formatter, "exited with {code}"),
            ExitStatus::Signal(signal) => write!(formatter, "was ended by signal {signal}"),
        }
    }
}

/// Checks one text; `what` names it.
pub fn text(what: &str, check: &TextCheck, bytes: &[u8]) -> Result<(), Mismatch> {
    let text = String::from_utf8_lossy(bytes);
    let mismatch = |wanted: String| {
        let message = format!("{what} {wanted}, and was `{}`", quote(&text));
        Err(Mismatch { reason: FailureReason::OutputMismatch, message })
    };
    if let Some(wanted) = &check.equals
        && text.trim_end() != wanted.trim_end()
    {
        return mismatch(format!("should have been `{wanted}`"));
    }
    if let Some(wanted) = &check.contains
        && !text.contains(wanted.as_str())
    {
        return mismatch(format!("should have contained `{wanted}`"));
    }
    if let Some(pattern) = &check.matches {
        // The lane was checked, so the pattern is one; a lane read by an older version may still surprise.
        match Regex::new(pattern) {
            Ok(regex) if regex.is_match(&text) => {}
            Ok(_) => return mismatch(format!("should have matched `{pattern}`")),
            Err(error) => {
                let message = format!("`{pattern}` is not a regular expression: {error}");
                return Err(Mismatch { reason: FailureReason::Harness, message });
            }
        }
    }
    Ok(())
}

fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rfind(|line| !line.trim().is_empty()).map(|line| quote(line.trim()))
}

fn quote(text: &str) -> String {
    let text = text.trim_end();
    let mut quoted = crate::console::sanitize(&text.chars().take(QUOTED).collect::<String>()).into_owned();
    if text.chars().count() > QUOTED {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn command(status: i32, stdout: TextCheck) -> Command {
        Command {
            argv: vec!["true".into()],
            environment: BTreeMap::new(),
            stdin: None,
            status,
            stdout,
            stderr: TextCheck::default(),
        }
    }

    #[test]
    fn the_status_has_to_be_the_wanted_one() {
        let wanted = command(3, TextCheck::default());
        assert_eq!(command_outcome(&wanted, &ExitStatus::Code(3), b"", b""), Ok(()));
        let mismatch = command_outcome(&wanted, &ExitStatus::Code(0), b"", b"a\nlast words\n\n").unwrap_err();
        assert_eq!(mismatch.reason, FailureReason::ExitStatus);
        assert_eq!(mismatch.message, "`true` exited with 0 instead of exiting with 3; it said `last words`");
        assert!(command_outcome(&wanted, &ExitStatus::Signal(9), b"", b"").is_err());
    }

    #[test]
    fn every_part_of_a_text_check_has_to_hold() {
        let check = |equals: Option<&str>, contains: Option<&str>, matches: Option<&str>| TextCheck {
            equals: equals.map(Into::into),
            contains: contains.map(Into::into),
            matches: matches.map(Into::into),
        };
        assert!(text("it", &check(Some("a b"), Some("b"), Some("^a")), b"a b\n").is_ok());
        assert!(text("it", &check(Some("a"), None, None), b"a b\n").is_err());
        assert!(text("it", &check(None, Some("c"), None), b"a b\n").is_err());
        assert!(text("it", &check(None, None, Some("^b")), b"a b\n").is_err());
    }
}
