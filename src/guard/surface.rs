//! *surface*: what is shipped or published holds nothing unfinished, and nothing that was given up.

use std::path::Path;

use jiff::civil::Date;

use super::allow::{ALLOW_FILE, Allowances};
use super::files::{ProjectFile, project_files};
use super::finding::{Finding, Report, Rule};
use super::{archived, tokens, wording};
use crate::error::Result;
use crate::lane::{Catalog, Position};

const RULES: [Rule; 5] =
    [Rule::UnfinishedCode, Rule::OpenTask, Rule::UnfinishedWording, Rule::StubAnswer, Rule::ArchivedHelper];

/// Reads every file of the project but what is below `work_root`.
///
/// # Errors
/// Usage: the allow list is not valid. Infrastructure: a file cannot be read.
pub fn surface(project_root: &Path, work_root: &Path, today: Date) -> Result<Report> {
    let allowances = Allowances::read(project_root)?;
    let archived = archived::of_project(&Catalog::scan(project_root)?)?;
    let mut report = Report::new("surface");
    for file in project_files(project_root, work_root)? {
        let text = file.text()?;
        report.findings.extend(archived.iter().filter_map(|helper| helper.as_file(&file, text.as_deref())));
        // The list of exceptions names what it excepts.
        let Some(text) = text.filter(|_| !allowances.is_internal(&file.name) && file.name != ALLOW_FILE) else {
            continue;
        };
        report.count("files", 1);
        read(&file, &text, &mut report);
        // A profile names what it has archived.
        if !is_profile(&file.name) {
            report.findings.extend(archived.iter().flat_map(|helper| helper.in_text(&file.name, &text)));
        }
    }
    allowances.apply(&mut report, &RULES, today);
    Ok(report)
}

fn is_profile(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    matches!(parts.as_slice(), ["profiles", _, "profile.toml"])
}

fn read(file: &ProjectFile, text: &str, report: &mut Report) {
    for found in wording::find(text, file.extension()) {
        let message = match found.rule {
            Rule::OpenTask => format!("an open task: `{}`", found.said),
            Rule::StubAnswer => format!("this answers without doing anything: `{}`", found.said),
            _ => format!("this is not finished: `{}`", found.said),
        };
        let position = Position::of(&file.name, text, found.start);
        report.findings.push(Finding::new(found.rule, position, message).line_of(text));
    }
    if file.extension() != "rs" {
        return;
    }
    let place = |line, column| Position { file: file.name.clone(), line, column };
    match tokens::missing_code(text) {
        Some(found) => report.findings.extend(found.into_iter().map(|found| {
            let message = format!("code is missing: `{}`", found.call);
            Finding::new(Rule::UnfinishedCode, place(found.line, found.column), message).line_of(text)
        })),
        None => {
            let message = "this cannot be read as Rust, so nobody knows whether code is missing";
            report.findings.push(Finding::new(Rule::UnfinishedCode, place(1, 1), message));
        }
    }
}
