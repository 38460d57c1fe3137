//! Profiles: a configuration that is supported, what belongs to it, and the lanes that prove it. Reading is pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::read_document;
use super::normalise::{is_address, is_host_name};
use super::problem::{Position, Problem, Sources};
use super::reader::Spanned;
use super::tree::Place;
use crate::error::Result;

/// The newest profile format that this version reads.
pub const PROFILE_VERSION: u32 = 1;

/// A configuration that is supported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub version: u32,
    pub name: String,
    pub summary: String,
    /// Commands by which users and automation get to it; no others are supported.
    pub entry_points: Vec<String>,
    /// Names of the lanes that prove it.
    pub lanes: Vec<String>,
    pub components: BTreeMap<String, Component>,
    pub archived_helpers: BTreeMap<String, ArchivedHelper>,
    /// What of the project's own flake belongs to the profile.
    #[serde(default)]
    pub nix: NixEntryPoints,
}

/// Outputs of the project's own flake that are supported, by their attribute paths (`packages.x86_64-linux.tool`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NixEntryPoints {
    /// Have to evaluate.
    pub evaluate: Vec<String>,
    /// Have to evaluate and to build.
    pub build: Vec<String>,
}

/// A part of the product. In a profile file, its name is its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Without it the profile is not met.
    pub required: bool,
    /// What it is for, in one line.
    #[serde(default)]
    pub summary: Option<String>,
    /// The systemd unit that runs it.
    #[serde(default)]
    pub unit: Option<String>,
    /// The program, by its whole path in the guest.
    #[serde(default)]
    pub executable: Option<String>,
    /// Addresses in the guest on which it listens: `127.0.0.1:2379`.
    #[serde(default)]
    pub listens: Vec<String>,
}

/// A way in that is no longer supported: kept so that who looks for it finds what took its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchivedHelper {
    /// Why it is not used any more.
    pub reason: String,
    /// The entry point that took its place.
    pub replaced_by: String,
    /// A regular expression: what is shipped holds no text that it matches.
    #[serde(default)]
    pub pattern: Option<String>,
}

/// A configuration that is supported: its components, its entry points and the lanes that prove it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "bootproof profile", rename = "Profile")]
pub struct ProfileDocument {
    /// The address of the JSON Schema, for editors.
    #[serde(rename = "$schema", default)]
    #[allow(dead_code, reason = "there so that editors may have it")]
    schema: Option<String>,
    /// The format of this file: 1.
    #[allow(dead_code, reason = "checked before anything else is read")]
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    profile: ProfileHeader,
    /// Parts of the product by name.
    #[serde(default)]
    components: BTreeMap<Spanned<String>, Spanned<Component>>,
    /// Ways in that are no longer supported, by path (`*` stands for any part of a name) or command.
    #[serde(default)]
    archived_helpers: BTreeMap<Spanned<String>, Spanned<ArchivedHelper>>,
    /// Outputs of the project's own flake that are supported.
    #[serde(default)]
    nix: NixDocument,
}

/// Outputs of the project's own flake, by their attribute paths: `packages.x86_64-linux.tool`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "NixEntryPoints")]
struct NixDocument {
    /// Have to evaluate: `bootproof guard eval`.
    evaluate: Vec<Spanned<String>>,
    /// Have to evaluate and to build: `bootproof guard build`.
    build: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProfileHeader {
    /// The name of the folder that the profile is in.
    name: Spanned<String>,
    /// What is supported, in one line.
    summary: Spanned<String>,
    /// Commands by which users and automation get to it.
    entry_points: Spanned<Vec<Spanned<String>>>,
    /// Names of the lanes that prove it: the files in `lanes/` beside this one.
    lanes: Spanned<Vec<Spanned<String>>>,
}

/// A profile's text, read and checked. Keeps its places, so that the catalog can point at a lane that is not there.
pub struct ProfileFile {
    pub profile: Profile,
    sources: Sources,
    name: Place,
    lanes: Vec<Spanned<String>>,
    entry_points: Vec<Spanned<String>>,
    components: BTreeMap<String, Place>,
    evaluate: Vec<Spanned<String>>,
    build: Vec<Spanned<String>>,
}

impl ProfileFile {
    /// # Errors
    /// Usage, with an excerpt for everything that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let (document, sources) = read_document(file, text, "profile", PROFILE_VERSION, check)?;
        let header = document.profile;
        let values = |list: &[Spanned<String>]| list.iter().map(|entry| entry.value.clone()).collect();
        let components = document.components.keys().map(|name| (name.value.clone(), name.place.clone())).collect();
        let profile = Profile {
            version: PROFILE_VERSION,
            name: header.name.value.clone(),
            summary: header.summary.value,
            entry_points: values(&header.entry_points),
            lanes: values(&header.lanes),
            components: plain(document.components),
            archived_helpers: plain(document.archived_helpers),
            nix: NixEntryPoints { evaluate: values(&document.nix.evaluate), build: values(&document.nix.build) },
        };
        Ok(Self {
            profile,
            sources,
            name: header.name.place,
            lanes: header.lanes.value,
            entry_points: header.entry_points.value,
            components,
            evaluate: document.nix.evaluate,
            build: document.nix.build,
        })
    }

    /// Where a part of the file was written.
    pub fn position(&self, place: &Place) -> Position {
        self.sources.position(place)
    }

    /// Commands by which users get to it, with their places.
    pub fn entry_points(&self) -> &[Spanned<String>] {
        &self.entry_points
    }

    /// Outputs of the flake that have to evaluate, with their places: those that have to build are among them.
    pub fn evaluated(&self) -> impl Iterator<Item = &Spanned<String>> {
        let built: Vec<&str> = self.build.iter().map(|attribute| attribute.as_str()).collect();
        let only_evaluated = self.evaluate.iter().filter(move |attribute| !built.contains(&attribute.as_str()));
        only_evaluated.chain(&self.build)
    }

    /// Outputs of the flake that have to build, with their places.
    pub fn built(&self) -> &[Spanned<String>] {
        &self.build
    }

    /// Where a component is named; the profile's own name for one that is not there.
    pub fn component_place(&self, name: &str) -> &Place {
        self.components.get(name).unwrap_or(&self.name)
    }

    /// The folder's name and the files beside it have to be what the profile says.
    ///
    /// # Errors
    /// Usage, with an excerpt: another name, or a lane without a file, or a file without a lane.
    pub fn check_folder(&self, folder: &str, lane_files: &[&str]) -> Result<()> {
        let mut problems = Vec::new();
        if self.profile.name != folder {
            problems.push(
                Problem::new(format!("this profile is in the folder `{folder}`"))
                    .at(self.name.clone())
                    .hint(format!("write `name = \"{folder}\"`, or rename the folder")),
            );
        }
        for lane in &self.lanes {
            if !lane_files.contains(&lane.as_str()) {
                problems.push(
                    Problem::new(format!("there is no lane `{}` in `lanes/`", lane.value))
                        .at(lane.place.clone())
                        .nearest(lane, lane_files.iter().copied()),
                );
            }
        }
        for file in lane_files {
            if !self.profile.lanes.iter().any(|lane| lane == file) {
                problems.push(
                    Problem::new(format!("the lane `{file}` is in `lanes/`, and this profile does not list it"))
                        .at(self.lanes.last().map_or_else(|| self.name.clone(), |lane| lane.place.clone()))
                        .hint(format!("add `\"{file}\"` to `lanes`")),
                );
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(self.sources.error("profile", &problems)) }
    }
}

fn plain<T>(named: BTreeMap<Spanned<String>, Spanned<T>>) -> BTreeMap<String, T> {
    named.into_iter().map(|(name, entry)| (name.value, entry.value)).collect()
}

fn check(document: &ProfileDocument) -> Vec<Problem> {
    let mut problems = Vec::new();
    let header = &document.profile;
    if !is_host_name(&header.name) {
        problems.push(
            Problem::new(format!("`{}` cannot be a profile's name", header.name.value))
                .at(header.name.place.clone())
                .label("at most 63 lower-case letters, digits and hyphens"),
        );
    }
    if header.summary.trim().is_empty() || header.summary.contains(char::is_control) {
        problems
            .push(Problem::new("a summary is one line that says what is supported").at(header.summary.place.clone()));
    }
    if header.entry_points.is_empty() {
        problems.push(
            Problem::new("a profile that nobody can enter is not supported")
                .at(header.entry_points.place.clone())
                .hint("name a command: `entry_points = [\"bootproof run NAME\"]`"),
        );
    }
    if header.lanes.is_empty() {
        problems.push(
            Problem::new("nothing proves this profile").at(header.lanes.place.clone()).hint("name at least one lane"),
        );
    }
    let mut seen: BTreeMap<&str, &Spanned<String>> = BTreeMap::new();
    for lane in header.lanes.iter() {
        if let Some(first) = seen.insert(lane.as_str(), lane) {
            problems.push(
                Problem::new(format!("the lane `{}` is listed twice", lane.value))
                    .at(lane.place.clone())
                    .also(first.place.clone(), "the first time"),
            );
        }
    }
    for (name, component) in &document.components {
        let at = |problem: Problem| problem.at(component.place.clone());
        if let Some(unit) = &component.unit
            && unit.rsplit_once('.').is_none_or(|(name, kind)| name.is_empty() || kind.is_empty())
        {
            problems.push(at(
                Problem::new(format!("`{unit}` is not a whole unit name")).hint(format!("write `{unit}.service`"))
            ));
        }
        if let Some(executable) = &component.executable
            && !executable.starts_with('/')
        {
            problems.push(at(Problem::new(format!("`{executable}` is not a whole path"))));
        }
        for address in &component.listens {
            if !is_address(address) {
                problems.push(at(Problem::new(format!("`{address}` is not an address with a port"))
                    .hint("write it like `127.0.0.1:2379`")));
            }
        }
        if component.unit.is_none() && component.executable.is_none() && component.listens.is_empty() {
            problems.push(
                Problem::new(format!("nothing tells whether `{}` is there", name.value))
                    .at(name.place.clone())
                    .hint("give it at least one of `unit`, `executable` and `listens`"),
            );
        }
    }
    let entry_points: Vec<&str> = header.entry_points.iter().map(|entry| entry.as_str()).collect();
    for (name, helper) in &document.archived_helpers {
        if entry_points.contains(&name.as_str()) {
            problems.push(
                Problem::new(format!("`{}` is an entry point and archived as well", name.value)).at(name.place.clone()),
            );
        }
        if !entry_points.contains(&helper.replaced_by.as_str()) {
            problems.push(
                Problem::new(format!("`{}` is not an entry point of this profile", helper.replaced_by))
                    .at(helper.place.clone())
                    .nearest(&helper.replaced_by, entry_points.iter().copied()),
            );
        }
        if let Some(Err(error)) = helper.pattern.as_deref().map(regex::Regex::new) {
            let told = error.to_string();
            let last = told.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            problems
                .push(Problem::new("this pattern is not a regular expression").at(helper.place.clone()).label(last));
        }
    }
    for attribute in document.nix.evaluate.iter().chain(&document.nix.build) {
        if !is_attribute_path(attribute) {
            problems.push(
                Problem::new(format!("`{}` is not an attribute path", attribute.value))
                    .at(attribute.place.clone())
                    .hint("write it as below `.#`: `packages.x86_64-linux.tool`"),
            );
        }
    }
    problems
}

/// Names with points between them, as Nix reads them after `.#`; a name may stand in double quotes.
fn is_attribute_path(text: &str) -> bool {
    let mut rest = text;
    loop {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((name, after)) if !name.is_empty() && !name.contains(['\\', '$']) => after,
                _ => return false,
            },
            None => {
                let plain = |character: char| character.is_ascii_alphanumeric() || "_'-".contains(character);
                let end = rest.find(|character| !plain(character)).unwrap_or(rest.len());
                if end == 0 || rest.starts_with(|first: char| !first.is_ascii_alphabetic() && first != '_') {
                    return false;
                }
                &rest[end..]
            }
        };
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return after.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
version = 1
[profile]
name = "one"
summary = "one of them"
entry_points = ["make one"]
lanes = ["first"]
[components.store]
required = true
unit = "store.service"
listens = ["127.0.0.1:1"]
[archived_helpers."scripts/one.sh"]
reason = "it slept"
replaced_by = "make one"
"#;

    fn errors(text: &str) -> String {
        ProfileFile::parse("profile.toml", text)
            .err()
            .and_then(|error| error.rendered_excerpt(false).map(str::to_owned))
            .unwrap_or_default()
    }

    #[test]
    fn a_profile_is_read_whole() {
        let file = ProfileFile::parse("profile.toml", GOOD).unwrap();
        assert!(file.profile.components["store"].required);
        assert_eq!(file.profile.archived_helpers["scripts/one.sh"].replaced_by, "make one");
        file.check_folder("one", &["first"]).unwrap();
    }

    #[test]
    fn attribute_paths_are_told_from_other_texts() {
        for good in ["tool", "packages.x86_64-linux.tool", "nixosConfigurations.\"node.example\".config", "_a.b'"] {
            assert!(is_attribute_path(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a b", ".#a", "a..b", "\"a", "a\"b\"", "1a", "a;b", "\"${x}\""] {
            assert!(!is_attribute_path(bad), "{bad}");
        }
        let file = |attributes: &str| format!("{GOOD}\n[nix]\n{attributes}\n");
        let read = ProfileFile::parse("p", &file("evaluate = [\"a\", \"b\"]\nbuild = [\"b\"]")).unwrap();
        let evaluated: Vec<&str> = read.evaluated().map(|attribute| attribute.as_str()).collect();
        assert_eq!((evaluated, read.built().len()), (vec!["a", "b"], 1));
        assert_eq!(read.position(&read.built()[0].place).line, 18);
        assert!(errors(&file("build = [\".#b\"]")).contains("is not an attribute path"));
        let pattern = GOOD.replace("reason =", "pattern = \"(\"\nreason =");
        assert!(errors(&pattern).contains("not a regular expression"), "{}", errors(&pattern));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let bad = GOOD
            .replace("\"make one\"]", "]")
            .replace("store.service", "store")
            .replace("127.0.0.1:1", "everywhere")
            .replace("required", "requierd");
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(errors(&bad)) });
        let bad = GOOD
            .replace("\"make one\"]", "]")
            .replace("127.0.0.1:1", "everywhere")
            .replace("\"first\"", "\"first\", \"first\"");
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(errors(&bad)) });
    }

    #[test]
    fn the_folder_has_to_fit() {
        let file = ProfileFile::parse("profile.toml", GOOD).unwrap();
        let error = file.check_folder("two", &["frist", "second"]).unwrap_err();
        let text = error.rendered_excerpt(false).unwrap();
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(text) });
    }
}
