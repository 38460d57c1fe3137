//! `budget.toml`: what the work root and its parts may take.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::sizes::Part;
use crate::error::{Context, Result};
use crate::lane::read_document;
use crate::lane::units::Size;

/// The newest format of the file that this version reads.
pub const BUDGET_VERSION: u32 = 1;
const FILE: &str = "budget.toml";

/// What the work root may take. Without a file nothing has a bound but the disk itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "bootproof budget", rename = "WorkRootBudget")]
pub struct BudgetDocument {
    /// The address of the JSON Schema, for editors.
    #[serde(rename = "$schema", default)]
    #[allow(dead_code, reason = "there so that editors may have it")]
    schema: Option<String>,
    /// The format of this file: 1.
    #[allow(dead_code, reason = "checked before anything else is read")]
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// What `bootproof budget enforce` compares with; no run minds.
    #[serde(default)]
    pub soft: Soft,
    /// Lanes' own bounds for all their proofs, by the lane's name; in place of `soft.lane`.
    #[serde(default)]
    pub lanes: BTreeMap<String, Size>,
    /// What runs keep to: none starts that would cross it, and one that does ends with the verdict `budget`.
    #[serde(default)]
    pub hard: Hard,
}

/// Bounds that are told when they are crossed, by allocated bytes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Soft {
    /// The whole work root.
    pub total: Option<Size>,
    /// Built images.
    pub images: Option<Size>,
    /// What images are made of: package layers, kernels.
    pub layers: Option<Size>,
    /// Images packed for installing.
    pub bundles: Option<Size>,
    /// Saved machines.
    pub checkpoints: Option<Size>,
    /// All proofs.
    pub proofs: Option<Size>,
    /// The proofs of each lane.
    pub lane: Option<Size>,
    /// Disks of machines that are up, and what is being made.
    pub disposable: Option<Size>,
    /// Everything else.
    pub state: Option<Size>,
}

/// Bounds that runs keep to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hard {
    /// The whole work root.
    pub total: Option<Size>,
    /// What stays free on its file system.
    pub free: Option<Size>,
}

impl Soft {
    pub fn of(&self, part: Part) -> Option<Size> {
        match part {
            Part::Images => self.images,
            Part::Layers => self.layers,
            Part::Bundles => self.bundles,
            Part::Checkpoints => self.checkpoints,
            Part::Proofs => self.proofs,
            Part::Disposable => self.disposable,
            Part::State => self.state,
        }
    }
}

impl BudgetDocument {
    /// Reads a file's text. `name` is how errors call it.
    ///
    /// # Errors
    /// Usage, with an excerpt of everything that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        Ok(read_document(name, text, "budget", BUDGET_VERSION, |_: &Self| Vec::new())?.0)
    }

    /// The work root's own file, else the project's, else no bounds; with the file that was read.
    ///
    /// # Errors
    /// Usage: it cannot be read, or something in it is wrong.
    pub fn load(work_root: &Path, project_root: &Path) -> Result<(Self, Option<PathBuf>)> {
        for folder in [work_root, project_root] {
            let path = folder.join(FILE);
            match fs::read_to_string(&path) {
                Ok(text) => return Ok((Self::parse(&path.display().to_string(), &text)?, Some(path))),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error).usage(|| format!("failed to read `{}`", path.display())),
            }
        }
        Ok((Self::default(), None))
    }
}

/// The JSON Schema of budget files, as text that ends with a line feed.
pub fn budget_schema() -> String {
    format!("{:#}\n", schemars::schema_for!(BudgetDocument).as_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let text = "version = 1\n[soft]\ntotal = \"20 parsecs\"\nimags = \"1GiB\"\n[lanes]\nsmoke = 5\n";
        let error = BudgetDocument::parse("budget.toml", text).unwrap_err();
        let mut places: Vec<(usize, &str)> =
            error.placed_messages().iter().map(|placed| (placed.line, placed.message.as_str())).collect();
        places.sort();
        assert_eq!(places.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 6], "{places:?}");
        assert!(places[0].1.contains("20 parsecs"), "{places:?}");
        for text in ["version = 2\n", "", "version = 1\n[soft\n"] {
            assert_eq!(BudgetDocument::parse("budget.toml", text).unwrap_err().kind().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn the_work_roots_own_file_comes_before_the_projects() {
        let [work, project] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let load = || BudgetDocument::load(work.path(), project.path()).unwrap();
        assert_eq!(load(), (BudgetDocument::default(), None));
        fs::write(project.path().join(FILE), "version = 1\n[soft]\ntotal = \"1GiB\"\n").unwrap();
        assert_eq!(load().0.soft.total, Some(Size::gibibytes(1)));
        fs::write(work.path().join(FILE), "version = 1\n[hard]\nfree = \"1MiB\"\n").unwrap();
        assert_eq!((load().0.soft.total, load().0.hard.free), (None, Some(Size::mebibytes(1))));
        fs::write(work.path().join(FILE), [0xff]).unwrap();
        assert_eq!(BudgetDocument::load(work.path(), project.path()).unwrap_err().kind().exit_code(), 2);
    }

    #[test]
    fn the_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/budget.schema.json");
        if std::env::var_os("BOOTPROOF_UPDATE_SCHEMAS").is_some() {
            fs::write(&path, budget_schema()).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == budget_schema(),
            "schemas/budget.schema.json is not what the types say; renew it with BOOTPROOF_UPDATE_SCHEMAS=1"
        );
    }
}
