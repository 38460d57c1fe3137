//! What the store's database knows of a path, as `nix path-info --json` tells it: a list up to Nix 2.18, a map by path
//! since 2.19, and a versioned object whose paths are without the store's folder where a newer Nix is asked for that or
//! has it as its default.

use std::collections::BTreeSet;

use nix_derivation::{CAHash, NixHash, StoreDir, StorePath};
use nix_narinfo::NarInfoSignature;
use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// A valid path of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct PathInfo {
    pub path: StorePath,
    pub nar_hash: NixHash,
    /// Bytes.
    pub nar_size: u64,
    /// May hold the path itself.
    pub references: BTreeSet<StorePath>,
    pub deriver: Option<StorePath>,
    /// Those that the store keeps.
    pub signatures: Vec<NarInfoSignature>,
    pub content_address: Option<CAHash>,
}

/// Reads an answer. Paths that are not valid are left out.
pub(super) fn parse(answer: &[u8], directory: &StoreDir) -> Result<Vec<PathInfo>> {
    let answer: Value =
        serde_json::from_slice(answer).infrastructure(|| "`nix path-info --json` gave no JSON".into())?;
    let strange = || Error::infrastructure("`nix path-info --json` gave an answer of an unknown shape");
    let mut paths = Vec::new();
    match &answer {
        Value::Array(list) => {
            for entry in list {
                let entry = entry.as_object().ok_or_else(strange)?;
                if entry.get("valid") != Some(&Value::Bool(false)) {
                    paths.push(one(text(entry, "path").ok_or_else(strange)?, entry, directory)?);
                }
            }
        }
        Value::Object(map) => {
            let by_path = match map.get("info") {
                Some(info) => info.as_object().ok_or_else(strange)?,
                None => map,
            };
            for (path, entry) in by_path {
                match entry {
                    Value::Null => {}
                    Value::Object(entry) => paths.push(one(path, entry, directory)?),
                    _ => return Err(strange()),
                }
            }
        }
        _ => return Err(strange()),
    }
    Ok(paths)
}

fn one(path: &str, entry: &Map<String, Value>, directory: &StoreDir) -> Result<PathInfo> {
    let wrong =
        |what: &str| Error::infrastructure(format!("`nix path-info --json` gave no usable {what} for `{path}`"));
    let references = entry.get("references").and_then(Value::as_array).ok_or_else(|| wrong("references"))?;
    let references = references.iter().map(|reference| {
        let reference = reference.as_str().and_then(|text| store_path(text, directory));
        reference.ok_or_else(|| wrong("references"))
    });
    let deriver = match entry.get("deriver") {
        None | Some(Value::Null) => None,
        // Old stores hold the word that Nix once wrote where it did not know.
        Some(Value::String(text)) if text.is_empty() || text == "unknown-deriver" => None,
        Some(value) => {
            Some(value.as_str().and_then(|text| store_path(text, directory)).ok_or_else(|| wrong("deriver"))?)
        }
    };
    let signatures = entry.get("signatures").and_then(Value::as_array).into_iter().flatten();
    Ok(PathInfo {
        path: store_path(path, directory).ok_or_else(|| wrong("name"))?,
        nar_hash: entry.get("narHash").and_then(hash).ok_or_else(|| wrong("narHash"))?,
        nar_size: entry
            .get("narSize")
            .and_then(Value::as_u64)
            .filter(|size| *size > 0)
            .ok_or_else(|| wrong("narSize"))?,
        references: references.collect::<Result<_>>()?,
        deriver,
        // Both of these only add trust for the client, who verifies them: a shape that we do not know is left out.
        signatures: signatures.filter_map(|value| NarInfoSignature::parse(value.as_str()?).ok()).collect(),
        content_address: text(entry, "ca").and_then(|text| CAHash::parse(text).ok()),
    })
}

fn text<'v>(entry: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    entry.get(name)?.as_str()
}

/// `sha256-BASE64`, `sha256:BASE32`, or an object of algorithm, format and hash.
fn hash(value: &Value) -> Option<NixHash> {
    let text = match value {
        Value::Object(parts) => format!("{}:{}", text(parts, "algorithm")?, text(parts, "hash")?),
        other => other.as_str()?.to_owned(),
    };
    NixHash::parse(&text).ok().filter(|hash| matches!(hash, NixHash::Sha256(_)))
}

fn store_path(text: &str, directory: &StoreDir) -> Option<StorePath> {
    let parsed = if text.starts_with('/') {
        directory.parse_path(text.as_bytes())
    } else {
        StorePath::from_basename(text.as_bytes())
    };
    parsed.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str = "0lcsqzqis2jrv6hm00a8nihgcd4rjvwf-top";
    const DEP: &str = "95nlj82znp48hbmssycsyqm9f3barc2f-dep";
    const SRI: &str = "sha256-vkR15pYjubZf57du8f95eeVCcqOMdPIkAlFkQ1INHA8=";

    fn read(text: String) -> Result<Vec<PathInfo>> {
        parse(text.as_bytes(), &StoreDir::default())
    }

    #[test]
    fn every_shape_gives_the_same() {
        let base32 = NixHash::parse(SRI).unwrap().to_nix_nixbase32_string();
        let base64 = SRI.strip_prefix("sha256-").unwrap();
        let body = |folder: &str, hash: &str| {
            format!(
                r#""narHash": {hash}, "narSize": 768, "references": ["{folder}{DEP}"],
                   "deriver": "{folder}z9xqg672xcyv6vkc5d25mrxdrdnm8gi9-top.drv", "ultimate": true"#
            )
        };
        let absolute = "/nix/store/";
        let list = format!(
            r#"[{{"path": "{absolute}{TOP}", {}}}, {{"path": "{absolute}{DEP}", "valid": false}}]"#,
            body(absolute, &format!("\"{base32}\""))
        );
        let map =
            format!(r#"{{"{absolute}{TOP}": {{{}}}, "{absolute}{DEP}": null}}"#, body(absolute, &format!("\"{SRI}\"")));
        let versioned = format!(
            r#"{{"version": 2, "storeDir": "/nix/store", "info": {{"{TOP}": {{{}}}}}}}"#,
            body("", &format!(r#"{{"algorithm": "sha256", "format": "base64", "hash": "{base64}"}}"#))
        );
        let first = read(list).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].path.to_basename(), TOP);
        assert_eq!(first[0].nar_hash.to_sri_string(), SRI);
        assert_eq!(first[0].references.iter().map(StorePath::to_basename).collect::<Vec<_>>(), [DEP]);
        assert_eq!(first[0].deriver.as_ref().unwrap().name(), "top.drv");
        assert_eq!(read(map).unwrap(), first);
        assert_eq!(read(versioned).unwrap(), first);
    }

    #[test]
    fn what_is_not_understood_is_told_and_never_guessed() {
        for (answer, part) in [
            ("nothing", "no JSON"),
            ("7", "unknown shape"),
            (r#"["x"]"#, "unknown shape"),
            (r#"{"/nix/store/x": {"references": [], "narSize": 1, "narHash": "x"}}"#, "usable name"),
            (
                r#"[{"path": "/nix/store/95nlj82znp48hbmssycsyqm9f3barc2f-dep", "references": [], "narSize": 1}]"#,
                "narHash",
            ),
        ] {
            let error = read(answer.into()).unwrap_err().to_string();
            assert!(error.contains(part), "{answer}: {error}");
        }
    }
}
