//! Components: what a profile says of its parts, and what its image tells the agent to look for, are the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::finding::{Finding, Report, Rule};
use crate::error::{Context, Result};
use crate::lane::{Component, Position, ProfileFile};

/// Where an image's overlay keeps what the agent compares the guest with.
const SURFACE_FILE: &str = "files/etc/bootproof/product-surface.json";

#[derive(Deserialize)]
struct ProductSurface {
    components: Vec<SurfaceComponent>,
}

#[derive(Deserialize)]
struct SurfaceComponent {
    name: String,
    required: bool,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    executable: Option<String>,
    #[serde(default)]
    listens: Vec<String>,
}

/// Compares a profile's components with the overlay's file, where it has one.
pub(super) fn check(project_root: &Path, folder: &str, file: &ProfileFile, report: &mut Report) -> Result<()> {
    report.count("components", file.profile.components.len());
    let name = format!("profiles/{folder}/{SURFACE_FILE}");
    let text = match std::fs::read_to_string(project_root.join(&name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.infrastructure(|| format!("failed to read `{name}`"))?,
    };
    let at = |line, column| Position { file: name.clone(), line, column };
    let surface: ProductSurface = match serde_json::from_str(&text) {
        Ok(surface) => surface,
        Err(error) => {
            report.findings.push(Finding::new(Rule::Component, at(error.line(), error.column()), error.to_string()));
            return Ok(());
        }
    };
    let surface: BTreeMap<String, SurfaceComponent> =
        surface.components.into_iter().map(|component| (component.name.clone(), component)).collect();
    for (component, wanted) in &file.profile.components {
        let told = match surface.get(component) {
            Some(given) => differences(wanted, given),
            None => vec![format!("`{name}` does not name it")],
        };
        let mut position = file.position(file.component_place(component));
        position.file = format!("profiles/{folder}/profile.toml");
        report.findings.extend(told.into_iter().map(|told| {
            Finding::new(Rule::Component, position.clone(), format!("the component `{component}`: {told}"))
                .hint(format!("make `{name}` say what the profile says: the agent looks for what stands there"))
        }));
    }
    for component in surface.keys().filter(|component| !file.profile.components.contains_key(*component)) {
        let offset = text.find(&format!("\"{component}\"")).unwrap_or(0);
        let message = format!("the component `{component}` is not the profile's");
        report.findings.push(Finding::new(Rule::Component, Position::of(&name, &text, offset), message).line_of(&text));
    }
    Ok(())
}

fn differences(wanted: &Component, given: &SurfaceComponent) -> Vec<String> {
    let mut told = Vec::new();
    let mut compare = |what: &str, wanted: String, given: String| {
        if wanted != given {
            told.push(format!("`{what}` is {wanted} in the profile, and {given} in the image"));
        }
    };
    let text = |value: &Option<String>| value.as_ref().map_or_else(|| "not given".into(), |value| format!("`{value}`"));
    compare("required", wanted.required.to_string(), given.required.to_string());
    compare("unit", text(&wanted.unit), text(&given.unit));
    compare("executable", text(&wanted.executable), text(&given.executable));
    compare("listens", format!("{:?}", wanted.listens), format!("{:?}", given.listens));
    told
}
