//! `disk`: an image that exists. It is checked, digested once, and used where it stands.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};

use super::command::Tool;
use super::digest;
use super::index::{self, FileRecord, Fingerprint, ImageRecord};
use super::recipe::Recipe;
use super::store::{ImageStore, Work};
use super::{BaseDisk, Boot, DiskFormat};
use crate::error::{Context, Error, Result};
use crate::plan::model::LockState;

/// Looks at the disk and remembers it; nothing is copied.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    let Recipe::Disk { path, .. } = &work.resolved.recipe else {
        return Err(Error::infrastructure("a recipe of another kind reached the builder of `disk` images"));
    };
    let record = file_record(work.store, path)?;
    let disk = inspect(work, path).await?;
    Ok(work.record(record.sha256, LockState::NotNeeded, Boot::Firmware, Some(disk), Vec::new()))
}

/// What `qemu-img info` says.
#[derive(Deserialize)]
struct Information {
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    #[serde(rename = "backing-filename")]
    backing_filename: Option<String>,
    #[serde(rename = "format-specific")]
    format_specific: Option<FormatSpecific>,
}

#[derive(Deserialize)]
struct FormatSpecific {
    data: Option<FormatData>,
}

#[derive(Deserialize)]
struct FormatData {
    #[serde(rename = "data-file")]
    data_file: Option<String>,
}

/// The disk's format and size. A disk that draws on other files is refused: its digest would say nothing about them, and
/// QEMU would open whatever path stands in it.
pub(super) async fn inspect(work: &Work<'_>, path: &Path) -> Result<BaseDisk> {
    let doing = format!("look into the disk image `{}`", path.display());
    let arguments = [Path::new("info"), Path::new("--output=json"), path];
    let said = Tool::new("qemu-img").args(arguments).succeed(work.cancel, &doing).await?.stdout;
    let information: Information =
        serde_json::from_str(&said).infrastructure(|| format!("failed to {doing}: unknown answer of `qemu-img`"))?;
    let data_file = information.format_specific.and_then(|specific| specific.data).and_then(|data| data.data_file);
    if let Some(other) = information.backing_filename.or(data_file) {
        return Err(Error::usage(format!("the disk image `{}` needs another file: `{other}`", path.display()))
            .hint(format!("make it whole first: `qemu-img convert -O qcow2 {} whole.qcow2`", path.display())));
    }
    let format = match information.format.as_str() {
        "raw" => DiskFormat::Raw,
        "qcow2" => DiskFormat::Qcow2,
        other => {
            return Err(Error::usage(format!("the disk image `{}` has the format `{other}`", path.display()))
                .hint(format!("convert it: `qemu-img convert -O qcow2 {} disk.qcow2`", path.display())));
        }
    };
    Ok(BaseDisk { path: path.into(), format, virtual_size: information.virtual_size })
}

/// A file's digests, checked against the one that the lane gives.
pub(super) fn checked_record(store: &ImageStore, image: &str, path: &Path, sha512: Option<&str>) -> Result<FileRecord> {
    let wanted = sha512.map(str::to_ascii_lowercase);
    if let Some(wanted) = &wanted
        && (wanted.len() != 128 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(Error::usage(format!("image `{image}`: `{wanted}` is not a SHA-512 digest"))
            .hint(format!("`sha512sum {}` gives it: 128 hexadecimal digits", path.display())));
    }
    let record = file_record(store, path)?;
    match wanted {
        Some(wanted) if wanted != record.sha512 => {
            Err(Error::usage(format!("image `{image}`: `{}` is not the file that the lane means", path.display()))
                .with_source(format!("its SHA-512 is {}, the lane says {wanted}", record.sha512))
                .hint("get the right file, or correct `sha512` in the lane"))
        }
        _ => Ok(record),
    }
}

/// A file's digests: read once, and remembered for as long as the file does not change.
pub(super) fn file_record(store: &ImageStore, path: &Path) -> Result<FileRecord> {
    let context = || format!("failed to read `{}`", path.display());
    if path.is_dir() {
        return Err(
            Error::usage(format!("`{}` is a folder, not a file", path.display())).hint("name the image file itself")
        );
    }
    let fingerprint = Fingerprint::of(path).usage(context)?;
    let key = digest::of_value(&path)?;
    let memory = store.folder("files").join(format!("{}.json", key.trim_start_matches("sha256:")));
    if let Some(record) = index::read::<FileRecord>(&memory)
        && record.version == FileRecord::VERSION
        && record.fingerprint == fingerprint
    {
        return Ok(record);
    }
    let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
    digest::read_through(path, |bytes| {
        sha256.update(bytes);
        sha512.update(bytes);
    })
    .usage(context)?;
    let record = FileRecord {
        version: FileRecord::VERSION,
        fingerprint,
        sha256: format!("sha256:{}", digest::hex(&sha256.finalize())),
        sha512: digest::hex(&sha512.finalize()),
    };
    // Only a memory: where the store cannot be written, or is not there yet, the file is read again next time.
    let _ = index::write(&memory, &record);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_digest_names_both_and_a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, "one").unwrap();
        let first = file_record(&store, &path).unwrap();
        assert_eq!(checked_record(&store, "x", &path, Some(&first.sha512.to_uppercase())).unwrap(), first);
        std::fs::write(&path, "two!").unwrap();
        let error = checked_record(&store, "x", &path, Some(&first.sha512)).unwrap_err();
        let second = file_record(&store, &path).unwrap();
        assert!(error.chain().contains(&first.sha512) && error.chain().contains(&second.sha512));
    }

    #[test]
    fn a_folder_a_missing_file_and_a_short_digest_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), folder.path()).unwrap();
        assert!(file_record(&store, folder.path()).unwrap_err().to_string().contains("is a folder"));
        assert!(file_record(&store, &folder.path().join("none")).is_err());
        let error = checked_record(&store, "x", folder.path(), Some("abc")).unwrap_err();
        assert!(error.to_string().contains("not a SHA-512"));
    }
}
