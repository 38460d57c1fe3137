//! Is a proof root still what was sealed? Every difference by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::seal::{SEAL_FILE, Seal};
use super::sums::{self, SUMS_FILE};
use super::{digest, tree};
use crate::error::{Context, Result};

/// What verification found.
#[derive(Clone, Debug)]
pub struct Verification {
    pub seal: Option<Seal>,
    /// Files that are what they were.
    pub intact: u64,
    pub findings: Vec<Finding>,
}

impl Verification {
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that is not as it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is no `seal.json`: the run is not finished, or was killed.
    NotSealed,
    /// `seal.json` or `SHA256SUMS` cannot be used, so the files it covers cannot be judged.
    Unusable {
        file: String,
        why: String,
    },
    Changed {
        file: String,
    },
    Missing {
        file: String,
    },
    /// Not covered by the seal.
    Added {
        file: String,
    },
    /// A link, pipe, socket or device, where only plain files belong.
    Special {
        file: String,
        what: &'static str,
    },
    Unreadable {
        file: String,
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::NotSealed => write!(formatter, "not sealed: the run has not finished, or was killed"),
            Finding::Unusable { file, why } => write!(formatter, "unusable: {file}: {why}"),
            Finding::Changed { file } => write!(formatter, "changed: {file}"),
            Finding::Missing { file } => write!(formatter, "missing: {file}"),
            Finding::Added { file } => write!(formatter, "added: {file}"),
            Finding::Special { file, what } => write!(formatter, "not a plain file: {file} is {what}"),
            Finding::Unreadable { file, why } => write!(formatter, "unreadable: {file}: {why}"),
        }
    }
}

/// Compares a proof root with its seal. Links are never followed.
///
/// # Errors
/// `infrastructure` when the root itself cannot be read; everything else is a finding.
pub fn verify(root: &Path) -> Result<Verification> {
    let root = &std::fs::canonicalize(root).infrastructure(|| format!("failed to open `{}`", root.display()))?;
    let mut verification = Verification { seal: None, intact: 0, findings: Vec::new() };
    let entries = tree::entries(root)?;
    match Seal::read(root) {
        Ok(Some(seal)) => verification.seal = Some(seal),
        Ok(None) => {
            verification.findings.push(Finding::NotSealed);
            return Ok(verification);
        }
        Err(error) => {
            verification.findings.push(Finding::Unusable { file: SEAL_FILE.into(), why: error.chain() });
            return Ok(verification);
        }
    }
    let present: BTreeMap<&[u8], Option<&'static str>> =
        entries.iter().map(|entry| (&entry.name[..], entry.special)).collect();
    let sealed = match read_sums(root, &mut verification) {
        Some(sealed) => sealed,
        None => return Ok(verification),
    };
    for (name, expected) in &sealed {
        let file = tree::display(name);
        match present.get(&name[..]) {
            None => verification.findings.push(Finding::Missing { file }),
            Some(Some(what)) => verification.findings.push(Finding::Special { file, what }),
            Some(None) => {
                let found =
                    tree::open_plain(&tree::path_of(root, name)).and_then(|mut file| digest::of_file(&mut file));
                match found {
                    Ok((found, _)) if found == *expected => verification.intact += 1,
                    Ok(_) => verification.findings.push(Finding::Changed { file }),
                    Err(error) => verification.findings.push(Finding::Unreadable { file, why: error.to_string() }),
                }
            }
        }
    }
    for (name, special) in present {
        if sealed.contains_key(name) || name == SEAL_FILE.as_bytes() || name == SUMS_FILE.as_bytes() {
            continue;
        }
        let file = tree::display(name);
        verification.findings.push(match special {
            Some(what) => Finding::Special { file, what },
            None => Finding::Added { file },
        });
    }
    Ok(verification)
}

/// The sealed digests by name, or `None` with a finding where they cannot be trusted to be the sealed ones.
fn read_sums(root: &Path, verification: &mut Verification) -> Option<BTreeMap<Vec<u8>, String>> {
    let seal = verification.seal.as_ref()?;
    let unusable = |why: String| Finding::Unusable { file: SUMS_FILE.into(), why };
    let mut bytes = Vec::new();
    let read =
        tree::open_plain(&root.join(SUMS_FILE)).and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes));
    if let Err(error) = read {
        verification.findings.push(match error.kind() {
            std::io::ErrorKind::NotFound => Finding::Missing { file: SUMS_FILE.into() },
            _ => unusable(error.to_string()),
        });
        return None;
    }
    if sums::digest_of(&bytes) != seal.sums_digest {
        // Still worth reading: it names what else was changed.
        verification.findings.push(Finding::Changed { file: SUMS_FILE.into() });
    }
    match sums::read(&bytes) {
        Ok(sums) => Some(sums.into_iter().map(|sum| (sum.name, sum.digest)).collect()),
        Err((line, what)) => {
            verification.findings.push(unusable(format!("line {line}: {what}")));
            None
        }
    }
}
