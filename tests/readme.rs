//! What README.md and docs/ show is true: command lines are understood, lanes are valid, links lead somewhere, and tables say
//! what the code says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use bootproof::event::Verdict;
use bootproof::marker::built_in_failure_patterns;
use clap::error::ErrorKind;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page, by its path from the project's root.
fn pages() -> BTreeMap<String, String> {
    let docs = std::fs::read_dir(project().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    let pages: BTreeMap<String, String> = ["README.md".to_owned(), "CONTRIBUTING.md".to_owned()]
        .into_iter()
        .chain(docs.filter(|path| path.ends_with(".md")))
        .map(|path| (path.clone(), read(&path)))
        .collect();
    assert!(pages.len() >= 6, "{:?}", pages.keys());
    pages
}

/// Fenced blocks: their language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The page without its fenced blocks.
fn prose(page: &str) -> String {
    let mut inside = false;
    let kept = page.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Texts between single backquotes; a line break within one is a blank.
fn code_spans(page: &str) -> Vec<String> {
    prose(page).replace('\n', " ").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of a command line: blanks part them, single quotes hold them together, ` #` begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            '#' if !quoted && words.last().is_some_and(String::is_empty) => break,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The outputs of the flake that a command line of Nix names are made from lanes that there are.
fn check_outputs(path: &str, line: &str) {
    for attribute in line.split_whitespace().filter_map(|word| word.strip_prefix(".#")) {
        let name = attribute.rsplit('.').next().unwrap();
        let lane = ["-e2e", "-sandboxed", "-proof"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let profiles = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles")).unwrap().flatten();
        let known = profiles.map(|profile| profile.path().join(format!("lanes/{lane}.toml"))).any(|file| file.exists());
        // Of the flake's other outputs, those that pages name.
        let other = ["lib.matrix", "<lane>", "NAME", "X", "comes-up"].contains(&attribute)
            || attribute.starts_with("nixosConfigurations.");
        assert!(known || other, "{path}: there is no lane `{lane}`: nix {line}");
    }
}

#[test]
fn command_lines_are_understood() {
    let mut count = 0;
    for (path, page) in pages() {
        let shown = blocks(&page).into_iter().filter(|(language, _)| language == "console").flat_map(|(_, text)| {
            let commands = text.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned);
            commands.map(|line| (line, true)).collect::<Vec<_>>()
        });
        let mentioned = code_spans(&page).into_iter().map(|line| (line, false));
        for (line, whole) in shown.chain(mentioned) {
            // The program's name by itself, and where it is, are no command lines.
            if let Some(rest) = line.strip_prefix("nix ") {
                check_outputs(&path, rest);
                continue;
            }
            if !line.starts_with("bootproof ") {
                assert!(!whole, "{path}: only bootproof's own command lines are checked: {line}");
                continue;
            }
            count += 1;
            if let Err(error) = bootproof::cli::command().try_get_matches_from(words(&line)) {
                // Running text may name a command without all that it takes.
                let partial = [ErrorKind::MissingRequiredArgument, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
                assert!(!whole && partial.contains(&error.kind()), "{path}: `{line}`\n{error}");
            }
        }
    }
    assert!(count > 40, "only {count} command lines were found");
}

#[test]
fn examples_of_the_help_are_understood() {
    let mut command = bootproof::cli::command();
    let mut helps = vec![command.render_long_help().to_string()];
    for subcommand in command.get_subcommands_mut() {
        helps.push(subcommand.render_long_help().to_string());
        helps.extend(subcommand.get_subcommands_mut().map(|inner| inner.render_long_help().to_string()));
    }
    let mut count = 0;
    for line in helps.iter().flat_map(|help| help.lines()).filter(|line| line.starts_with("  bootproof ")) {
        // Three blanks part an example from its explanation.
        let line = line.trim().split("   ").next().unwrap();
        let line = line.split(" <").next().unwrap();
        count += 1;
        if let Err(error) = bootproof::cli::command().try_get_matches_from(words(line)) {
            panic!("`{line}`\n{error}");
        }
    }
    assert!(count >= 9, "only {count} examples were found");
}

/// `bootproof lane check` in a folder of its own.
fn check(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_bootproof"))
        .args(["lane", "check"])
        .args(arguments)
        .current_dir(folder)
        .env("BOOTPROOF_PROJECT_ROOT", folder)
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

const FRAME: &str = "version = 1\n[lane]\nname = \"example\"\nsummary = \"an example\"\n";

/// A part of a lane, made whole with the least that is missing.
fn whole_lane(part: &str) -> String {
    let mut lane = String::new();
    if !part.contains("[lane]") {
        lane.push_str(FRAME);
    }
    lane.push_str(part);
    if part.contains("image = \"node\"") && !part.contains("[images") {
        lane.push_str("\n[images.node]\ndebian = { suite = \"bookworm\" }\n");
    }
    if !part.contains("[machines") {
        lane.push_str("\n[machines.node01]\n");
    }
    if !part.contains("[[steps]]") {
        lane.push_str("\n[[steps]]\nexpect = [\"boot\"]\n");
    }
    lane
}

/// A project whose one profile is this, with the lanes that it lists.
fn check_profile(folder: &Path, text: &str) -> Result<(), String> {
    let profile: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let header = profile["profile"].as_table().unwrap();
    let name = header["name"].as_str().unwrap();
    let home = folder.join("profiles").join(name);
    std::fs::create_dir_all(home.join("lanes")).unwrap();
    std::fs::write(home.join("profile.toml"), text).unwrap();
    for lane in header["lanes"].as_array().unwrap() {
        let lane = lane.as_str().unwrap();
        let frame = FRAME.replace("\"example\"", &format!("\"{lane}\"\nprofile = \"{name}\""));
        let text = whole_lane("").replace(FRAME, &frame);
        std::fs::write(home.join("lanes").join(format!("{lane}.toml")), text).unwrap();
    }
    check(folder, &["--all"])
}

#[test]
fn lanes_and_profiles_are_valid() {
    let mut count = 0;
    for (path, page) in pages() {
        for (_, text) in blocks(&page).into_iter().filter(|(language, _)| language == "toml") {
            count += 1;
            let folder = tempfile::tempdir().unwrap();
            let outcome = if text.contains("[profile]") {
                check_profile(folder.path(), &text)
            } else {
                std::fs::write(folder.path().join("example.toml"), whole_lane(&text)).unwrap();
                check(folder.path(), &["./example.toml"])
            };
            if let Err(said) = outcome {
                panic!("{path}:\n{text}\n{said}");
            }
        }
    }
    assert!(count >= 5, "only {count} examples were found");
}

#[test]
fn an_example_that_is_wrong_would_be_noticed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("example.toml"), whole_lane("[machines.node01]\nmemroy = \"1GiB\"\n")).unwrap();
    assert!(check(folder.path(), &["./example.toml"]).unwrap_err().contains("memroy"));
    let folder = tempfile::tempdir().unwrap();
    let profile = "version = 1\n[profile]\nname = \"a\"\nsummary = \"b\"\nentry_points = []\nlanes = [\"c\"]\n";
    assert!(check_profile(folder.path(), profile).unwrap_err().contains("nobody can enter"));
    let error = bootproof::cli::command().try_get_matches_from(words("bootproof run smoke --keeep")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownArgument);
}

/// What a heading is called in a link, as hosts of Markdown make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            character if character.is_alphanumeric() || "-_".contains(character) => Some(character),
            _ => None,
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut count = 0;
    for (path, page) in &pages {
        let text = prose(page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            count += 1;
            let (file, part) = target.split_once('#').map_or((target, None), |(file, part)| (file, Some(part)));
            let folder = Path::new(path).parent().unwrap();
            let file = if file.is_empty() { PathBuf::from(path) } else { folder.join(file) };
            let there = project().join(&file);
            assert!(there.exists(), "{path}: {target}");
            if let Some(part) = part {
                let text = std::fs::read_to_string(&there).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|anchor| anchor == part);
                assert!(found, "{path}: {target}");
            }
        }
    }
    assert!(count > 20, "only {count} links were found");
}

/// Every verdict; a new one does not compile until it stands here.
fn verdicts() -> Vec<Verdict> {
    let next = |verdict| match verdict {
        Verdict::Passed => Some(Verdict::Reproduced),
        Verdict::Reproduced => Some(Verdict::Failed),
        Verdict::Failed => Some(Verdict::Blocked),
        Verdict::Blocked => Some(Verdict::Infrastructure),
        Verdict::Infrastructure => Some(Verdict::Incomplete),
        Verdict::Incomplete => Some(Verdict::Budget),
        Verdict::Budget => Some(Verdict::Interrupted),
        Verdict::Interrupted => None,
    };
    std::iter::successors(Some(Verdict::Passed), |verdict| next(*verdict)).collect()
}

/// Rows of the tables in a page: their cells without backquotes.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    lines.map(|line| line.split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let readme = read("README.md");
    let table = readme.split("## Verdicts and exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeMap<String, String> = rows(table)
        .into_iter()
        .filter(|row| row[1].parse::<u8>().is_ok())
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let mut expected: BTreeMap<String, String> =
        verdicts().into_iter().map(|verdict| (verdict.as_str().into(), verdict.exit_code().to_string())).collect();
    expected.insert(String::new(), bootproof::error::ErrorKind::Usage.exit_code().to_string());
    assert_eq!(told, expected);
}

/// The keys of each named part of a schema; `root` is the document itself.
fn schema_keys(file: &str) -> BTreeMap<String, BTreeSet<String>> {
    let schema: serde_json::Value = serde_json::from_str(&read(file)).unwrap();
    let keys = |part: &serde_json::Value| -> Option<BTreeSet<String>> {
        Some(part.get("properties")?.as_object()?.keys().cloned().collect())
    };
    let parts = schema["$defs"].as_object().unwrap().iter().map(|(name, part)| (name.clone(), keys(part)));
    let parts = parts.chain([("root".to_owned(), keys(&schema))]);
    // Tagged variants have properties too, and are told as a value of their key.
    parts.filter_map(|(name, keys)| Some((name, keys?))).collect()
}

/// The keys that the page's tables tell, by the schema's part that stands above each.
fn told_keys(page: &str, mark: &str) -> BTreeMap<String, BTreeSet<String>> {
    let start = format!("<!-- {mark}: ");
    let sections = page.split(&start).skip(1);
    sections
        .map(|section| {
            let (name, rest) = section.split_once(" -->").unwrap();
            // A section ends with its heading's, or where another schema's begins.
            let rest = rest.split("\n#").next().unwrap().split("<!--").next().unwrap();
            // The head of a table says `key` too, as does the key of that name.
            let head = |row: &[String]| row[0] == "key" && row.iter().any(|cell| cell == "meaning");
            let keys = rows(rest).into_iter().filter(|row| !head(row) && !row[0].starts_with("---"));
            (name.to_owned(), keys.map(|row| row[0].clone()).collect())
        })
        .collect()
}

#[test]
fn every_key_of_the_schemas_is_told_and_no_other() {
    let page = read("docs/lanes.md");
    assert_eq!(told_keys(&page, "schema"), schema_keys("schemas/lane.schema.json"));
    assert_eq!(told_keys(&page, "profile schema"), schema_keys("schemas/profile.schema.json"));
    assert_eq!(told_keys(&read("docs/budget.md"), "budget schema"), schema_keys("schemas/budget.schema.json"));
}

/// Everything that a schema lists as a value: names of kinds, devices, actions.
fn listed_values(schema: &serde_json::Value, into: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                match (key.as_str(), value) {
                    ("const", serde_json::Value::String(value)) => drop(into.insert(value.clone())),
                    ("enum", serde_json::Value::Array(values)) => {
                        into.extend(values.iter().filter_map(|value| value.as_str().map(str::to_owned)));
                    }
                    _ => listed_values(value, into),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| listed_values(item, into)),
        _ => {}
    }
}

#[test]
fn every_value_pattern_and_applet_is_told() {
    let page = read("docs/lanes.md");
    let mut wanted = BTreeSet::new();
    listed_values(&serde_json::from_str(&read("schemas/lane.schema.json")).unwrap(), &mut wanted);
    assert!(wanted.contains("await-off") && wanted.contains("uefi"), "{wanted:?}");
    wanted.extend(built_in_failure_patterns().iter().map(|pattern| pattern.name.to_owned()));
    wanted.extend(bootproof::agent::APPLETS.iter().map(|applet| (*applet).to_owned()));
    let spans: BTreeSet<String> = code_spans(&page).into_iter().collect();
    let missing: Vec<&String> = wanted.iter().filter(|value| !spans.contains(*value)).collect();
    assert!(missing.is_empty(), "docs/lanes.md does not mention {missing:?}");
}

#[test]
fn the_rust_version_is_the_one_that_is_asked_for() {
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        read("README.md").contains(&format!("Rust {wanted} or newer")),
        "README.md names another Rust than {wanted}"
    );
}
