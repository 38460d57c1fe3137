//! What the plan says of an image: looked up, never made.

use std::path::Path;

use super::recipe::{Recipe, Resolved};
use super::request::ImageRequest;
use super::store::ImageStore;
use super::{agent_binary, debian, iso, tiny};
use crate::error::{ErrorKind, Result};
use crate::image::ImageLock;
use crate::plan::model::{LockState, PlannedImage};

/// Resolves an image as far as that goes without building: the digests, whether it is there, what building it takes.
/// Reads the recipe's files, the image lock and the store; writes nothing but remembered digests of disk images.
///
/// Errors: `usage` for a recipe that cannot work. A missing agent is none: the plan then has no digest.
pub fn plan_image(work_root: &Path, project_root: &Path, request: &ImageRequest) -> Result<PlannedImage> {
    let store = ImageStore::at(work_root, project_root);
    let lock = ImageLock::load(project_root)?;
    let resolved = match Resolved::new(&store, request, &lock) {
        Err(error) if error.kind() == ErrorKind::Blocked && agent_binary().is_err() => {
            Resolved::without_agent(&store, request, &lock)?
        }
        other => other?,
    };
    let whole = resolved.agent.is_some() || !resolved.recipe.needs_agent();
    let found = whole.then(|| store.find(&resolved)).flatten();
    let lock = match &found {
        Some(record) => record.lock,
        None if resolved.asked.is_none() => LockState::NotNeeded,
        None if resolved.wanted.is_some() => LockState::Locked,
        None => LockState::Unlocked,
    };
    let digest = match &found {
        Some(record) => Some(record.digest.clone()),
        None if whole => resolved.file_digest().or_else(|| resolved.locked_digest()),
        None => None,
    };
    let build_disk = match &resolved.recipe {
        _ if found.is_some() => 0,
        Recipe::Tiny { .. } => tiny::BUILD_DISK,
        // The packages as files, as a tree and as a disk; the disk holds no more than its size.
        Recipe::Debian { size, .. } => debian::BUILD_DISK_BASE + size,
        Recipe::Installer => iso::BUILD_DISK,
        Recipe::Disk { .. } | Recipe::Iso { .. } => 0,
        Recipe::Nix { .. } => 0,
    };
    Ok(PlannedImage {
        source: request.source,
        recipe_digest: resolved.recipe_digest.clone(),
        digest,
        lock,
        present: found.is_some() || matches!(resolved.recipe, Recipe::Disk { .. } | Recipe::Iso { .. }),
        build_disk: crate::lane::units::Size(build_disk),
    })
}
