//! The work root's parts and what each takes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::document::BudgetDocument;
use super::scan::{Problem, Scan, Usage, scan};
use crate::error::{Context, Result};
use crate::image::BUNDLE_FILE;
use crate::lane::units::Size;

/// As deep as something stands that is told of by itself: `proofs/<lane>/<run>`, `images/built/<digest>`.
const DEPTH: usize = 3;

/// What the work root consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Built images.
    Images,
    /// What images are made of: package layers, kernels.
    Layers,
    /// Images packed for installing.
    Bundles,
    /// Saved machines.
    Checkpoints,
    Proofs,
    /// Disks of machines that are up, and what is being made: gone when whoever made it is.
    Disposable,
    /// Everything else: records, proofs of accelerators, deployers' databases.
    State,
}

impl Part {
    pub const ALL: [Part; 7] =
        [Part::Images, Part::Layers, Part::Bundles, Part::Checkpoints, Part::Proofs, Part::Disposable, Part::State];

    pub fn as_str(self) -> &'static str {
        match self {
            Part::Images => "images",
            Part::Layers => "layers",
            Part::Bundles => "bundles",
            Part::Checkpoints => "checkpoints",
            Part::Proofs => "proofs",
            Part::Disposable => "disposable",
            Part::State => "state",
        }
    }

    /// Whose part a folder is, by its path from the work root.
    fn of(path: &Path) -> Self {
        let mut names = path.iter().map(|name| name.to_str().unwrap_or_default());
        match (names.next().unwrap_or_default(), names.next().unwrap_or_default()) {
            ("images", "built") => Part::Images,
            ("images", "layers" | "kernels") => Part::Layers,
            ("images", "temporary") | ("runs", _) => Part::Disposable,
            ("checkpoints", name) if name.ends_with(".making") => Part::Disposable,
            ("checkpoints", _) => Part::Checkpoints,
            ("proofs", _) => Part::Proofs,
            _ => Part::State,
        }
    }
}

/// What the work root takes, part by part.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    pub parts: BTreeMap<Part, Usage>,
    /// The proofs of each lane.
    pub lanes: BTreeMap<String, Usage>,
    pub total: Usage,
    pub problems: Vec<Problem>,
    /// Folder by folder, for whoever wants to know more.
    pub scan: Scan,
}

impl Sizes {
    /// Counts the work root; nothing where there is none yet.
    ///
    /// # Errors
    /// Infrastructure: it cannot be read at all.
    pub fn survey(work_root: &Path) -> Result<Self> {
        if !work_root.exists() {
            return Ok(Self::default());
        }
        let scan = scan(work_root, DEPTH).infrastructure(|| format!("failed to read `{}`", work_root.display()))?;
        let bundles = scan.children(Path::new("images/built")).into_iter().filter_map(|folder| {
            let facts = fs::symlink_metadata(work_root.join(folder).join(BUNDLE_FILE)).ok()?;
            Some(Usage { bytes: facts.blocks() * 512, files: 1, ..Usage::default() })
        });
        Ok(Self::of(scan, bundles))
    }

    /// `bundles`: files that stand among the images.
    fn of(scan: Scan, bundles: impl IntoIterator<Item = Usage>) -> Self {
        let mut sizes = Self { total: scan.total(), problems: scan.problems.clone(), ..Self::default() };
        sizes.parts = Part::ALL.into_iter().map(|part| (part, Usage::default())).collect();
        for (path, usage) in scan.folders() {
            sizes.parts.entry(Part::of(path)).or_default().add(usage);
        }
        for bundle in bundles {
            let images = sizes.parts.entry(Part::Images).or_default();
            images.bytes = images.bytes.saturating_sub(bundle.bytes);
            images.files = images.files.saturating_sub(bundle.files);
            sizes.parts.entry(Part::Bundles).or_default().add(&bundle);
        }
        for folder in scan.children(Path::new("proofs")) {
            let Some(lane) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            sizes.lanes.insert(lane.to_owned(), scan.below(&folder));
        }
        sizes.scan = scan;
        sizes
    }

    /// What takes more than it may. The whole first, then the parts, then the lanes.
    pub fn over(&self, budget: &BudgetDocument) -> Vec<Over> {
        let over = |what: Budgeted, used: u64, limit: Option<Size>| {
            let limit = limit.filter(|limit| used > limit.bytes())?;
            Some(Over { what, used, limit: limit.bytes() })
        };
        let total = over(Budgeted::Total, self.total.bytes, budget.soft.total);
        let parts = self
            .parts
            .iter()
            .filter_map(|(part, usage)| over(Budgeted::Part(*part), usage.bytes, budget.soft.of(*part)));
        let lanes = self.lanes.iter().filter_map(|(lane, usage)| {
            let limit = budget.lanes.get(lane).copied().or(budget.soft.lane);
            over(Budgeted::Lane(lane.clone()), usage.bytes, limit)
        });
        total.into_iter().chain(parts).chain(lanes).collect()
    }
}

/// What has a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Budgeted {
    Total,
    Part(Part),
    /// A lane's proofs.
    Lane(String),
}

/// Something that takes more than it may, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    pub what: Budgeted,
    pub used: u64,
    pub limit: u64,
}

impl std::fmt::Display for Budgeted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Budgeted::Total => formatter.write_str("the work root"),
            Budgeted::Part(part) => formatter.write_str(part.as_str()),
            Budgeted::Lane(lane) => write!(formatter, "the proofs of `{lane}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(work: &Path, path: &str, kibibytes: usize) {
        let path = work.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; kibibytes << 10]).unwrap();
    }

    #[test]
    fn everything_belongs_to_one_part() {
        let work = tempfile::tempdir().unwrap();
        for (path, kibibytes) in [
            ("images/built/aa/disk.raw", 400),
            ("images/built/aa/bundle.tar.zst", 80),
            ("images/layers/bb/root.tar", 40),
            ("images/kernels/6/vmlinuz", 40),
            ("images/temporary/x.folder/root", 20),
            ("checkpoints/cc/memory", 100),
            ("checkpoints/dd.making/memory", 60),
            ("proofs/smoke/one/events.jsonl", 12),
            ("proofs/smoke/two/machines/node/console.raw", 12),
            ("proofs/other/one/events.jsonl", 8),
            ("runs/one/node/disk", 200),
            ("images/index/x.json", 4),
            ("host/accelerator.json", 4),
        ] {
            filled(work.path(), path, kibibytes);
        }
        let sizes = Sizes::survey(work.path()).unwrap();
        assert_eq!(sizes.parts.values().map(|usage| usage.bytes).sum::<u64>(), sizes.total.bytes);
        assert_eq!(sizes.parts.values().map(|usage| usage.files).sum::<u64>(), 13);
        // Folders take some blocks themselves.
        let near = |part: Part, kibibytes: u64, files: u64| {
            let usage = sizes.parts[&part];
            assert!(usage.bytes >= kibibytes << 10 && usage.bytes < (kibibytes + 64) << 10, "{part:?}: {usage:?}");
            assert_eq!(usage.files, files, "{part:?}");
        };
        near(Part::Images, 400, 1);
        near(Part::Bundles, 80, 1);
        near(Part::Layers, 80, 2);
        near(Part::Checkpoints, 100, 1);
        near(Part::Proofs, 32, 3);
        near(Part::Disposable, 280, 3);
        near(Part::State, 8, 2);
        assert_eq!(sizes.lanes.keys().collect::<Vec<_>>(), ["other", "smoke"]);
        assert_eq!(sizes.lanes["smoke"].files, 2);

        let budget = |text: &str| BudgetDocument::parse("b", &format!("version = 1\n{text}")).unwrap();
        assert_eq!(sizes.over(&budget("")), []);
        assert_eq!(sizes.over(&budget("[soft]\ntotal = \"1GiB\"\nimages = \"1MiB\"\n")), []);
        let over = sizes.over(&budget("[soft]\ntotal = \"1KiB\"\nbundles = \"79KiB\"\nlane = \"12KiB\"\n"));
        let told: Vec<String> = over.iter().map(|over| over.what.to_string()).collect();
        assert_eq!(told, ["the work root", "bundles", "the proofs of `other`", "the proofs of `smoke`"]);
        assert_eq!(over[1], Over { what: Budgeted::Part(Part::Bundles), used: 80 << 10, limit: 79 << 10 });
        let over = sizes.over(&budget("[soft]\nlane = \"1KiB\"\n[lanes]\nother = \"1GiB\"\n"));
        assert_eq!(over.len(), 1, "a lane's own bound comes before every lane's: {over:?}");
    }

    #[test]
    fn no_work_root_takes_nothing() {
        assert_eq!(Sizes::survey(Path::new("/nowhere/at/all")).unwrap().total, Usage::default());
    }
}
