//! Secrets: values that a run uses and never keeps.
//!
//! What always holds: a `Secret` cannot be printed, formatted or serialised; its memory is zeroed when it is dropped.
//! Lanes, plans, events and command lines hold `${secret:NAME}`; `Secrets::fill` puts the value in at the moment of use,
//! `Secrets::redact` takes it out of whatever comes back, and the record holds a salted hash.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result};
use crate::lane::model::SecretSource;

const OPEN: &str = "${secret:";
/// A shorter value would stand in outputs by chance, and taking it out would tell where it is.
const SHORTEST: usize = 4;

/// One value. No `Debug`, `Display` or `Serialize` on purpose.
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, for the one who uses it now.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `sha256:<hex>` of salt and value: two runs can be compared only by who knows both salts and the value.
    pub fn salted_hash(&self, salt: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hasher.update(salt);
        hasher.update(self.0.as_bytes());
        format!("sha256:{}", hex(&hasher.finalize()))
    }
}

/// A reference in a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Placeholder<'t> {
    Named(&'t str),
    /// `${secret:` that nothing ends.
    Unfinished,
}

/// The references in a text, in their order.
pub fn placeholders(text: &str) -> impl Iterator<Item = Placeholder<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(OPEN)? + OPEN.len();
        match rest[start..].find('}') {
            Some(length) => {
                let name = &rest[start..start + length];
                rest = &rest[start + length + 1..];
                Some(Placeholder::Named(name))
            }
            None => {
                rest = "";
                Some(Placeholder::Unfinished)
            }
        }
    })
}

/// What the record holds of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    pub name: String,
    /// Hexadecimal.
    pub salt: String,
    /// `sha256:<hex>` of salt and value.
    pub hash: String,
}

/// All the secrets of a run, with the salt of this run.
pub struct Secrets {
    values: BTreeMap<String, Secret>,
    salt: [u8; 16],
    /// Finds any value in a text, the longest where several begin; `None` without secrets.
    finder: Option<AhoCorasick>,
    names: Vec<String>,
}

impl Secrets {
    /// Gets the values of a lane's secrets from where the lane says. `project_root`: what their files are relative to.
    ///
    /// # Errors
    /// Blocked: a variable or file is missing, empty, too short to be kept out of outputs, or not UTF-8.
    pub fn resolve(sources: &BTreeMap<String, SecretSource>, project_root: &Path) -> Result<Self> {
        Self::resolve_with(sources, project_root, |variable| std::env::var_os(variable))
    }

    fn resolve_with(
        sources: &BTreeMap<String, SecretSource>,
        project_root: &Path,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (name, source) in sources {
            let value = match source {
                SecretSource::Environment { variable: wanted } => {
                    let value = variable(wanted).ok_or_else(|| {
                        Error::blocked(format!("failed to get the secret `{name}`: `{wanted}` is not set"))
                            .hint(format!("set the environment variable `{wanted}` for this run"))
                    })?;
                    let value = value.into_string().map_err(|_| {
                        Error::blocked(format!("failed to get the secret `{name}`: `{wanted}` is not UTF-8"))
                    })?;
                    Zeroizing::new(value)
                }
                SecretSource::File { path } => {
                    let path = project_root.join(path);
                    let value = std::fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| {
                        Error::blocked(format!("failed to read the secret `{name}` from `{}`", path.display()))
                            .with_source(error)
                            .hint("the lane says where the secret's value is; put it there")
                    })?;
                    Zeroizing::new(value.trim_end_matches(['\r', '\n']).to_owned())
                }
                SecretSource::Generated {} => {
                    let mut bytes = Zeroizing::new([0; 32]);
                    random(bytes.as_mut_slice())?;
                    Zeroizing::new(hex(bytes.as_slice()))
                }
            };
            if value.len() < SHORTEST {
                return Err(Error::blocked(format!("the secret `{name}` has fewer than {SHORTEST} characters"))
                    .hint("so short a value cannot be kept out of outputs; use a longer one"));
            }
            values.insert(name.clone(), Secret(value));
        }
        let mut salt = [0; 16];
        random(&mut salt)?;
        let finder = if values.is_empty() {
            None
        } else {
            let builder = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(values.values().map(|secret| secret.expose().as_bytes()));
            Some(builder.infrastructure(|| "failed to prepare the redaction of secrets".into())?)
        };
        let names = values.keys().cloned().collect();
        Ok(Self { values, salt, finder, names })
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Puts values where the references are. The result is as secret as what went in.
    ///
    /// # Errors
    /// Usage: a reference to a secret that the lane does not have (`lane check` finds it first).
    pub fn fill(&self, text: &str) -> Result<Zeroizing<String>> {
        let mut filled = Zeroizing::new(String::with_capacity(text.len() + 64));
        let mut rest = text;
        while let Some(start) = rest.find(OPEN) {
            let (before, after) = (&rest[..start], &rest[start + OPEN.len()..]);
            filled.push_str(before);
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| Error::usage("failed to fill in a secret: a `${secret:` has no end"))?;
            let secret = self
                .values
                .get(name)
                .ok_or_else(|| Error::usage(format!("failed to fill in a secret: the lane has no `{name}`")))?;
            filled.push_str(secret.expose());
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Puts the reference back where a value stands.
    pub fn redact(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact_bytes(text.as_bytes())).into_owned()
    }

    /// The same for output that need not be UTF-8. The output has to be whole: a value cut in two is not found.
    pub fn redact_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let Some(finder) = &self.finder else { return bytes.to_vec() };
        let mut redacted = Vec::with_capacity(bytes.len());
        let mut end = 0;
        for found in finder.find_iter(bytes) {
            redacted.extend_from_slice(&bytes[end..found.start()]);
            redacted.extend_from_slice(format!("{OPEN}{}}}", self.names[found.pattern().as_usize()]).as_bytes());
            end = found.end();
        }
        redacted.extend_from_slice(&bytes[end..]);
        redacted
    }

    /// What the record may hold.
    pub fn records(&self) -> Vec<SecretRecord> {
        self.values
            .iter()
            .map(|(name, secret)| SecretRecord {
                name: name.clone(),
                salt: hex(&self.salt),
                hash: secret.salted_hash(&self.salt),
            })
            .collect()
    }
}

pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .infrastructure(|| "failed to get random bytes from the kernel".into())?;
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let sources = BTreeMap::from([
            ("long".into(), SecretSource::Environment { variable: "LONG".into() }),
            ("short".into(), SecretSource::Environment { variable: "SHORT".into() }),
        ]);
        Secrets::resolve_with(&sources, Path::new("/"), |variable| {
            Some(if variable == "LONG" { "hunter2-and-more" } else { "hunter2" }.into())
        })
        .unwrap()
    }

    #[test]
    fn filling_and_redacting_undo_each_other() {
        let secrets = secrets();
        let text = "a ${secret:long} b ${secret:short} c ${HOME}";
        let filled = secrets.fill(text).unwrap();
        assert_eq!(filled.as_str(), "a hunter2-and-more b hunter2 c ${HOME}");
        assert_eq!(secrets.redact(&filled), text);
        assert_eq!(secrets.redact_bytes(b"\xffhunter2\0"), b"\xff${secret:short}\0");
    }

    #[test]
    fn an_unknown_or_unfinished_reference_is_refused() {
        assert!(secrets().fill("${secret:none}").unwrap_err().to_string().contains("`none`"));
        assert!(secrets().fill("${secret:long").is_err());
        let found: Vec<_> = placeholders("${secret:a}${secret:b").collect();
        assert_eq!(found, [Placeholder::Named("a"), Placeholder::Unfinished]);
    }

    #[test]
    fn the_record_holds_a_hash_that_differs_between_runs() {
        let (first, second) = (secrets().records(), secrets().records());
        assert_eq!(first[0].name, "long");
        assert!(first[0].hash.starts_with("sha256:"));
        assert_ne!(first[0].hash, second[0].hash);
        assert!(!format!("{first:?}").contains("hunter2"));
    }

    #[test]
    fn a_missing_or_short_value_blocks_the_run() {
        let sources = BTreeMap::from([("token".into(), SecretSource::Environment { variable: "TOKEN".into() })]);
        let missing = Secrets::resolve_with(&sources, Path::new("/"), |_| None).err().unwrap();
        assert_eq!(missing.kind().exit_code(), 3);
        assert!(missing.hints()[0].contains("`TOKEN`"));
        let short = Secrets::resolve_with(&sources, Path::new("/"), |_| Some("abc".into())).err().unwrap();
        assert!(!short.chain().contains("abc"));
    }

    #[test]
    fn a_generated_secret_is_new_each_time() {
        let sources = BTreeMap::from([("token".into(), SecretSource::Generated {})]);
        let fill = || Secrets::resolve(&sources, Path::new("/")).unwrap().fill("${secret:token}").unwrap();
        assert_eq!(fill().len(), 64);
        assert_ne!(fill(), fill());
    }
}
