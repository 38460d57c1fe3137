//! Where a store path comes from, checked against the store.

use std::fs;

use nix_derivation::{Derivation, NixHash, StorePath};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NixStore, PathInfo};
use crate::error::{Context, Error, Result};

/// What the store's database says of a path, after the path's content was found to have the hash that stands there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub store_path: String,
    /// `sha256-<base64>`, of the path's serialisation as a NAR.
    pub nar_hash: String,
    /// Bytes.
    pub nar_size: u64,
    /// The derivation that made it, where the database knows.
    pub deriver: Option<String>,
    /// Which of the derivation's outputs it is. `None` where the derivation is no longer in the store, or where its
    /// outputs' paths follow from their content.
    pub deriver_output: Option<String>,
    /// Paths that it needs, itself included.
    pub closure_paths: u64,
    /// Bytes: the sum of their NARs.
    pub closure_size: u64,
    /// The paths that it refers to, sorted.
    pub references: Vec<String>,
}

/// Asks the database about a path and checks what it says. `content`: the hash of the path's NAR, as found by reading it.
///
/// # Errors
/// Infrastructure: the path is not in the database, its content is another, or its derivation does not make it.
pub async fn provenance(store: &NixStore, path: &StorePath, content: &NixHash) -> Result<Provenance> {
    let name = store.name(path);
    let unknown = || {
        Error::infrastructure(format!("`{name}` lies in the Nix store, and the store's database does not know it"))
            .hint(format!("`nix-store --query --hash {name}` asks it; what is copied in by hand does not count"))
    };
    let closure = store.closure_of(path).await?.ok_or_else(unknown)?;
    let own = closure.iter().find(|known| known.path == *path).ok_or_else(unknown)?;
    if own.nar_hash != *content {
        return Err(Error::infrastructure(format!(
            "`{name}` is damaged: its content has the NAR hash `{}`, the Nix store's database says `{}`",
            content.to_sri_string(),
            own.nar_hash.to_sri_string()
        ))
        .hint(format!("`nix store verify {name}` confirms it, `nix store repair {name}` mends it")));
    }
    Ok(Provenance {
        store_path: name,
        nar_hash: own.nar_hash.to_sri_string(),
        nar_size: own.nar_size,
        deriver: own.deriver.as_ref().map(|deriver| store.name(deriver)),
        deriver_output: output_of(store, own)?,
        closure_paths: closure.len() as u64,
        closure_size: closure.iter().map(|known| known.nar_size).sum(),
        references: own.references.iter().map(|reference| store.name(reference)).collect(),
    })
}

/// The name of the deriver's output that the path is.
fn output_of(store: &NixStore, own: &PathInfo) -> Result<Option<String>> {
    let Some(deriver) = &own.deriver else { return Ok(None) };
    let file = store.real_path(deriver);
    let text = match fs::read(&file) {
        Ok(text) => text,
        // Garbage collection takes derivations, unless it is told to keep them.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(
                Error::infrastructure(format!("failed to read the derivation `{}`", file.display())).with_source(error)
            );
        }
    };
    let name = deriver.name().strip_suffix(".drv").unwrap_or(deriver.name());
    let derivation = Derivation::from_aterm_bytes_in(&text, name, store.directory().clone())
        .infrastructure(|| format!("failed to understand the derivation `{}`", file.display()))?;
    let mut all_known = true;
    for (output, kind) in derivation.outputs() {
        let path = kind
            .path_in(store.directory(), name, output)
            .infrastructure(|| format!("failed to tell the outputs of the derivation `{}`", file.display()))?;
        match path {
            Some(path) if path == own.path => return Ok(Some(output.clone())),
            Some(_) => {}
            None => all_known = false,
        }
    }
    if all_known {
        let (path, deriver) = (store.name(&own.path), store.name(deriver));
        return Err(Error::infrastructure(format!(
            "the Nix store's database says that `{deriver}` made `{path}`, which is none of its outputs"
        ))
        .hint(format!("`nix show-derivation {deriver}` shows them")));
    }
    Ok(None)
}
