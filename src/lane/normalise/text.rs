//! Rules for single texts: names, markers, patterns, addresses, and where a secret may stand.

use super::Checker;
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::Span;
use crate::secret::{Placeholder, placeholders};

impl Checker<'_> {
    /// A name that is a host's name and a folder's as well.
    pub(super) fn host_name(&mut self, name: &Spanned<String>, what: &str) {
        if !is_host_name(name) {
            let problem = Problem::new(format!("`{}` cannot be {what}", name.value))
                .at(name.place.clone())
                .label("at most 63 lower-case letters, digits and hyphens; it becomes the name of a host or folder");
            let suggestion = slug(name, false);
            self.report(if suggestion.is_empty() { problem } else { problem.hint(format!("write `{suggestion}`")) });
        }
    }

    /// A name that people type and that stands in reports and file names.
    pub(super) fn plain_name(&mut self, name: &Spanned<String>, what: &str) {
        let valid = name.len() <= 64
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !valid {
            let problem = Problem::new(format!("`{}` cannot be {what}", name.value))
                .at(name.place.clone())
                .label("at most 64 letters, digits, hyphens, underscores and dots, the first a letter or digit");
            let suggestion = slug(name, true);
            self.report(if suggestion.is_empty() { problem } else { problem.hint(format!("write `{suggestion}`")) });
        }
    }

    pub(super) fn marker_name(&mut self, name: &Spanned<String>, what: &str) {
        let valid =
            !name.is_empty() && name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=');
        if !valid {
            self.report(
                Problem::new(format!("`{}` cannot be {what}", name.value))
                    .at(name.place.clone())
                    .label("one word of visible ASCII without `=`"),
            );
        }
    }

    pub(super) fn regular_expression(&mut self, pattern: &str, place: &Place) {
        if let Err(error) = regex::Regex::new(pattern) {
            let said = error.to_string();
            // The last line says what is wrong; those before draw the pattern, which the caret does already.
            let reason = said.lines().next_back().unwrap_or_default().trim_start_matches("error: ");
            self.report(
                Problem::new(format!("this regular expression cannot be read: {reason}"))
                    .at(place.clone())
                    .hint("a backslash is literal in single quotes: `'^login: \\w+'`"),
            );
        }
    }

    pub(super) fn not_zero(&mut self, span: &Spanned<Span>) {
        if span.duration().is_zero() {
            self.report(
                Problem::new("a bound of no time can never be met")
                    .at(span.place.clone())
                    .hint("give it a length: `\"90s\"`"),
            );
        }
    }

    /// A text that is filled with secrets at the moment of use.
    pub(super) fn with_secrets(&mut self, text: &Spanned<String>) -> String {
        for placeholder in placeholders(text) {
            match placeholder {
                Placeholder::Named(name) if self.secrets.contains(name) => {}
                Placeholder::Named(name) => {
                    let names: Vec<String> = self.secrets.iter().cloned().collect();
                    let problem = Problem::new(format!("the lane has no secret `{name}`"))
                        .at(text.place.clone())
                        .nearest(name, names.iter().map(String::as_str));
                    self.report(if names.is_empty() {
                        problem.hint(format!("declare it: `secrets.{name} = {{ environment = \"VARIABLE\" }}`"))
                    } else {
                        problem
                    });
                }
                Placeholder::Unfinished => self.report(
                    Problem::new("this `${secret:` has no end")
                        .at(text.place.clone())
                        .hint("write it like `${secret:NAME}`"),
                ),
            }
        }
        text.value.clone()
    }

    /// A text that is kept and shown, so that a secret cannot stand in it.
    pub(super) fn without_secrets(&mut self, text: &Spanned<String>, what: &str) -> String {
        if placeholders(text).next().is_some() {
            self.report(
                Problem::new(format!("a secret cannot stand in {what}"))
                    .at(text.place.clone())
                    .label("this is kept in the plan and shown in reports")
                    .hint("secrets may stand in a command's words, environment and standard input, in HTTP headers and bodies, and in what a `tcp` step sends"),
            );
        }
        text.value.clone()
    }
}

/// The name of a host, and of a folder.
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// `host:port` with a port that is not 0.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_'))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// A name made from any text. `wide`: dots and underscores stay.
pub(super) fn slug(text: &str, wide: bool) -> String {
    let mut name = String::new();
    for character in text.chars() {
        match character.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => name.push(letter),
            kept @ ('.' | '_') if wide => name.push(kept),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(40);
    name.trim_matches(|edge| matches!(edge, '-' | '.' | '_')).to_owned()
}
