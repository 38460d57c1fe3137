//! Archived helpers: ways in that were given up, and that must not come back as a file or in a text.

use regex::Regex;

use super::files::ProjectFile;
use super::finding::{Finding, Rule};
use crate::error::Result;
use crate::lane::{Catalog, Position};

/// One archived helper, as a profile names it.
pub(super) struct Archived {
    /// A path (`*` stands for any part of a name), a file's name, or a command.
    name: String,
    replaced_by: String,
    reason: String,
    path: Option<Regex>,
    mention: Option<Regex>,
    pattern: Option<Regex>,
}

impl Archived {
    fn new(name: &str, helper: &crate::lane::ArchivedHelper) -> Self {
        let is_command = name.contains(char::is_whitespace);
        let is_pattern = name.contains(['*', '?']);
        let escaped = regex::escape(name);
        let path = escaped.replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]");
        // A name without a folder is that of a file wherever it is.
        let path = if name.contains('/') { format!("^{path}$") } else { format!("(?:^|/){path}$") };
        let words = escaped.split(' ').collect::<Vec<_>>().join(r"\s+");
        let mention = format!(r"(?:^|[^\w-])({words})(?:$|[^\w-])");
        Self {
            name: name.into(),
            replaced_by: helper.replaced_by.clone(),
            reason: helper.reason.clone(),
            path: (!is_command).then(|| Regex::new(&path).ok()).flatten(),
            mention: (!is_pattern).then(|| Regex::new(&format!("(?m){mention}")).ok()).flatten(),
            // The profile was refused, were it no regular expression.
            pattern: helper.pattern.as_deref().and_then(|pattern| Regex::new(pattern).ok()),
        }
    }

    fn finding(&self, position: Position, what: &str) -> Finding {
        let message = format!("the archived helper `{}` {what}; it was given up: {}", self.name, self.reason);
        Finding::new(Rule::ArchivedHelper, position, message).hint(format!("use `{}`", self.replaced_by))
    }

    /// The file itself has come back, or a target of the Makefile has.
    pub fn as_file(&self, file: &ProjectFile, text: Option<&str>) -> Option<Finding> {
        if self.path.as_ref().is_some_and(|path| path.is_match(&file.name)) {
            let position = Position { file: file.name.clone(), line: 1, column: 1 };
            return Some(self.finding(position, "is back"));
        }
        let target = self.name.strip_prefix("make ")?.trim();
        let text = text.filter(|_| super::command_line::is_makefile(&file.name))?;
        let line = super::command_line::make_targets(text).into_iter().find(|(name, _)| name == target)?.1;
        Some(self.finding(Position { file: file.name.clone(), line, column: 1 }, "is back").line_of(text))
    }

    /// Where a text speaks of it.
    pub fn in_text(&self, file: &str, text: &str) -> Vec<Finding> {
        let mentions = self.mention.iter().flat_map(|mention| mention.captures_iter(text));
        let starts = mentions.filter_map(|captures| captures.get(1)).map(|name| name.start());
        let matches = self.pattern.iter().flat_map(|pattern| pattern.find_iter(text)).map(|found| found.start());
        let mut starts: Vec<usize> = starts.chain(matches).collect();
        starts.sort_unstable();
        starts.dedup();
        let place = |start| Position::of(file, text, start);
        starts.into_iter().map(|start| self.finding(place(start), "is spoken of").line_of(text)).collect()
    }
}

/// What all profiles of the project have archived. Profiles that are not valid are for *eval* to tell.
pub(super) fn of_project(catalog: &Catalog) -> Result<Vec<Archived>> {
    let mut archived = Vec::new();
    for folder in &catalog.profiles {
        let Ok(profile) = catalog.profile(folder) else { continue };
        archived.extend(profile.archived_helpers.iter().map(|(name, helper)| Archived::new(name, helper)));
    }
    Ok(archived)
}
