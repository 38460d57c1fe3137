//! `report.md`. What a guest printed stands in code spans and fences that are longer than anything in it, or escaped.

use std::fmt::Write;

use super::describe;
use super::document::{Block, Cell, Document};
use super::text::{literals, one_line};

/// The document as GitHub-flavoured Markdown.
pub fn markdown(document: &Document) -> String {
    let mut text = format!("# {}: {}\n", escape(&document.title), document.verdict.as_str());
    if let Some(summary) = &document.summary {
        push(&mut text, format_args!("\n{}\n", escape(summary)));
    }
    facts(&mut text, &document.facts);
    for section in &document.sections {
        push(&mut text, format_args!("\n## {}\n", section.title));
        for block in &section.blocks {
            match block {
                Block::Facts(rows) => facts(&mut text, rows),
                Block::Table { header, rows } => table(&mut text, header, rows),
                Block::Excerpt { file, lines } => {
                    let lines: Vec<String> = lines.iter().map(|line| one_line(line)).collect();
                    let fence = "`".repeat(lines.iter().map(|line| longest_run(line)).max().unwrap_or(0).max(2) + 1);
                    push(&mut text, format_args!("\n{}:\n\n{fence}text\n{}\n{fence}\n", code(file), lines.join("\n")));
                }
                Block::Text(line) => push(&mut text, format_args!("\n{}\n", with_code(line))),
            }
        }
    }
    push(&mut text, format_args!("\n---\n\n{}\n", document.footer));
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

fn facts(text: &mut String, facts: &[(&'static str, Cell)]) {
    text.push('\n');
    for (label, value) in facts {
        push(text, format_args!("- **{label}:** {}\n", cell(value)));
    }
}

fn table(text: &mut String, header: &[&str], rows: &[Vec<Cell>]) {
    push(text, format_args!("\n| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len())));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|value| in_table(&cell(value))).collect();
        push(text, format_args!("| {} |\n", cells.join(" | ")));
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => with_code(text),
        Cell::Code(text) => code(text),
        Cell::Outcome(outcome) => describe::outcome(*outcome).to_owned(),
        Cell::Verdict(verdict) => format!("**{}**", verdict.as_str()),
        Cell::Empty => String::new(),
    }
}

/// A table splits at pipes before it looks at anything else, code spans included; text is escaped already.
fn in_table(cell: &str) -> String {
    let mut escaped = String::with_capacity(cell.len());
    let mut previous = None;
    for character in cell.chars() {
        if character == '|' && previous != Some('\\') {
            escaped.push('\\');
        }
        escaped.push(character);
        previous = Some(character);
    }
    escaped
}

/// A code span that holds any text.
fn code(text: &str) -> String {
    let text = one_line(text);
    if text.trim().is_empty() {
        return String::new();
    }
    // A backslash before a pipe would undo the pipe's escape in a table, and code spans know no escapes.
    if text.contains("\\|") {
        return escape(&text);
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

fn longest_run(text: &str) -> usize {
    text.split(|character| character != '`').map(str::len).max().unwrap_or(0)
}

/// Plain text: nothing in it is markup, a link, a mention or the start of a block.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).trim().chars() {
        match character {
            '\\' | '@' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '!' | '$' => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    // To some readers these alone are links.
    escaped.replace("://", "\\://").replace("www.", "www\\.").replace("mailto:", "mailto\\:")
}

fn with_code(text: &str) -> String {
    let mut page = String::new();
    for (at, part) in literals(text).into_iter().enumerate() {
        if at % 2 == 1 {
            page.push_str(&code(part));
            continue;
        }
        // Escaping trims, and the spaces around a span are wanted.
        if at > 0 && part.starts_with(' ') {
            page.push(' ');
        }
        page.push_str(&escape(part));
        if part.ends_with(' ') && !part.trim().is_empty() {
            page.push(' ');
        }
    }
    page
}
