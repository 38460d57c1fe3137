//! *eval*: every profile and lane is valid, and every canonical entry point leads somewhere.

use std::path::Path;

use jiff::civil::Date;

use super::allow::Allowances;
use super::command_line::{CommandReader, Offered, Target};
use super::component;
use super::finding::{Finding, Report, Rule};
use super::flake::{self, Attribute, NixOptions};
use crate::error::Result;
use crate::lane::{Catalog, Position, ProfileFile, open};

const HOST_RULES: [Rule; 4] = [Rule::Profile, Rule::Lane, Rule::EntryPoint, Rule::Component];

/// Reads all profiles and lanes, understands their entry points, and forces the flake's outputs that they name.
///
/// # Errors
/// Usage: the allow list is not valid. Blocked or infrastructure: Nix is there and cannot work. Interrupted.
pub async fn evaluate(
    project_root: &Path,
    read: CommandReader<'_>,
    options: &NixOptions<'_>,
    today: Date,
) -> Result<Report> {
    let allowances = Allowances::read(project_root)?;
    let catalog = Catalog::scan(project_root)?;
    let mut report = Report::new("eval");
    let attributes = profiles(project_root, &catalog, read, &mut report)?;
    lanes(project_root, &catalog, &mut report)?;
    let mut tried = HOST_RULES.to_vec();
    if flake::evaluate(project_root, &attributes, options, &mut report).await? {
        tried.push(Rule::NixAttribute);
    }
    allowances.apply(&mut report, &tried, today);
    Ok(report)
}

/// Looks at every profile; gives what of the flake has to evaluate.
fn profiles(
    project_root: &Path,
    catalog: &Catalog,
    read: CommandReader<'_>,
    report: &mut Report,
) -> Result<Vec<Attribute>> {
    let system = flake::system();
    let lanes = catalog.lanes.iter().map(|lane| lane.name.as_str()).collect();
    let offered = Offered { project_root, lanes, read, system: &system };
    let mut attributes = Vec::new();
    for folder in &catalog.profiles {
        report.count("profiles", 1);
        let name = format!("profiles/{folder}/profile.toml");
        let file = match catalog.profile_file(folder) {
            Ok(file) => file,
            Err(error) => {
                report.take_error(Rule::Profile, &name, error)?;
                continue;
            }
        };
        let files: Vec<&str> =
            catalog.lanes.iter().filter(|lane| lane.profile == *folder).map(|lane| lane.name.as_str()).collect();
        if let Err(error) = file.check_folder(folder, &files) {
            report.take_error(Rule::Profile, &name, error)?;
        }
        entry_points(&name, &file, &offered, report, &mut attributes);
        attributes.extend(file.evaluated().map(|attribute| Attribute {
            tried: vec![attribute.value.clone()],
            position: at(&name, &file, &attribute.place),
        }));
        component::check(project_root, folder, &file, report)?;
    }
    Ok(attributes)
}

fn at(name: &str, file: &ProfileFile, place: &std::ops::Range<usize>) -> Position {
    Position { file: name.to_owned(), ..file.position(place) }
}

fn entry_points(
    name: &str,
    file: &ProfileFile,
    offered: &Offered<'_>,
    report: &mut Report,
    attributes: &mut Vec<Attribute>,
) {
    for entry_point in file.entry_points() {
        report.count("entry points", 1);
        let position = at(name, file, &entry_point.place);
        match offered.target(entry_point) {
            Ok(Target::Flake(tried)) => attributes.push(Attribute { tried, position }),
            Ok(Target::Lane(lane)) if !file.profile.lanes.contains(&lane) => {
                let message = format!("`{}` runs a lane that does not prove this profile", entry_point.value);
                let finding = Finding::new(Rule::EntryPoint, position, message);
                report.findings.push(finding.hint(format!("its lanes: `{}`", file.profile.lanes.join("`, `"))));
            }
            Ok(Target::Lane(_) | Target::Other) => {}
            Err(told) => {
                let message = format!("`{}` does not work: {told}", entry_point.value);
                report.findings.push(Finding::new(Rule::EntryPoint, position, message));
            }
        }
    }
}

/// Every lane has to load, with its controls.
fn lanes(project_root: &Path, catalog: &Catalog, report: &mut Report) -> Result<()> {
    for lane in &catalog.lanes {
        report.count("lanes", 1);
        let name = lane.path.strip_prefix(project_root).unwrap_or(&lane.path).to_string_lossy().into_owned();
        match open(&lane.path, project_root).and_then(|file| file.lane(&[])) {
            Ok(read) => {
                if let Err(error) = catalog.placed(lane, &read) {
                    report.take_error(Rule::Lane, &name, error)?;
                }
            }
            Err(error) => report.take_error(Rule::Lane, &name, error)?,
        }
    }
    Ok(())
}
