//! What is wrong with a lane file: every problem has a place, a label and, where there is one, the nearest valid name.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::tree::Place;
use crate::error::{Error, PlacedMessage};

/// More would not be read.
const SHOWN: usize = 20;

/// One thing that is wrong, and where.
#[derive(Clone, Debug)]
pub struct Problem {
    pub title: String,
    pub place: Option<Place>,
    /// Said beside the caret.
    pub label: Option<String>,
    /// Other places that matter, with what is there.
    pub also: Vec<(Place, String)>,
    /// What to do about it.
    pub hints: Vec<String>,
}

impl Problem {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), place: None, label: None, also: Vec::new(), hints: Vec::new() }
    }

    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also.push((place, label.into()));
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the nearest of the valid names to `given`, or all of them where none is near.
    pub fn nearest<'n>(self, given: &str, names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        match (nearest(given, names.iter().copied()), names.len()) {
            (Some(name), _) => self.hint(format!("did you mean `{name}`?")),
            (None, 0) => self,
            (None, _) => self.hint(format!("valid here: {}", listed(&names))),
        }
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The valid name that `given` was probably meant to be.
pub fn nearest<'n>(given: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A third of the letters may be wrong, and a name that only lacks an end is near as well.
    let allowed = (given.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(given, name), name))
        .filter(|(distance, name)| {
            *distance <= allowed || (given.len() >= 3 && (name.starts_with(given) || given.starts_with(name)))
        })
        .min()
        .map(|(_, name)| name)
}

/// Where in a file: as a person counts, from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub file: String,
    pub line: usize,
    /// In characters.
    pub column: usize,
}

impl Position {
    /// Of a byte in a file's text.
    pub fn of(file: impl Into<String>, text: &str, offset: usize) -> Self {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            file: file.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// The texts that places point into: the file, then each override, one address space for all.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    list: Vec<Source>,
    end: usize,
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    base: usize,
}

impl Sources {
    /// Adds a text and gives the place of its first byte.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        let (name, text) = (name.into(), text.into());
        let base = self.end;
        // One apart, so that the empty place at the end of one text is not the start of the next.
        self.end += text.len() + 1;
        self.list.push(Source { name, text, base });
        base
    }

    fn of(&self, place: &Place) -> Option<&Source> {
        self.list.iter().rev().find(|source| source.base <= place.start)
    }

    /// Where a place is for a person; the first file's beginning for a place in none.
    pub fn position(&self, place: &Place) -> Position {
        match self.of(place) {
            Some(source) => Position::of(&source.name, &source.text, place.start - source.base),
            None => Position { file: String::new(), line: 1, column: 1 },
        }
    }

    /// Renders the problems in the order of their places, as a compiler would.
    pub fn render(&self, problems: &[Problem], color: bool) -> String {
        let mut problems: Vec<&Problem> = problems.iter().collect();
        problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.start));
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for problem in problems.iter().take(SHOWN) {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&renderer.render(&[self.group(problem)]));
        }
        if problems.len() > SHOWN {
            let _ = write!(text, "\n\nerror: and {} more", problems.len() - SHOWN);
        }
        text
    }

    fn group<'p>(&'p self, problem: &'p Problem) -> Group<'p> {
        let mut group = Group::with_title(Level::ERROR.primary_title(&problem.title));
        if let Some(place) = &problem.place
            && let Some(source) = self.of(place)
        {
            let local = |place: &Place| {
                let start = (place.start - source.base).min(source.text.len());
                start..(place.end.saturating_sub(source.base)).clamp(start, source.text.len())
            };
            let mut snippet = Snippet::source(&source.text).path(&source.name);
            let primary = AnnotationKind::Primary.span(local(place));
            snippet = snippet.annotation(match &problem.label {
                Some(label) => primary.label(label),
                None => primary,
            });
            for (other, label) in &problem.also {
                if self.of(other).is_some_and(|of| of.base == source.base) {
                    snippet = snippet.annotation(AnnotationKind::Context.span(local(other)).label(label));
                }
            }
            group = group.element(snippet);
        } else if let Some(source) = self.list.first() {
            group = group.element(Level::NOTE.no_name().message(format!("in {}", source.name)));
        }
        for hint in &problem.hints {
            group = group.element(Level::HELP.with_name("hint").message(hint));
        }
        group
    }

    /// One error for all of the problems: exit 2.
    pub fn error(&self, what: &str, problems: &[Problem]) -> Error {
        let count = match problems.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        let name = self.list.first().map_or("", |source| source.name.as_str());
        let places = problems.iter().map(|problem| {
            let position = self.position(problem.place.as_ref().unwrap_or(&(0..0)));
            let message = match &problem.label {
                Some(label) => format!("{}: {label}", problem.title),
                None => problem.title.clone(),
            };
            let hint = problem.hints.first().cloned();
            PlacedMessage { file: position.file, line: position.line, column: position.column, message, hint }
        });
        Error::usage(format!("{what} `{name}` is not valid: {count}"))
            .places(places.collect())
            .excerpt(self.render(problems, false), self.render(problems, true))
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let names = ["memory", "cpus", "firmware", "kernel_parameters"];
        assert_eq!(nearest("memry", names), Some("memory"));
        assert_eq!(nearest("kernel", names), Some("kernel_parameters"));
        assert_eq!(nearest("cups", names), Some("cpus"));
        assert_eq!(nearest("banana", names), None);
    }
}
