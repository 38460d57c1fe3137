//! All reports at once: what a run writes is what replay compares with.

use super::document::Document;
use super::html::html;
use super::json;
use super::junit::junit;
use super::markdown::markdown;
use super::story::Story;
use crate::error::{Context, Result};

pub const RESULT_FILE: &str = "result.json";

/// The reports of a proof root, in the order in which they are rendered.
pub const REPORT_FILES: [&str; 4] = [RESULT_FILE, "report.md", "report.html", "junit.xml"];

/// One report's name and what belongs into it.
pub struct Rendered {
    pub name: &'static str,
    pub bytes: Result<Vec<u8>>,
}

/// Every report of the story.
pub fn render(story: &Story) -> Vec<Rendered> {
    let document = Document::of(story);
    let [result, markdown_page, html_page, xml] = REPORT_FILES;
    vec![
        Rendered {
            name: result,
            bytes: json::bytes(&story.result).infrastructure(|| "failed to express the result as JSON".into()),
        },
        Rendered { name: markdown_page, bytes: Ok(markdown(&document).into_bytes()) },
        Rendered { name: html_page, bytes: Ok(html(&document).into_bytes()) },
        Rendered { name: xml, bytes: junit(story).map(String::into_bytes) },
    ]
}
