//! The allow list, `profiles/guards.toml`: exceptions with a reason and a last day.

use std::path::Path;

use jiff::civil::Date;
use serde::Deserialize;

use super::finding::{Finding, Report, Rule};
use crate::error::{Context, Result};
use crate::lane::{Position, Problem, Sources, Spanned, read_document};

/// Where the allow list is, from the project's root.
pub const ALLOW_FILE: &str = "profiles/guards.toml";

/// The format of the allow list.
const ALLOW_VERSION: u32 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowDocument {
    #[allow(dead_code, reason = "checked before anything else is read")]
    version: u32,
    #[serde(default)]
    surface: SurfaceDocument,
    #[serde(default)]
    allow: Vec<Spanned<AllowanceDocument>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SurfaceDocument {
    /// Folders and files that are neither shipped nor published.
    internal: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowanceDocument {
    rule: Spanned<String>,
    file: Spanned<String>,
    #[serde(default)]
    text: Option<String>,
    reason: Spanned<String>,
    expires: Spanned<String>,
}

/// One exception.
struct Allowance {
    rule: Rule,
    file: String,
    /// Has to stand in the line, or in the message.
    text: Option<String>,
    expires: Date,
    position: Position,
}

/// What the project says of its guards.
pub(super) struct Allowances {
    list: Vec<Allowance>,
    /// Folders and files that are neither shipped nor published, from the project's root.
    pub internal: Vec<String>,
}

impl Allowances {
    /// Reads the list; a project without one allows nothing.
    ///
    /// # Errors
    /// Usage, with an excerpt: the list is not valid.
    pub fn read(project_root: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(project_root.join(ALLOW_FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "version = 1".to_owned(),
            other => other.usage(|| format!("failed to read the allow list `{ALLOW_FILE}`"))?,
        };
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let (document, sources) =
            read_document(ALLOW_FILE, text, "allow list", ALLOW_VERSION, |document: &AllowDocument| {
                document.allow.iter().flat_map(|entry| check(entry)).collect()
            })?;
        let list = document.allow.iter().filter_map(|entry| allowance(entry, &sources)).collect();
        let internal = document.surface.internal.unwrap_or_else(|| vec!["tests".into(), "benches".into()]);
        Ok(Self { list, internal })
    }

    /// Whether the file is neither shipped nor published.
    pub fn is_internal(&self, file: &str) -> bool {
        self.internal.iter().any(|path| Path::new(file).starts_with(path))
    }

    /// Takes what is allowed out of the findings, and adds what is wrong with the list itself. Of what allows nothing
    /// only those are told whose rule was `tried`.
    pub fn apply(&self, report: &mut Report, tried: &[Rule], today: Date) {
        let mut used = vec![false; self.list.len()];
        let before = report.findings.len();
        report.findings.retain(|finding| {
            let mut allowed = false;
            for (entry, used) in self.list.iter().zip(&mut used) {
                if entry.covers(finding) {
                    *used = true;
                    allowed |= entry.expires >= today;
                }
            }
            !allowed
        });
        report.allowed = before - report.findings.len();
        for (entry, used) in self.list.iter().zip(used) {
            if !tried.contains(&entry.rule) {
                continue;
            }
            let told = format!("`{}` in `{}`", entry.rule.as_str(), entry.file);
            if !used {
                let message = format!("nothing is left of {told} that would have to be allowed");
                let finding = Finding::new(Rule::UnusedAllowance, entry.position.clone(), message);
                report.findings.push(finding.hint("remove the entry"));
            } else if entry.expires < today {
                let message = format!("{told} was allowed until {}", entry.expires);
                let finding = Finding::new(Rule::ExpiredAllowance, entry.position.clone(), message);
                report.findings.push(finding.hint("put right what it allows, or give a new date with a new reason"));
            }
        }
        report.findings.sort();
    }
}

impl Allowance {
    fn covers(&self, finding: &Finding) -> bool {
        let says = |text: &String| finding.text.contains(text) || finding.message.contains(text);
        self.rule == finding.rule && self.file == finding.file && self.text.as_ref().is_none_or(says)
    }
}

fn allowance(entry: &Spanned<AllowanceDocument>, sources: &Sources) -> Option<Allowance> {
    Some(Allowance {
        rule: Rule::named(&entry.rule)?,
        file: entry.file.value.clone(),
        text: entry.text.clone(),
        expires: entry.expires.parse().ok()?,
        position: sources.position(&entry.rule.place),
    })
}

fn check(entry: &AllowanceDocument) -> Vec<Problem> {
    let mut problems = Vec::new();
    let names = || Rule::ALL.into_iter().filter(|rule| rule.can_be_allowed()).map(Rule::as_str);
    match Rule::named(&entry.rule) {
        None => problems.push(
            Problem::new(format!("there is no rule `{}`", entry.rule.value))
                .at(entry.rule.place.clone())
                .nearest(&entry.rule, names()),
        ),
        Some(rule) if !rule.can_be_allowed() => {
            problems.push(Problem::new("what the allow list is held to cannot be allowed").at(entry.rule.place.clone()))
        }
        Some(_) => {}
    }
    if entry.file.is_empty() || entry.file.starts_with(['/', '.']) {
        problems.push(
            Problem::new("a file is named from the project's root")
                .at(entry.file.place.clone())
                .hint("write it as the finding does: `docs/nix.md`"),
        );
    }
    if entry.reason.trim().len() < 10 {
        problems.push(
            Problem::new("an exception needs a reason")
                .at(entry.reason.place.clone())
                .label("why may it stay so long?"),
        );
    }
    if entry.expires.parse::<Date>().is_err() {
        problems.push(
            Problem::new(format!("`{}` is not a date", entry.expires.value))
                .at(entry.expires.place.clone())
                .hint("write the last day on which it is allowed: `expires = \"2027-06-30\"`"),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
version = 1
[[allow]]
rule = "open-task"
file = "src/a.rs"
text = "colour"
reason = "waits for the next release of the library"
expires = "2030-06-30"
"#;

    fn report() -> Report {
        let mut report = Report::new("surface");
        let position = Position { file: "src/a.rs".into(), line: 3, column: 1 };
        report.findings.push(Finding::new(Rule::OpenTask, position, "x").line_of("\n\n // colour is missing"));
        report
    }

    fn apply(list: &str, rules: &[Rule], today: &str) -> (Vec<Rule>, usize) {
        let mut report = report();
        Allowances::parse(list).unwrap().apply(&mut report, rules, today.parse().unwrap());
        (report.findings.iter().map(|finding| finding.rule).collect(), report.allowed)
    }

    #[test]
    fn an_exception_holds_to_its_last_day() {
        let rules = [Rule::OpenTask];
        assert_eq!(apply(LIST, &rules, "2030-06-30"), (vec![], 1));
        assert_eq!(apply(LIST, &rules, "2030-07-01"), (vec![Rule::ExpiredAllowance, Rule::OpenTask], 0));
        assert_eq!(apply("version = 1", &rules, "2030-07-01"), (vec![Rule::OpenTask], 0));
    }

    #[test]
    fn what_allows_nothing_is_told_where_its_rule_was_tried() {
        let elsewhere = LIST.replace("colour", "sound");
        assert_eq!(
            apply(&elsewhere, &[Rule::OpenTask], "2029-01-01"),
            (vec![Rule::UnusedAllowance, Rule::OpenTask], 0)
        );
        assert_eq!(apply(&elsewhere, &[Rule::StubAnswer], "2029-01-01"), (vec![Rule::OpenTask], 0));
    }

    #[test]
    fn a_list_that_says_too_little_is_refused() {
        for (from, to, told) in [
            ("open-task", "open-tsk", "did you mean `open-task`?"),
            ("open-task", "unused-allowance", "cannot be allowed"),
            ("2030-06-30", "soon", "is not a date"),
            ("waits for the next release of the library", " ", "needs a reason"),
            ("src/a.rs", "./src/a.rs", "from the project's root"),
            ("expires = \"2030-06-30\"", "", "expires"),
        ] {
            let error = Allowances::parse(&LIST.replace(from, to)).err().unwrap();
            let text = error.rendered_excerpt(false).unwrap().to_owned();
            assert!(text.contains(told), "{text}");
        }
    }
}
