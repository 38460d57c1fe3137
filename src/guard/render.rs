//! A report as text for people, JSON for programs, and annotations for GitHub.

use std::fmt::Write as _;

use super::finding::Report;

/// One line for each finding, hints below, then what was skipped, and a count last.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (file, line, column) = (&finding.file, finding.line, finding.column);
        let _ = writeln!(text, "{file}:{line}:{column}: {}: {}", finding.rule.as_str(), finding.message);
        if !finding.text.is_empty() {
            let _ = writeln!(text, "  | {}", crate::text::sanitize(&finding.text));
        }
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
    }
    for skipped in &report.skipped {
        let _ = writeln!(text, "skipped: {}: {}", skipped.what, skipped.reason);
    }
    let count = match report.findings.len() {
        0 => "nothing found".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let checked: Vec<String> = report.checked.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let _ = write!(text, "guard {}: {count}", report.guard);
    if !checked.is_empty() {
        let _ = write!(text, " in {}", checked.join(", "));
    }
    if report.allowed > 0 {
        let _ = write!(text, "; {} allowed", report.allowed);
    }
    if !report.skipped.is_empty() {
        let _ = write!(text, "; {} skipped", report.skipped.len());
    }
    text.push('\n');
    text
}

/// The report as one JSON document.
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// What GitHub shows beside the lines of a change.
pub fn annotations(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let _ = writeln!(
            text,
            "::error file={},line={},col={},title={}::{}",
            property(&finding.file),
            finding.line,
            finding.column,
            finding.rule.as_str(),
            data(&finding.message)
        );
    }
    for skipped in &report.skipped {
        let _ = writeln!(text, "::warning title=skipped::{}", data(&format!("{}: {}", skipped.what, skipped.reason)));
    }
    text
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
