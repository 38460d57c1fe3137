//! What the terminal says once a run is over: short where it went well, and where to look where it did not.

use std::fmt::Write;

use super::describe;
use super::document::{Block, Cell, Document, failure_facts};
use super::result::RunResult;
use super::story::Story;
use super::text::{self, one_line};
use crate::event::{Outcome, Verdict};

/// How and with which paths to speak.
#[derive(Clone, Debug)]
pub struct Style {
    /// The proof root as the user can open it.
    pub root: String,
    /// The command that shows more of this run.
    pub show_command: String,
    pub color: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn verdict(&self, verdict: Verdict) -> String {
        let code = match verdict {
            Verdict::Passed | Verdict::Reproduced => "1;32",
            Verdict::Failed => "1;31",
            Verdict::Blocked
            | Verdict::Infrastructure
            | Verdict::Budget
            | Verdict::Interrupted
            | Verdict::Incomplete => "1;33",
        };
        self.paint(code, verdict.as_str())
    }

    fn outcome(&self, outcome: Outcome) -> String {
        let code = match outcome {
            Outcome::Passed => "32",
            Outcome::Failed => "31",
            Outcome::Skipped | Outcome::NotRun => "33",
        };
        // Padded before it is painted: terminals count what they show, and format! counts what it is given.
        self.paint(code, &format!("{:7}", describe::outcome(outcome)))
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

/// The end of a run in a few lines.
pub fn summary(story: &Story, style: &Style) -> String {
    let result = &story.result;
    let mut text = headline(result, style);
    let fact = |text: &mut String, label: &str, value: &str| {
        push(text, format_args!("  {}  {value}\n", style.paint("2", &format!("{label:11}"))));
    };
    text.push('\n');
    for finding in &result.findings {
        let mark = if finding.blocking { style.paint("31", "missing") } else { style.paint("2", "note   ") };
        push(&mut text, format_args!("  {mark}  {}: {}\n", one_line(&finding.check), one_line(&finding.message)));
        if let Some(remedy) = &finding.remedy {
            push(&mut text, format_args!("           {} {}\n", style.paint("36", "hint:"), one_line(remedy)));
        }
    }
    if !result.findings.is_empty() {
        text.push('\n');
    }
    let happy = result.verdict.exit_code() == 0;
    // A control that was reproduced failed as it must: its headline says where, and nobody has to look into it.
    if let Some(failure) = result.failure.as_ref().filter(|_| !happy) {
        for (label, value) in failure_facts(failure) {
            fact(&mut text, &label.to_lowercase(), &plain(&value));
        }
        if let Some(excerpt) = &story.excerpt {
            push(&mut text, format_args!("\n  {}\n", style.paint("2", &one_line(&excerpt.file))));
            for line in &excerpt.lines {
                push(&mut text, format_args!("  {} {}\n", style.paint("2", "|"), one_line(line)));
            }
        }
        text.push('\n');
    }
    let started = result.verdict != Verdict::Blocked;
    if started {
        checks(&mut text, result, style);
    }
    if let Some(score) = result.score.filter(|_| started) {
        let minimum = result.minimum_score.map(|minimum| format!(", at least {minimum}%")).unwrap_or_default();
        fact(&mut text, "score", &format!("{}% ({} of {}{minimum})", score.percent, score.earned, score.possible));
    }
    if let Some(accelerator) = &result.accelerator {
        let told = format!("{} ({})", accelerator.mode, accelerator.proven_by);
        fact(&mut text, "accelerator", &one_line(&told));
    }
    for (name, _) in result.machines.iter().filter(|(_, machine)| machine.kept) {
        fact(&mut text, "kept", &format!("{} is still running: `bootproof ps` shows it", one_line(name)));
    }
    fact(&mut text, "proof", &style.root);
    if !happy {
        if let Some(file) = file_to_open(result) {
            fact(&mut text, "open", &format!("{}/{}", style.root, one_line(&file)));
        }
        fact(&mut text, "look closer", &style.show_command);
    }
    text
}

fn headline(result: &RunResult, style: &Style) -> String {
    let lane = one_line(result.lane.as_deref().unwrap_or("unknown lane"));
    let control =
        result.control.as_ref().map(|control| format!(", control {}", one_line(&control.name))).unwrap_or_default();
    let took = text::duration(result.duration_ms);
    let why = match result.verdict {
        Verdict::Passed => String::new(),
        Verdict::Failed
        | Verdict::Reproduced
        | Verdict::Blocked
        | Verdict::Infrastructure
        | Verdict::Budget
        | Verdict::Interrupted
        | Verdict::Incomplete => format!(": {}", one_line(&result.reason)),
    };
    format!("{} {lane}{control} in {took}{why}\n", style.verdict(result.verdict))
}

/// A line per step, with its gate.
fn checks(text: &mut String, result: &RunResult, style: &Style) {
    let width = result.steps.iter().map(|step| one_line(&step.name).chars().count()).max().unwrap_or(0).min(32);
    for step in &result.steps {
        let took = step.duration_ms.map(text::duration).unwrap_or_default();
        let gate = step.gate.as_ref().map(|gate| format!("gate {}", one_line(gate))).unwrap_or_default();
        let name = one_line(&step.name);
        let line = format!("  {}  {name:width$}  {took:>8}  {gate}", style.outcome(step.outcome));
        push(text, format_args!("{}\n", line.trim_end()));
    }
    if !result.steps.is_empty() {
        text.push('\n');
    }
}

/// The file that tells most about the failure: the console as text rather than as it came.
fn file_to_open(result: &RunResult) -> Option<String> {
    let failure = result.failure.as_ref()?;
    match (&failure.evidence, &failure.machine) {
        (Some(evidence), _) => Some(match evidence.file.strip_suffix("console.raw") {
            Some(directory) => format!("{directory}console.log"),
            None => evidence.file.clone(),
        }),
        (None, Some(machine)) => Some(format!("machines/{machine}/console.log")),
        (None, None) => None,
    }
}

fn plain(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) | Cell::Code(text) => one_line(text),
        Cell::Outcome(outcome) => describe::outcome(*outcome).to_owned(),
        Cell::Verdict(verdict) => verdict.as_str().to_owned(),
        Cell::Empty => String::new(),
    }
}

/// Everything that the reports tell, as text for a terminal.
pub fn details(document: &Document, style: &Style) -> String {
    let mut text = format!("{} {}\n", style.verdict(document.verdict), one_line(&document.title));
    if let Some(summary) = &document.summary {
        push(&mut text, format_args!("{}\n", one_line(summary)));
    }
    text.push('\n');
    facts(&mut text, &document.facts, style);
    for section in &document.sections {
        push(&mut text, format_args!("\n{}\n", style.paint("1", section.title)));
        for block in &section.blocks {
            match block {
                Block::Facts(rows) => facts(&mut text, rows, style),
                Block::Table { header, rows } => table(&mut text, header, rows, style),
                Block::Excerpt { file, lines } => {
                    push(&mut text, format_args!("  {}\n", style.paint("2", &one_line(file))));
                    for line in lines {
                        push(&mut text, format_args!("  {} {}\n", style.paint("2", "|"), one_line(line)));
                    }
                }
                Block::Text(line) => push(&mut text, format_args!("  {}\n", one_line(line))),
            }
        }
    }
    push(&mut text, format_args!("\nproof: {}\n", style.root));
    text
}

fn facts(text: &mut String, facts: &[(&'static str, Cell)], style: &Style) {
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, value) in facts {
        let label = style.paint("2", &format!("{:width$}", label.to_lowercase()));
        push(text, format_args!("  {label}  {}\n", plain(value)));
    }
}

/// The widest that a column is padded to; the last one is never padded.
const WIDEST_COLUMN: usize = 48;

fn table(text: &mut String, header: &[&str], rows: &[Vec<Cell>], style: &Style) {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0).min(WIDEST_COLUMN)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let titles = line(&mut header.iter().copied());
    push(text, format_args!("  {}\n", style.paint("2", &titles)));
    for row in &rows {
        push(text, format_args!("  {}\n", line(&mut row.iter().map(String::as_str))));
    }
}
