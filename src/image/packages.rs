//! Packages and their versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One package as it was resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageVersion {
    pub name: String,
    pub version: String,
}

/// Reads the installed packages out of dpkg's `status` file, sorted by name.
pub(super) fn from_dpkg_status(status: &str, leave_out: &str) -> Vec<PackageVersion> {
    let mut packages: Vec<PackageVersion> = status
        .split("\n\n")
        .filter_map(|stanza| {
            let field =
                |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
            (field("Status")? == "install ok installed").then_some(())?;
            Some(PackageVersion { name: field("Package")?.into(), version: field("Version")?.into() })
        })
        .filter(|package| package.name != leave_out)
        .collect();
    packages.sort();
    packages
}

/// What differs between the versions that were wanted and those that came, one line each; empty when nothing does.
pub(super) fn differences(wanted: &BTreeMap<String, String>, got: &[PackageVersion]) -> Vec<String> {
    let mut lines = Vec::new();
    for package in got {
        match wanted.get(&package.name) {
            None => lines.push(format!("{} {} is new", package.name, package.version)),
            Some(version) if *version != package.version => {
                lines.push(format!("{} is {}, locked is {version}", package.name, package.version));
            }
            Some(_) => {}
        }
    }
    for (name, version) in wanted {
        if !got.iter().any(|package| package.name == *name) {
            lines.push(format!("{name} {version} is gone"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count_and_ours_does_not() {
        let status = "Package: b\nStatus: install ok installed\nVersion: 1:2-3\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: ours\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: a\nStatus: install ok installed\nVersion: 2\nDescription: x\n y\n";
        let packages = from_dpkg_status(status, "ours");
        let names: Vec<_> = packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        assert_eq!(names, ["a=2", "b=1:2-3"]);
    }

    #[test]
    fn differences_name_new_changed_and_gone() {
        let wanted =
            BTreeMap::from([("a".to_string(), "1".to_string()), ("b".into(), "1".into()), ("c".into(), "1".into())]);
        let got = [("a", "1"), ("b", "2"), ("d", "4")]
            .map(|(name, version)| PackageVersion { name: name.into(), version: version.into() });
        assert_eq!(differences(&wanted, &got), ["b is 2, locked is 1", "d 4 is new", "c 1 is gone"]);
        assert!(differences(&wanted, &wanted_as_packages(&wanted)).is_empty());
    }

    fn wanted_as_packages(wanted: &BTreeMap<String, String>) -> Vec<PackageVersion> {
        wanted.iter().map(|(name, version)| PackageVersion { name: name.clone(), version: version.clone() }).collect()
    }
}
