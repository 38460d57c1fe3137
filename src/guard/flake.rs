//! What of the project's own flake is supported: forced to evaluate, and built.

use std::path::Path;

use futures_util::StreamExt;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::allow::Allowances;
use super::finding::{Finding, Report, Rule, Skipped};
use crate::error::Result;
use crate::image::nix_command::{self, Finished};
use crate::lane::{Catalog, Position};

/// A value becomes a text: a derivation and an app are forced to what they are built of, all else as a whole.
const FORCE: &str = "value:
  if (value.type or null) == \"derivation\" then value.drvPath
  else if (value.type or null) == \"app\" then toString value.program
  else if builtins.isFunction value then \"a function\"
  else builtins.seq (builtins.toJSON value) \"a value\"";

/// How Nix is called.
pub struct NixOptions<'a> {
    /// Handed on to Nix as they are: `--override-input nixpkgs path:DIR`.
    pub arguments: &'a [String],
    pub cancel: &'a CancellationToken,
}

/// An output of the flake that somebody relies on.
pub(super) struct Attribute {
    /// Attribute paths, any of which will do.
    pub tried: Vec<String>,
    /// Who names it.
    pub position: Position,
}

/// Nix's name for this host.
pub(super) fn system() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// Says why nothing can be tried here; `None` where it can.
fn reason_to_skip(attributes: &[Attribute]) -> Option<Skipped> {
    (!attributes.is_empty() && !nix_command::is_installed()).then(|| {
        let what = match attributes.len() {
            1 => "1 output of the flake".to_owned(),
            count => format!("{count} outputs of the flake"),
        };
        Skipped { what, reason: "`nix` is not installed".into() }
    })
}

/// Without a flake, whoever names an output of it is wrong.
fn has_flake(project_root: &Path, attributes: &[Attribute], rule: Rule, report: &mut Report) -> bool {
    let there = project_root.join("flake.nix").is_file();
    if !there {
        report.findings.extend(attributes.iter().map(|attribute| {
            let message = format!("`{}` is in no flake: the project has no `flake.nix`", attribute.tried[0]);
            Finding::new(rule, attribute.position.clone(), message)
        }));
    }
    there
}

/// Forces every attribute. Says whether Nix was there to try.
pub(super) async fn evaluate(
    project_root: &Path,
    attributes: &[Attribute],
    options: &NixOptions<'_>,
    report: &mut Report,
) -> Result<bool> {
    if !has_flake(project_root, attributes, Rule::NixAttribute, report) {
        return Ok(true);
    }
    if let Some(skipped) = reason_to_skip(attributes) {
        report.skipped.push(skipped);
        return Ok(false);
    }
    // Each in a process of its own, so that none keeps another from being tried; few at a time, for each takes memory.
    let at_a_time = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let outcomes: Vec<_> = futures_util::stream::iter(attributes)
        .map(|attribute| evaluate_any(project_root, attribute, options))
        .buffered(at_a_time)
        .collect()
        .await;
    for outcome in outcomes {
        report.count("nix attributes", 1);
        report.findings.extend(outcome?);
    }
    Ok(true)
}

/// Tries what the attribute may be called, in Nix's own order; the first that is there decides.
async fn evaluate_any(project_root: &Path, attribute: &Attribute, options: &NixOptions<'_>) -> Result<Option<Finding>> {
    let mut last = None;
    for path in &attribute.tried {
        let reference = format!(".#{path}");
        let tool = nix_command::tool("eval")
            .args(["--raw", &reference, "--apply", FORCE])
            .args(options.arguments)
            .current_dir(project_root);
        let finished = tool.run(options.cancel, |_| {}).await?;
        if finished.status.success() {
            return Ok(None);
        }
        let is_absent = says(&finished, "does not provide attribute");
        let finding = broken(project_root, Rule::NixAttribute, path, &attribute.position, "evaluate", &finished)?;
        if !is_absent {
            return Ok(Some(finding));
        }
        last.get_or_insert(finding);
    }
    Ok(last)
}

fn says(finished: &Finished, text: &str) -> bool {
    finished.stderr.iter().any(|line| line.contains(text))
}

/// Reads the profiles, and builds what of the flake has to build.
///
/// # Errors
/// Usage: the allow list is not valid. Blocked or infrastructure: Nix is there and cannot work. Interrupted.
pub async fn build(project_root: &Path, options: &NixOptions<'_>, today: Date) -> Result<Report> {
    let allowances = Allowances::read(project_root)?;
    let catalog = Catalog::scan(project_root)?;
    let mut report = Report::new("build");
    let mut attributes = Vec::new();
    for folder in &catalog.profiles {
        report.count("profiles", 1);
        let name = format!("profiles/{folder}/profile.toml");
        match catalog.profile_file(folder) {
            Ok(file) => attributes.extend(file.built().iter().map(|attribute| Attribute {
                tried: vec![attribute.value.clone()],
                position: Position { file: name.clone(), ..file.position(&attribute.place) },
            })),
            Err(error) => report.take_error(Rule::Profile, &name, error)?,
        }
    }
    let mut tried = vec![Rule::Profile];
    if has_flake(project_root, &attributes, Rule::NixBuild, &mut report) {
        match reason_to_skip(&attributes) {
            Some(skipped) => report.skipped.push(skipped),
            None => tried.push(Rule::NixBuild),
        }
    }
    if tried.contains(&Rule::NixBuild) {
        // One after the other: Nix itself builds side by side what it can.
        for attribute in &attributes {
            report.count("nix outputs", 1);
            let path = &attribute.tried[0];
            let tool = nix_command::tool("build")
                .args(["--no-link", &format!(".#{path}")])
                .args(options.arguments)
                .current_dir(project_root);
            let finished = tool.run(options.cancel, |line| tracing::info!("{line}")).await?;
            if !finished.status.success() {
                let finding = broken(project_root, Rule::NixBuild, path, &attribute.position, "build", &finished)?;
                report.findings.push(finding);
            }
        }
    }
    allowances.apply(&mut report, &tried, today);
    Ok(report)
}

/// A finding for what Nix refused, at the place in the project's own files that Nix names, else where the profile names
/// the output. What is the host's trouble is an error and no finding.
fn broken(
    project_root: &Path,
    rule: Rule,
    path: &str,
    named: &Position,
    doing: &str,
    finished: &Finished,
) -> Result<Finding> {
    if let Some(error) = nix_command::trouble_of_the_host(&format!("{doing} `.#{path}`"), &finished.stderr) {
        return Err(error);
    }
    let said = nix_command::error_lines(&finished.stderr);
    let mut message = format!("`.#{path}` does not {doing}");
    if !said.is_empty() {
        message.push_str(": ");
        message.push_str(&said.join("; "));
    }
    let place = own_place(project_root, &finished.stderr);
    let hint = format!("`nix {} .#{path} --show-trace` tells more", if doing == "build" { "build" } else { "eval" });
    let finding = match place {
        Some(place) => {
            let text = std::fs::read_to_string(project_root.join(&place.file)).unwrap_or_default();
            message.push_str(&format!(" (named in {} line {})", named.file, named.line));
            Finding::new(rule, place, message).line_of(&text)
        }
        None => Finding::new(rule, named.clone(), message),
    };
    Ok(finding.hint(hint))
}

/// The last place in a file of the project that an error of Nix names (`at /nix/store/...-source/flake.nix:3:5:`): there
/// the trouble began.
fn own_place(project_root: &Path, said: &[String]) -> Option<Position> {
    let mut places = said.iter().filter_map(|line| {
        let place = line.trim().strip_prefix("at ").or_else(|| line.trim().strip_prefix("… at "))?;
        let mut parts = place.trim_end_matches(':').rsplitn(3, ':');
        let column = parts.next()?.parse().ok()?;
        let line = parts.next()?.parse().ok()?;
        let file = own_file(project_root, parts.next()?)?;
        Some(Position { file, line, column })
    });
    places.next_back()
}

/// A file of the project, by its name there or by that of its copy in the store.
fn own_file(project_root: &Path, path: &str) -> Option<String> {
    let path = Path::new(path);
    let name = match path.strip_prefix(project_root) {
        Ok(name) => name.to_path_buf(),
        Err(_) => {
            let mut parts = path.components();
            let folder = parts.by_ref().find(|part| part.as_os_str().to_string_lossy().ends_with("-source"))?;
            debug_assert!(!folder.as_os_str().is_empty());
            parts.as_path().to_path_buf()
        }
    };
    project_root.join(&name).is_file().then(|| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_projects_own_where_nix_names_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("flake.nix"), "").unwrap();
        let place = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| line.to_string()).collect();
            own_place(folder.path(), &lines).map(|place| (place.file, place.line, place.column))
        };
        let here = "       at /nix/store/0c-source/flake.nix:3:5:";
        assert_eq!(place(&["error: x", here]), Some(("flake.nix".into(), 3, 5)));
        assert_eq!(place(&[here, "  at /nix/store/0c-source/other.nix:9:1:"]), Some(("flake.nix".into(), 3, 5)));
        assert_eq!(place(&["error: at sea", "  at «string»:1:2:"]), None);
    }
}
