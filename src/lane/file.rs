//! A lane file that has been read but not yet decided on: overrides and controls change it before it is normalised.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::document::LaneDocument;
use super::model::{LANE_VERSION, Lane};
use super::normalise::{Surroundings, normalise};
use super::overrides::{self, Assignment};
use super::problem::{Problem, Sources};
use super::reader::{Reading, read};
use super::syntax::{self, Format};
use super::tree::{Node, Value};
use crate::error::Result;

/// The text of a lane, parsed. Pure: `load` is what opens files.
#[derive(Clone, Debug)]
pub struct LaneFile {
    sources: Sources,
    tree: Node,
    /// From the project's root, or absolute.
    folder: PathBuf,
}

impl LaneFile {
    /// Parses a lane's text. `name` is how errors call the file; `folder` is where its paths start, as seen from the
    /// project's root.
    ///
    /// # Errors
    /// Usage, with an excerpt: the text is not TOML (or JSON), or of a format that this version does not read.
    pub fn parse(name: &str, text: &str, format: Format, folder: &Path) -> Result<Self> {
        let mut sources = Sources::default();
        let base = sources.add(name, text);
        let tree = match syntax::parse(text, format, base) {
            Ok(tree) => tree,
            Err(problems) => return Err(sources.error("lane", &problems)),
        };
        if let Err(problem) = check_version(&tree, LANE_VERSION, "lane") {
            return Err(sources.error("lane", &[problem]));
        }
        Ok(Self { sources, tree, folder: folder.to_path_buf() })
    }

    /// The lane with overrides (`machines.node01.memory=2GiB`) applied. Its controls have been tried as well: a lane
    /// that is given has controls that can run.
    ///
    /// # Errors
    /// Usage, with an excerpt for everything that is wrong.
    pub fn lane(&self, overrides: &[String]) -> Result<Lane> {
        let mut sources = self.sources.clone();
        let (lane, _) = self.resolve(overrides, &mut sources).map_err(|problems| sources.error("lane", &problems))?;
        Ok(lane)
    }

    /// The lane with a planted bug: overrides first, then what the control sets.
    ///
    /// # Errors
    /// Usage: the lane has no such control, or what `lane` says.
    pub fn with_control(&self, control: &str, overrides: &[String]) -> Result<Lane> {
        let mut sources = self.sources.clone();
        let (lane, tree) =
            self.resolve(overrides, &mut sources).map_err(|problems| sources.error("lane", &problems))?;
        if !lane.controls.contains_key(control) {
            let error = crate::error::Error::usage(format!("the lane `{}` has no control `{control}`", lane.name));
            let names = lane.controls.keys().map(String::as_str);
            let valid = lane.controls.keys().cloned().collect::<Vec<_>>().join("`, `");
            return Err(match super::problem::nearest(control, names) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if valid.is_empty() => error.hint("it has no controls at all"),
                None => error.hint(format!("its controls: `{valid}`")),
            });
        }
        self.controlled(&tree, control).map_err(|problems| sources.error("lane", &problems))
    }

    fn resolve(&self, overrides: &[String], sources: &mut Sources) -> Result<(Lane, Node), Vec<Problem>> {
        let mut tree = self.tree.clone();
        let mut problems = Vec::new();
        for text in overrides {
            let applied = Assignment::parse(text, sources).and_then(|assignment| assignment.apply(&mut tree));
            problems.extend(applied.err());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        check_version(&tree, LANE_VERSION, "lane").map_err(|problem| vec![problem])?;
        let lane = self.read(&tree)?;
        for control in lane.controls.keys() {
            match self.controlled(&tree, control) {
                Ok(controlled) if controlled == lane => {
                    let place = tree.get("controls").and_then(|controls| controls.get(control)?.get("set"));
                    let place = place.map_or(tree.place.clone(), |set| set.place.clone());
                    problems.push(
                        Problem::new(format!("the control `{control}` changes nothing"))
                            .at(place)
                            .label("the lane has these values already"),
                    );
                }
                Ok(_) => {}
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() { Ok((lane, tree)) } else { Err(problems) }
    }

    fn controlled(&self, tree: &Node, control: &str) -> Result<Lane, Vec<Problem>> {
        let mut planted = tree.clone();
        let mut problems = Vec::new();
        for setting in overrides::settings(tree, control) {
            problems.extend(setting.and_then(|setting| setting.apply(&mut planted)).err());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        self.read(&planted)
    }

    fn read(&self, tree: &Node) -> Result<Lane, Vec<Problem>> {
        let Reading { document, mut problems, damaged, names_lost } = read::<LaneDocument>(tree.clone());
        let Some(document) = document else { return Err(problems) };
        if names_lost && !problems.is_empty() {
            return Err(problems);
        }
        match normalise(&document, &Surroundings { folder: &self.folder, damaged: &damaged }) {
            Ok(lane) if problems.is_empty() => Ok(lane),
            Ok(_) => Err(problems),
            Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }
}

/// Reads a TOML document whose values know their places, and checks it.
///
/// # Errors
/// Usage, with an excerpt for everything that is wrong; `what` is how errors call such a file.
pub(crate) fn read_document<T: DeserializeOwned>(
    file: &str,
    text: &str,
    what: &str,
    newest: u32,
    check: impl FnOnce(&T) -> Vec<Problem>,
) -> Result<(T, Sources)> {
    let mut sources = Sources::default();
    let base = sources.add(file, text);
    let outcome = syntax::parse(text, Format::Toml, base).and_then(|tree| {
        check_version(&tree, newest, what).map_err(|problem| vec![problem])?;
        let mut reading = read::<T>(tree);
        match reading.document {
            Some(document) => {
                reading.problems.extend(check(&document));
                if reading.problems.is_empty() { Ok(document) } else { Err(reading.problems) }
            }
            None => Err(reading.problems),
        }
    });
    match outcome {
        Ok(document) => Ok((document, sources)),
        Err(problems) => Err(sources.error(what, &problems)),
    }
}

/// Said before anything else: a file of another version would only give errors that lead nowhere.
fn check_version(tree: &Node, newest: u32, what: &str) -> Result<(), Problem> {
    let Some(version) = tree.get("version") else {
        return Err(Problem::new("the key `version` is missing")
            .at(tree.place.start..tree.place.start)
            .hint(format!("begin the file with `version = {newest}`")));
    };
    match version.value {
        Value::Integer(number) if number == i64::from(newest) => Ok(()),
        Value::Integer(number) if number > i64::from(newest) => {
            Err(Problem::new(format!("this {what} is written for a newer bootproof"))
                .at(version.place.clone())
                .label(format!("format {number}, and this version reads format {newest}"))
                .hint("update bootproof"))
        }
        Value::Integer(number) => Err(Problem::new(format!("there is no {what} format {number}"))
            .at(version.place.clone())
            .label(format!("this version reads format {newest}"))
            .hint(format!("write `version = {newest}`"))),
        _ => Err(Problem::new(format!("expected an integer, found {}", version.type_name()))
            .at(version.place.clone())
            .hint(format!("write `version = {newest}`"))),
    }
}
