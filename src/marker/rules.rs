//! What one machine's console is searched for, compiled once and shared by its consoles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::RegexSet;

use super::line::{Marker, parse_marker};
use super::literals::required_literals;
use super::names::NameTable;
use super::patterns::built_in_failure_patterns;
use crate::error::{Context, Error, Result};
use crate::event::{Evidence, MarkerStanding};
use crate::lane::all_steps;
use crate::lane::model::{Action, Expected, FailurePatternRules, Lane, MarkerRules};
use crate::text::shortened;

/// Findings carry at most this much of their line, in bytes; the evidence points to the rest.
const TEXT_LIMIT: usize = 1024;

/// Something on a console that means something to the lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LineFinding {
    pub found: Found,
    /// The decoded line, safe to print, at most 1 KiB of it (4 KiB of a marker).
    pub text: String,
    /// Where the line stands in the raw recording, without its line ending.
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    Marker(Marker),
    /// A failure pattern, by name.
    FailurePattern {
        name: Arc<str>,
    },
    /// A console expectation's regular expression, as the lane writes it.
    ConsoleMatch {
        pattern: Arc<str>,
    },
}

/// One decoded line, on its way to be examined.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Decoded text, without line ending and without control characters.
    pub text: &'a str,
    /// Where its raw bytes begin in the recording.
    pub offset: u64,
    /// How many raw bytes it has.
    pub length: u64,
    /// Its end has arrived; an open line (a prompt) is searched for patterns and is never a marker.
    pub complete: bool,
    /// Its text is byte for byte what stood on the console.
    pub intact: bool,
}

/// What rules are made of; [`CompiledRules::compile`] takes them from a lane.
#[derive(Clone, Debug, Default)]
pub struct RuleParts {
    pub machine: String,
    pub markers: MarkerRules,
    pub failure_patterns: FailurePatternRules,
    /// Marker names that are expected or forbidden.
    pub names: BTreeSet<String>,
    pub nodes: BTreeSet<String>,
    /// Regular expressions of console expectations.
    pub console_patterns: BTreeSet<String>,
}

/// What a machine's console is searched for.
#[derive(Debug)]
pub struct CompiledRules {
    machine: String,
    prefix: String,
    require_crc: bool,
    names: NameTable,
    /// In the order of `set`.
    patterns: Vec<Found>,
    set: RegexSet,
    /// Finds lines that may mean something; absent where some pattern promises no literal and every line has to be
    /// tried.
    candidates: Option<AhoCorasick>,
}

impl CompiledRules {
    /// The rules for one of the lane's machines: the lane's marker and failure rules, and what the steps that happen on
    /// this machine expect. A regular expression that does not compile is a usage error, and so is silencing a failure
    /// pattern that does not exist.
    pub fn compile(lane: &Lane, machine: &str) -> Result<Self> {
        let mut parts = RuleParts {
            machine: machine.to_owned(),
            markers: lane.markers.clone(),
            failure_patterns: lane.failure_patterns.clone(),
            nodes: lane.machines.keys().cloned().collect(),
            ..RuleParts::default()
        };
        for step in all_steps(&lane.steps) {
            let Action::Expect { expectations, forbid, .. } = &step.action else { continue };
            // Names are the lane's on every machine, so that a line is read the same way wherever it appears.
            parts.names.extend(forbid.iter().cloned());
            for expectation in expectations {
                match &expectation.what {
                    Expected::Marker { name, .. } => {
                        parts.names.insert(name.clone());
                    }
                    Expected::Console { pattern } if step.on.iter().any(|on| on == machine) => {
                        parts.console_patterns.insert(pattern.clone());
                    }
                    Expected::Console { .. } => {}
                }
            }
        }
        Self::from_parts(parts)
    }

    pub fn from_parts(parts: RuleParts) -> Result<Self> {
        let RuleParts { machine, markers, failure_patterns, names, nodes, console_patterns } = parts;
        let MarkerRules { prefix, aliases, require_crc } = markers;
        if prefix.is_empty() || prefix.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(Error::usage(format!("the marker prefix `{}` is not one word", prefix.escape_debug()))
                .hint("write it like `BOOTPROOF_MARKER`"));
        }
        let expressions = expressions(failure_patterns, console_patterns)?;
        let set = RegexSet::new(expressions.iter().map(|(_, expression)| expression))
            .usage(|| "failed to compile the lane's console patterns together".into())?;
        let mut literals = vec![prefix.clone().into_bytes()];
        let mut selective = true;
        for (_, expression) in &expressions {
            match required_literals(expression) {
                Some(required) => literals.extend(required),
                None => selective = false,
            }
        }
        literals.sort();
        literals.dedup();
        let candidates = match selective {
            true => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostFirst)
                    .build(&literals)
                    .usage(|| "failed to compile the literals of the lane's console patterns".into())?,
            ),
            false => None,
        };
        let known = names.into_iter().chain(aliases.values().cloned()).collect();
        let names = NameTable { known, nodes, aliases };
        let patterns = expressions.into_iter().map(|(found, _)| found).collect();
        Ok(Self { machine, prefix, require_crc, names, patterns, set, candidates })
    }

    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Whether the lane expects or forbids a marker of this name.
    pub fn is_known(&self, name: &str) -> bool {
        self.names.is_known(name)
    }

    /// Where in `bytes` the next line that may mean something has a literal of ours, at or after `from`; `None` where
    /// there is no such line. `bytes` are plain lines: no control characters, no invalid UTF-8.
    pub fn next_candidate(&self, bytes: &[u8], from: usize) -> Option<usize> {
        match &self.candidates {
            Some(literals) => literals.find(aho_corasick::Input::new(bytes).range(from..)).map(|found| found.start()),
            None => (from < bytes.len()).then_some(from),
        }
    }

    /// Examines one line. `reported` holds the patterns that the line had matched while it was still open; they are
    /// not reported again, and what an open line matches is added.
    pub fn examine(
        &self,
        line: Line<'_>,
        file: &str,
        reported: &mut Vec<usize>,
        emit: &mut (impl FnMut(LineFinding) + ?Sized),
    ) {
        let finding = |found: Found, limit: usize| LineFinding {
            found,
            text: shortened(line.text, limit).to_owned(),
            evidence: Evidence { file: file.to_owned(), offset: line.offset, length: line.length },
        };
        let mut is_marker = false;
        if line.complete
            && let Some(marker) = parse_marker(line.text, &self.prefix, &self.names, self.require_crc, line.intact)
        {
            is_marker = true;
            emit(finding(Found::Marker(marker), super::line::MARKER_LIMIT));
        }
        if !self.set.is_match(line.text) {
            return;
        }
        for index in self.set.matches(line.text) {
            let found = &self.patterns[index];
            // A marker's arguments may talk of failures; whoever prints a marker is alive.
            let silent = is_marker && matches!(found, Found::FailurePattern { .. });
            if silent || reported.contains(&index) {
                continue;
            }
            if !line.complete {
                reported.push(index);
            }
            emit(finding(found.clone(), TEXT_LIMIT));
        }
    }
}

/// All patterns with what a match means, built-in ones first.
fn expressions(rules: FailurePatternRules, console: BTreeSet<String>) -> Result<Vec<(Found, String)>> {
    let mut failures: BTreeMap<&str, &str> = BTreeMap::new();
    for built_in in built_in_failure_patterns() {
        failures.insert(built_in.name, built_in.expression);
    }
    for name in &rules.silence {
        if failures.remove(name.as_str()).is_none() {
            let known: Vec<_> = built_in_failure_patterns().iter().map(|pattern| pattern.name).collect();
            return Err(Error::usage(format!("there is no built-in failure pattern `{name}` to silence"))
                .hint(format!("the built-in ones are {}", known.join(", "))));
        }
    }
    for (name, expression) in &rules.add {
        regex::Regex::new(expression)
            .usage(|| format!("failed to compile the failure pattern `{name}`"))
            .map_err(|error| error.hint("write a literal `[` or `(` as `\\[` or `\\(`"))?;
        failures.insert(name, expression);
    }
    let mut all: Vec<_> = failures
        .into_iter()
        .map(|(name, expression)| (Found::FailurePattern { name: name.into() }, expression.to_owned()))
        .collect();
    for pattern in console {
        regex::Regex::new(&pattern)
            .usage(|| format!("failed to compile the console expectation `{pattern}`"))
            .map_err(|error| error.hint("write a literal `[` or `(` as `\\[` or `\\(`"))?;
        all.push((Found::ConsoleMatch { pattern: pattern.as_str().into() }, pattern));
    }
    Ok(all)
}

impl LineFinding {
    /// The marker, where the finding is one.
    pub fn marker(&self) -> Option<&Marker> {
        match &self.found {
            Found::Marker(marker) => Some(marker),
            Found::FailurePattern { .. } | Found::ConsoleMatch { .. } => None,
        }
    }

    pub(super) fn set_standing(&mut self, standing: MarkerStanding) {
        if let Found::Marker(marker) = &mut self.found {
            marker.standing = standing;
        }
    }
}
