//! Running the tools that do the work, in a way that tests can look at.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// Runs tools.
pub trait Runner {
    /// Runs a tool to its end; what it printed, or what it complained of.
    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, String>;
}

/// Really.
pub struct System;

impl Runner for System {
    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("failed to run `{program}`: {error}");
        let mut child = Command::new(program)
            .args(arguments.iter().map(OsStr::new))
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // All inputs are shorter than a pipe holds; a tool that does not want its input says why itself.
            let _ = std::io::Write::write_all(&mut pipe, input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(format!("`{program}` ended with {}: {}", output.status, gist(&lines)))
    }
}

/// Of what a tool complained: what came first, which is the cause of much that follows it, and the end.
fn gist(lines: &[&str]) -> String {
    match lines {
        [first, .., before_last, last] if lines.len() > 3 => format!("{first}; ...; {before_last}; {last}"),
        few => few.join("; "),
    }
}

/// For tests: notes what was asked, and answers from a list.
#[cfg(test)]
#[derive(Default)]
pub struct Noted {
    pub calls: std::cell::RefCell<Vec<String>>,
    pub inputs: std::cell::RefCell<Vec<String>>,
    /// Beginning of a call -> answer.
    pub answers: Vec<(String, Result<String, String>)>,
}

#[cfg(test)]
impl Runner for Noted {
    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let call = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
        let answer = self.answers.iter().find(|(start, _)| call.starts_with(start)).map(|(_, answer)| answer.clone());
        self.calls.borrow_mut().push(call);
        self.inputs.borrow_mut().extend(input.map(str::to_owned));
        answer.unwrap_or_else(|| Ok(String::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_goes_on_after_its_first_trouble_is_quoted_with_it() {
        let script =
            "echo 'no space left' >&2; for number in 1 2 3 4; do echo \"what follows, $number\" >&2; done; exit 2";
        let reason = System.run("sh", &["-c", script], None).unwrap_err();
        assert!(reason.ends_with(": no space left; ...; what follows, 3; what follows, 4"), "{reason}");
        let reason = System.run("sh", &["-c", "echo one >&2; echo two >&2; exit 1"], None).unwrap_err();
        assert!(reason.ends_with(": one; two"), "{reason}");
    }
}
