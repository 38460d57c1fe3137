//! `report.html`: one file that needs nothing else. No script, no request, light and dark.

use std::fmt::Write;

use super::describe;
use super::document::{Block, Cell, Document};
use super::text::{literals, one_line};
use crate::event::{Outcome, Verdict};

/// The document as a page of its own.
pub fn html(document: &Document) -> String {
    let mut page = String::with_capacity(16 << 10);
    let title = escape(&document.title);
    let verdict = document.verdict.as_str();
    push(
        &mut page,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}: {verdict}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title} {}</h1>\n",
            verdict_badge(document.verdict)
        ),
    );
    if let Some(summary) = &document.summary {
        push(&mut page, format_args!("<p class=\"summary\">{}</p>\n", escape(summary)));
    }
    facts(&mut page, &document.facts);
    page.push_str("</header>\n<main>\n");
    for section in &document.sections {
        push(&mut page, format_args!("<section>\n<h2>{}</h2>\n", escape(section.title)));
        for block in &section.blocks {
            match block {
                Block::Facts(rows) => facts(&mut page, rows),
                Block::Table { header, rows } => table(&mut page, header, rows),
                Block::Excerpt { file, lines } => {
                    let lines: Vec<String> = lines.iter().map(|line| escape(line)).collect();
                    push(
                        &mut page,
                        format_args!(
                            "<figure>\n<figcaption><code>{}</code></figcaption>\n<pre tabindex=\"0\">{}\n</pre>\n</figure>\n",
                            escape(file),
                            lines.join("\n")
                        ),
                    );
                }
                Block::Text(text) => push(&mut page, format_args!("<p>{}</p>\n", escape(text))),
            }
        }
        page.push_str("</section>\n");
    }
    push(
        &mut page,
        format_args!("</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n", with_code(&document.footer)),
    );
    page
}

fn push(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = page.write_fmt(arguments);
}

fn facts(page: &mut String, facts: &[(&'static str, Cell)]) {
    page.push_str("<dl>\n");
    for (label, value) in facts {
        push(page, format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(label), cell(value)));
    }
    page.push_str("</dl>\n");
}

fn table(page: &mut String, header: &[&str], rows: &[Vec<Cell>]) {
    page.push_str("<div class=\"table\" tabindex=\"0\"><table>\n<thead><tr>");
    for name in header {
        push(page, format_args!("<th scope=\"col\">{}</th>", escape(name)));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for value in row {
            push(page, format_args!("<td>{}</td>", cell(value)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => with_code(text),
        Cell::Code(text) => format!("<code>{}</code>", escape(text)),
        Cell::Outcome(outcome) => {
            let class = match outcome {
                Outcome::Passed => "good",
                Outcome::Failed => "bad",
                Outcome::Skipped | Outcome::NotRun => "open",
            };
            format!("<span class=\"{class}\">{}</span>", describe::outcome(*outcome))
        }
        Cell::Verdict(verdict) => verdict_badge(*verdict),
        Cell::Empty => String::new(),
    }
}

fn verdict_badge(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Passed | Verdict::Reproduced => "good",
        Verdict::Failed => "bad",
        Verdict::Blocked | Verdict::Infrastructure | Verdict::Budget | Verdict::Interrupted | Verdict::Incomplete => {
            "open"
        }
    };
    format!("<span class=\"badge {class}\">{}</span>", verdict.as_str())
}

fn with_code(text: &str) -> String {
    let mut page = String::new();
    for (at, part) in literals(&one_line(text)).into_iter().enumerate() {
        match at % 2 {
            0 => page.push_str(&escape(part)),
            _ => push(&mut page, format_args!("<code>{}</code>", escape(part))),
        }
    }
    page
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

const STYLE: &str = "\
:root { color-scheme: light dark; --text: #1c2024; --dim: #5b6470; --page: #ffffff; --panel: #f4f6f8; --line: #dfe3e8;
  --good: #0f6b35; --good-page: #dcf3e4; --bad: #a8121f; --bad-page: #fde3e4; --open: #7a4d00; --open-page: #fdf0d5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --dim: #9aa4b0; --page: #14171a; --panel: #1e2328; --line: #323a42;
    --good: #7fdba0; --good-page: #12351f; --bad: #ff9ba1; --bad-page: #451417; --open: #f2c879; --open-page: #3d2c0a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.15rem; }
.summary { margin: .4rem 0 0; color: var(--dim); }
code, pre { font: 13px/1.5 ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { margin: 0; padding: .9rem 1rem; overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
figure { margin: 1rem 0; }
figcaption { margin-bottom: .35rem; color: var(--dim); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 1.1rem 0 0; }
dt { color: var(--dim); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.table { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .45rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--panel); color: var(--dim); font-weight: 600; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
td { font-variant-numeric: tabular-nums; }
td code { overflow-wrap: break-word; }
td:first-child { white-space: nowrap; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.open { color: var(--open); }
.badge { display: inline-block; padding: .05em .6em; border-radius: 999px; font-size: .8em; font-weight: 600; vertical-align: middle; }
.badge.good { background: var(--good-page); }
.badge.bad { background: var(--bad-page); }
.badge.open { background: var(--open-page); }
dd .badge { font-size: 1em; }
footer { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--dim); font-size: .9em; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print { body { max-width: none; padding: 0; } pre, .table { overflow: visible; } pre { white-space: pre-wrap; } }
";
