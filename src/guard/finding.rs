//! What a guard says.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::lane::Position;

/// What a finding offends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    Profile,
    Lane,
    EntryPoint,
    Component,
    NixAttribute,
    NixBuild,
    UnfinishedCode,
    OpenTask,
    UnfinishedWording,
    StubAnswer,
    ArchivedHelper,
    ExpiredAllowance,
    UnusedAllowance,
}

impl Rule {
    pub const ALL: [Rule; 13] = [
        Rule::Profile,
        Rule::Lane,
        Rule::EntryPoint,
        Rule::Component,
        Rule::NixAttribute,
        Rule::NixBuild,
        Rule::UnfinishedCode,
        Rule::OpenTask,
        Rule::UnfinishedWording,
        Rule::StubAnswer,
        Rule::ArchivedHelper,
        Rule::ExpiredAllowance,
        Rule::UnusedAllowance,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Profile => "profile",
            Rule::Lane => "lane",
            Rule::EntryPoint => "entry-point",
            Rule::Component => "component",
            Rule::NixAttribute => "nix-attribute",
            Rule::NixBuild => "nix-build",
            Rule::UnfinishedCode => "unfinished-code",
            Rule::OpenTask => "open-task",
            Rule::UnfinishedWording => "unfinished-wording",
            Rule::StubAnswer => "stub-answer",
            Rule::ArchivedHelper => "archived-helper",
            Rule::ExpiredAllowance => "expired-allowance",
            Rule::UnusedAllowance => "unused-allowance",
        }
    }

    /// The rule of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    /// Whether the allow list may silence it: not what the list itself is held to.
    pub fn can_be_allowed(self) -> bool {
        !matches!(self, Rule::ExpiredAllowance | Rule::UnusedAllowance)
    }
}

/// One thing that is not as it should be, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// From the project's root.
    pub file: String,
    /// From one.
    pub line: usize,
    /// From one, in characters.
    pub column: usize,
    pub rule: Rule,
    pub message: String,
    /// The line of the file, where there is one.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    pub fn new(rule: Rule, position: Position, message: impl Into<String>) -> Self {
        let Position { file, line, column } = position;
        Self { file, line, column, rule, message: message.into(), text: String::new(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the line that it points at, from the file's text.
    pub fn line_of(mut self, text: &str) -> Self {
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
        self.text = line.trim().chars().take(200).collect();
        self
    }
}

/// Something that could not be checked here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub what: String,
    pub reason: String,
}

/// All that a guard has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The format of the report as JSON.
    pub version: u32,
    /// `eval`, `build` or `surface`.
    pub guard: &'static str,
    /// In the order of files and lines.
    pub findings: Vec<Finding>,
    pub skipped: Vec<Skipped>,
    /// How much was looked at, by kind.
    pub checked: BTreeMap<&'static str, usize>,
    /// Findings that the allow list silences.
    pub allowed: usize,
}

impl Report {
    pub fn new(guard: &'static str) -> Self {
        Self { version: 1, guard, findings: Vec::new(), skipped: Vec::new(), checked: BTreeMap::new(), allowed: 0 }
    }

    pub fn count(&mut self, what: &'static str, more: usize) {
        *self.checked.entry(what).or_default() += more;
    }

    /// Keeps an error that is the files' own as findings; any other is given back.
    ///
    /// # Errors
    /// The error itself, where it is not of a place in a file.
    pub fn take_error(&mut self, rule: Rule, file: &str, error: Error) -> Result<()> {
        if error.kind() != crate::error::ErrorKind::Usage {
            return Err(error);
        }
        let hint = error.hints().first().cloned();
        if error.placed_messages().is_empty() {
            let position = Position { file: file.to_owned(), line: 1, column: 1 };
            let mut finding = Finding::new(rule, position, error.chain());
            finding.hint = hint;
            self.findings.push(finding);
        }
        for placed in error.placed_messages() {
            let position = Position { file: file.to_owned(), line: placed.line, column: placed.column };
            let mut finding = Finding::new(rule, position, &placed.message);
            finding.hint.clone_from(&placed.hint);
            self.findings.push(finding);
        }
        Ok(())
    }
}
