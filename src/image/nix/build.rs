//! Has Nix build something: locally, with its whole log kept and its progress shown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::log::{BuildLog, Change};
use super::{NixSource, command, tools};
use crate::error::{Context, Error, Result};
use crate::image::store::Work;

/// Overrides what the lane says of builders.
const JOBS: &str = "BOOTPROOF_NIX_JOBS";
const CORES: &str = "BOOTPROOF_NIX_CORES";

/// What `nix build --json` says of each thing that it was to build.
#[derive(Deserialize)]
struct Built {
    #[serde(default)]
    outputs: BTreeMap<String, Option<String>>,
    /// Of what was a store path already.
    #[serde(default)]
    path: Option<String>,
}

/// Builds it; gives its outputs by name, `out` first.
pub(super) async fn outputs(
    work: &Work<'_>,
    source: &NixSource,
    output: Option<&str>,
    (jobs, cores): (Option<u32>, Option<u32>),
) -> Result<Vec<(String, PathBuf)>> {
    let image = &work.request.name;
    if !command::is_installed() {
        return Err(Error::blocked(format!("image `{image}` is built by Nix, and `nix` is not installed"))
            .hint(tools::how_to_get("nix")));
    }
    let jobs = number(JOBS, jobs)?;
    let cores = number(CORES, cores)?;
    let log_file = work.store.folder("logs").join(format!("{}.log", work.resolved.key));
    let links = work.store.folder("links").join(&work.resolved.key);
    for folder in [log_file.parent(), links.parent()].into_iter().flatten() {
        fs::create_dir_all(folder)
            .map_err(|error| Error::storage(error, format!("failed to make `{}`", folder.display())))?;
    }
    let file = File::create(&log_file)
        .map_err(|error| Error::storage(error, format!("failed to write `{}`", log_file.display())))?;
    let shown = source.shown();
    work.stage(&format!("building {shown} with Nix ({jobs} jobs of {cores} cores)"));
    // The link keeps what was built from Nix's garbage collector for as long as the work root is there.
    let tool = command::tool("build")
        .args(["--json", "--log-format", "internal-json", "-v", "--out-link"])
        .args([&links])
        // Here and nowhere else: what a run is made of should not depend on who else is there to build.
        .args(["--builders", "", "--max-jobs", &jobs.to_string(), "--cores", &cores.to_string()])
        .args(arguments(source, output))
        .current_dir(work.store.project_root());
    let mut log = BuildLog::new(file);
    let finished = tool
        .run(work.cancel, |line| match log.read(line) {
            Some(Change::Began(what)) => work.stage(&format!("{what} ({})", log.counts())),
            Some(Change::Said) => {
                let (done, total) = log.progress();
                work.progress.advance(image, done, total, log.last());
            }
            None => {}
        })
        .await?;
    if let Err(error) = log.finish() {
        work.progress.warning(image, &format!("failed to keep Nix's log in `{}`: {error}", log_file.display()));
    }
    if !finished.status.success() {
        return Err(failure(&shown, &log, &log_file));
    }
    let told = || format!("failed to understand what `nix build {shown}` has built");
    let built: Vec<Built> = serde_json::from_str(&finished.stdout).infrastructure(told)?;
    let mut outputs = Vec::new();
    for built in built {
        outputs.extend(built.path.map(|path| ("out".to_owned(), PathBuf::from(path))));
        let named = built.outputs.into_iter().filter_map(|(name, path)| Some((name, PathBuf::from(path?))));
        outputs.extend(named);
    }
    outputs.sort_by_key(|(name, _)| name != "out");
    if outputs.is_empty() { Err(Error::infrastructure(told())) } else { Ok(outputs) }
}

/// The host's number of processors, unless the lane or, before it, the environment says otherwise.
fn number(variable: &str, of_lane: Option<u32>) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(Error::usage(format!("`{variable}` is no positive number: `{text}`"))),
        },
        Err(_) => {
            let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
            Ok(of_lane.unwrap_or_else(|| u32::try_from(processors).unwrap_or(1)))
        }
    }
}

/// What Nix is to build. An output is an attribute of its derivation: that every version of Nix understands.
fn arguments(source: &NixSource, output: Option<&str>) -> Vec<String> {
    let of = |attribute: &str| match output {
        Some(output) => format!("{attribute}.{output}"),
        None => attribute.to_owned(),
    };
    match source {
        NixSource::Path(path) => vec![path.display().to_string()],
        NixSource::Flake(reference) if reference.contains('#') => vec![of(&whole_reference(reference))],
        // Nix itself knows what a flake without an attribute stands for, and so does who asks for nothing more.
        NixSource::Flake(reference) if output.is_none() => vec![reference.clone()],
        NixSource::Flake(reference) => vec![of(&format!("{reference}#default"))],
        NixSource::File { file, attribute } => {
            let mut arguments = vec!["--file".to_owned(), file.display().to_string()];
            match (attribute.as_str(), output) {
                ("", None) => {}
                ("", Some(output)) => arguments.push(output.to_owned()),
                (attribute, _) => arguments.push(of(attribute)),
            }
            arguments
        }
    }
}

/// A NixOS configuration stands for its VM.
fn whole_reference(reference: &str) -> String {
    match reference.split_once("#nixosConfigurations.") {
        Some((_, name)) if is_one_name(name) => format!("{reference}.config.system.build.vm"),
        _ => reference.to_owned(),
    }
}

fn is_one_name(name: &str) -> bool {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => !quoted.contains('"'),
        None => !name.is_empty() && !name.contains('.'),
    }
}

/// What Nix could not do: the error itself, the end of what the builder said, and where all of it is.
fn failure(shown: &str, log: &BuildLog, log_file: &Path) -> Error {
    let doing = format!("build `{shown}` with Nix");
    if let Some(error) = command::trouble_of_the_host(&doing, &log.errors) {
        return error.hint(format!("the whole log is in `{}`", log_file.display()));
    }
    let message = match log.errors.last() {
        Some(error) => format!("failed to {doing}: {}", error.trim_start_matches("error:").trim()),
        None => format!("failed to {doing}"),
    };
    let mut error = Error::usage(message);
    let tail: Vec<&str> = log.tail().collect();
    if !tail.is_empty() {
        error = error.with_source(format!("the last lines of the build:\n    {}", tail.join("\n    ")));
    }
    error.hint(format!("the whole log is in `{}`", log_file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_stands_for_its_vm() {
        let whole = |reference| whole_reference(reference);
        assert_eq!(whole(".#nixosConfigurations.a"), ".#nixosConfigurations.a.config.system.build.vm");
        assert_eq!(whole(".#nixosConfigurations.\"a.b\""), ".#nixosConfigurations.\"a.b\".config.system.build.vm");
        for kept in [".#nixosConfigurations.a.config.system.build.vm", ".#packages.x86_64-linux.a", ".#a", "."] {
            assert_eq!(whole(kept), kept);
        }
    }

    #[test]
    fn an_output_is_asked_for_as_an_attribute() {
        let flake = |reference: &str, output| arguments(&NixSource::Flake(reference.into()), output);
        assert_eq!(flake(".#a", Some("image")), [".#a.image"]);
        assert_eq!(flake("path:/x", Some("image")), ["path:/x#default.image"]);
        let file = |attribute: &str, output| {
            arguments(&NixSource::File { file: "a.nix".into(), attribute: attribute.into() }, output)
        };
        assert_eq!(file("", None), ["--file", "a.nix"]);
        assert_eq!(file("", Some("image")), ["--file", "a.nix", "image"]);
        assert_eq!(file("b", Some("image")), ["--file", "a.nix", "b.image"]);
    }

    #[test]
    fn jobs_follow_the_lane_or_the_host() {
        assert_eq!(number("BOOTPROOF_NO_SUCH_VARIABLE", Some(3)).unwrap(), 3);
        assert!(number("BOOTPROOF_NO_SUCH_VARIABLE", None).unwrap() >= 1);
        assert!(number("PATH", None).unwrap_err().to_string().contains("is no positive number"));
    }
}
