//! Entry points: the command lines by which users get to a profile. Understood, never run.

use std::path::Path;

use crate::lane::nearest;

/// Understands a command line of bootproof itself: the lane (name or file) that it runs, where it runs one.
///
/// # Errors
/// What is wrong with it, in one line.
pub type CommandReader<'a> = &'a dyn Fn(&[String]) -> Result<Option<String>, String>;

/// What an entry point leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A lane of the project, by its name.
    Lane(String),
    /// Outputs of the project's own flake, any of which will do, as Nix looks for them.
    Flake(Vec<String>),
    /// Nothing that could be looked at any closer.
    Other,
}

/// What the project offers by name.
pub(super) struct Offered<'a> {
    pub project_root: &'a Path,
    pub lanes: Vec<&'a str>,
    pub read: CommandReader<'a>,
    /// Nix's name for this host: `x86_64-linux`.
    pub system: &'a str,
}

impl Offered<'_> {
    /// Understands an entry point.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn target(&self, entry_point: &str) -> Result<Target, String> {
        let words = words(entry_point)?;
        let Some(program) = words.first() else { return Err("this is no command".into()) };
        match program.as_str() {
            "bootproof" => match (self.read)(&words)? {
                Some(lane) if lane.contains('/') || lane.ends_with(".toml") || lane.ends_with(".json") => {
                    if self.project_root.join(&lane).is_file() {
                        Ok(Target::Other)
                    } else {
                        Err(format!("there is no lane file `{lane}`"))
                    }
                }
                Some(lane) if self.lanes.contains(&lane.as_str()) => Ok(Target::Lane(lane)),
                Some(lane) => Err(absent("lane", &lane, self.lanes.iter().copied())),
                None => Ok(Target::Other),
            },
            "make" => self.make(&words[1..]),
            "nix" => self.nix(&words[1..]),
            path if path.contains('/') => {
                use std::os::unix::fs::PermissionsExt;
                match std::fs::metadata(self.project_root.join(path)) {
                    Ok(metadata) if !metadata.is_file() => Err(format!("`{path}` is not a file")),
                    Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
                        Err(format!("`{path}` is not executable"))
                    }
                    Ok(_) => Ok(Target::Other),
                    Err(_) => Err(format!("there is no file `{path}` in the project")),
                }
            }
            other => {
                Err(format!("`{other}` is neither bootproof, make, nix nor a file of the project: nobody can check it"))
            }
        }
    }

    fn make(&self, arguments: &[String]) -> Result<Target, String> {
        let makefile = ["GNUmakefile", "makefile", "Makefile"].iter().find_map(|name| {
            let path = self.project_root.join(name);
            std::fs::read_to_string(path).ok()
        });
        let Some(makefile) = makefile else { return Err("the project has no Makefile".into()) };
        let targets = make_targets(&makefile);
        for wanted in arguments.iter().filter(|argument| !argument.starts_with('-') && !argument.contains('=')) {
            if !targets.iter().any(|(name, _)| name == wanted) {
                return Err(absent("target of make", wanted, targets.iter().map(|(name, _)| name.as_str())));
            }
        }
        Ok(Target::Other)
    }

    fn nix(&self, arguments: &[String]) -> Result<Target, String> {
        let Some((subcommand, rest)) = arguments.split_first() else { return Err("`nix` alone does nothing".into()) };
        let system = self.system;
        let folders: Vec<String> = match subcommand.as_str() {
            "run" => vec![format!("apps.{system}"), format!("packages.{system}")],
            "build" | "shell" => vec![format!("packages.{system}"), format!("legacyPackages.{system}")],
            "develop" => vec![format!("devShells.{system}"), format!("packages.{system}")],
            "flake" | "fmt" => return Ok(Target::Other),
            other => return Err(format!("`nix {other}` is no way into a project")),
        };
        let Some(reference) = rest.iter().find(|word| !word.starts_with('-')) else {
            return Ok(Target::Flake(folders.iter().map(|folder| format!("{folder}.default")).collect()));
        };
        match reference.split_once('#') {
            Some(("." | "", attribute)) => {
                let below = folders.iter().map(|folder| format!("{folder}.{attribute}"));
                Ok(Target::Flake(below.chain([attribute.to_owned()]).collect()))
            }
            None if reference == "." => {
                Ok(Target::Flake(folders.iter().map(|folder| format!("{folder}.default")).collect()))
            }
            // Somebody else's flake.
            _ => Ok(Target::Other),
        }
    }
}

fn absent<'n>(what: &str, name: &str, names: impl Iterator<Item = &'n str>) -> String {
    match nearest(name, names) {
        Some(near) => format!("there is no {what} `{name}`; did you mean `{near}`?"),
        None => format!("there is no {what} `{name}`"),
    }
}

/// Whether make reads a file of this name by itself.
pub(super) fn is_makefile(name: &str) -> bool {
    matches!(name, "Makefile" | "makefile" | "GNUmakefile")
}

/// Targets that a Makefile names, with their lines.
pub(super) fn make_targets(makefile: &str) -> Vec<(String, usize)> {
    let mut targets = Vec::new();
    for (index, line) in makefile.lines().enumerate() {
        let Some((names, rest)) = line.split_once(':') else { continue };
        let is_rule = !line.starts_with(['\t', ' ', '#', '.']) && !rest.starts_with('=') && !rest.starts_with(":=");
        if is_rule && !names.contains(['=', '$', '%', '"']) {
            targets.extend(names.split_whitespace().map(|name| (name.to_owned(), index + 1)));
        }
    }
    targets
}

/// The words of a command line as a shell parts them, with single and double quotes.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '|' | '&' | ';' | '<' | '>' | '`' | '$') => {
                return Err(format!("`{character}`: an entry point is one plain command"));
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(entry_point: &str) -> Result<Target, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Makefile"), ".PHONY: x\nA := 1\nall quick: x ## help\n\t@b: c\n").unwrap();
        std::fs::write(folder.path().join("plain"), "").unwrap();
        let read = |words: &[String]| match words.get(1).map(String::as_str) {
            Some("run") => Ok(words.get(2).cloned()),
            _ => Err("unknown command".to_owned()),
        };
        let system = "x86_64-linux";
        let offered = Offered { project_root: folder.path(), lanes: vec!["smoke"], read: &read, system };
        offered.target(entry_point)
    }

    #[test]
    fn what_is_there_is_found() {
        assert_eq!(target("bootproof run smoke"), Ok(Target::Lane("smoke".into())));
        assert_eq!(target("make -j2 quick A=2"), Ok(Target::Other));
        let flake = |list: &[&str]| Ok(Target::Flake(list.iter().map(|name| name.to_string()).collect()));
        assert_eq!(target("nix run .#a"), flake(&["apps.x86_64-linux.a", "packages.x86_64-linux.a", "a"]));
        assert_eq!(
            target("nix build"),
            flake(&["packages.x86_64-linux.default", "legacyPackages.x86_64-linux.default"])
        );
        assert_eq!(target("nix run github:a/b#c"), Ok(Target::Other));
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (entry_point, told) in [
            ("bootproof run smok", "did you mean `smoke`?"),
            ("bootproof frobnicate", "unknown command"),
            ("bootproof run ./none.toml", "there is no lane file"),
            ("make quik", "did you mean `quick`?"),
            ("make b", "there is no target"),
            ("./nothing.sh", "there is no file"),
            ("./plain", "is not executable"),
            ("frobnicate now", "nobody can check it"),
            ("make quick | tee x", "one plain command"),
            ("nix store gc", "no way into a project"),
            ("make 'quick", "is not closed"),
            (" ", "no command"),
        ] {
            let error = target(entry_point).unwrap_err();
            assert!(error.contains(told), "{entry_point}: {error}");
        }
    }
}
