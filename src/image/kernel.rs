//! A kernel as the store keeps it: the bzImage, the same unpacked where that is worth it, and the modules for stage 1.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::elf::Elf;
use super::index;
use super::modules::{self, Module, Modules, Purpose};
use crate::error::{Context, Error, Result};

/// Raised whenever other modules are taken: a kernel in the store is then taken anew.
const VERSION: u32 = 2;

/// A kernel in the store.
pub(super) struct Kernel {
    pub image: PathBuf,
    pub uncompressed: Option<PathBuf>,
    pub modules: Modules,
}

/// What stands beside the files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    /// As `uname -r` gives it.
    release: String,
    uncompressed: bool,
    /// In load order.
    modules: Vec<String>,
    /// How many of them are loaded whatever devices there are; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    always: Option<usize>,
}

/// Takes a kernel and the modules that a guest needs out of an unpacked tree (`boot/`, `lib/modules/`) into a folder.
pub(super) fn take(tree: &Path, purpose: Purpose, into: &Path) -> Result<()> {
    let (image, release) = newest_image(&tree.join("boot"))?;
    let folder = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|place| tree.join(place).join(&release))
        .find(|folder| folder.is_dir());
    take_files(&image, &release, folder.as_deref(), purpose, into)
}

/// The same for a kernel and its modules that stand anywhere. Without modules, all drivers have to be built in.
pub(super) fn take_files(
    image: &Path,
    release: &str,
    modules_folder: Option<&Path>,
    purpose: Purpose,
    into: &Path,
) -> Result<()> {
    let context = || format!("failed to copy the kernel `{}`", image.display());
    fs::create_dir_all(into.join("modules")).infrastructure(context)?;
    let bytes = fs::read(image).map_err(|error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let error = Error::infrastructure(context()).with_source(error);
        if denied { error.hint("some hosts keep kernels readable by root only") } else { error }
    })?;
    fs::write(into.join("vmlinuz"), &bytes).infrastructure(context)?;
    let uncompressed = unpack(&bytes);
    if let Some(bytes) = &uncompressed {
        fs::write(into.join("vmlinux"), bytes).infrastructure(context)?;
    }
    let modules = modules_folder.map(|folder| modules::choose(folder, purpose)).transpose()?.unwrap_or_default();
    for module in &modules.all {
        fs::write(into.join("modules").join(&module.name), &module.bytes).infrastructure(context)?;
    }
    let manifest = Manifest {
        version: VERSION,
        release: release.into(),
        uncompressed: uncompressed.is_some(),
        always: (modules.always < modules.all.len()).then_some(modules.always),
        modules: modules.all.into_iter().map(|module| module.name).collect(),
    };
    index::write(&into.join("kernel.json"), &manifest)
}

/// Reads back what `take` left; `None` when there is nothing whole.
pub(super) fn load(folder: &Path) -> Option<Kernel> {
    let manifest: Manifest = index::read(&folder.join("kernel.json"))?;
    let image = folder.join("vmlinuz");
    if manifest.version != VERSION || !image.is_file() {
        return None;
    }
    let modules = manifest
        .modules
        .into_iter()
        .map(|name| Some(Module { bytes: fs::read(folder.join("modules").join(&name)).ok()?, name }))
        .collect::<Option<Vec<_>>>()?;
    let modules = Modules { always: manifest.always.unwrap_or(modules.len()), all: modules };
    Some(Kernel { image, uncompressed: manifest.uncompressed.then(|| folder.join("vmlinux")), modules })
}

/// The newest `vmlinuz-<release>` of a folder, and its release.
pub(super) fn newest_image(boot: &Path) -> Result<(PathBuf, String)> {
    let entries = fs::read_dir(boot).infrastructure(|| format!("failed to read `{}`", boot.display()))?;
    entries
        .flatten()
        .filter_map(|entry| {
            let release = entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_string();
            Some((entry.path(), release))
        })
        .max_by_key(|(_, release)| numbers(release))
        .ok_or_else(|| Error::infrastructure(format!("there is no kernel in `{}`", boot.display())))
}

/// The numbers in a release, for ordering: `6.1.0-56-cloud-amd64` -> 6, 1, 0, 56, 64.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|character: char| !character.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The kernel inside a bzImage as an ELF file, if it can be had here and can be started so.
///
/// In the guest, unpacking takes an emulated processor about a third of a second on every boot. Only LZ4 is unpacked,
/// which is what Debian's cloud kernels use; any other kernel is started as it is.
fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    // Linux's boot protocol: setup sectors, magic, version, offset and length of the compressed payload.
    if image.get(0x202..0x206)? != b"HdrS" || u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?) < 0x208 {
        return None;
    }
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup.checked_add(word(0x248)?)?;
    let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
    // The last four bytes are the size of what is packed.
    let (payload, size) = payload.split_at_checked(payload.len().checked_sub(4)?)?;
    let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
    let kernel = unpack_lz4(payload, size)?;
    Elf::parse(&kernel)?.has_pvh_entry().then_some(kernel)
}

/// LZ4's legacy format: a magic number, then blocks, each with its length before it.
fn unpack_lz4(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut rest = packed.strip_prefix(&[0x02, 0x21, 0x4c, 0x18])?;
    if size > 1 << 30 {
        return None;
    }
    let mut unpacked = Vec::with_capacity(size);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (block, next) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        unpacked.extend(lz4_flex::block::decompress(block, BLOCK).ok()?);
        rest = next;
    }
    (unpacked.len() == size).then_some(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_found_by_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for release in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "5.10.0-99-amd64"] {
            fs::write(folder.path().join(format!("vmlinuz-{release}")), "").unwrap();
        }
        assert_eq!(newest_image(folder.path()).unwrap().1, "6.1.0-56-cloud-amd64");
        assert!(newest_image(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_taken_kernel_comes_back_with_its_modules_in_order() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("boot")).unwrap();
        fs::write(tree.path().join("boot/vmlinuz-1.2"), "KERNEL").unwrap();
        let modules = [("virtio_pci", "depends=virtio\0"), ("virtio", "depends=\0"), ("virtio_console", "depends=\0")];
        modules::tests::fake_modules(&tree.path().join("lib/modules/1.2"), &modules, &[]);
        let into = tree.path().join("kernel");
        assert!(load(&into).is_none());
        take(tree.path(), Purpose::Virtual, &into).unwrap();
        let kernel = load(&into).unwrap();
        assert_eq!(fs::read(kernel.image).unwrap(), b"KERNEL");
        assert_eq!(kernel.uncompressed, None);
        let names: Vec<_> = kernel.modules.all.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio", "virtio_pci", "virtio_console"]);
        fs::remove_file(into.join("modules/virtio")).unwrap();
        assert!(load(&into).is_none(), "a kernel with a module missing is not whole");
    }

    #[test]
    fn lz4_blocks_are_joined_and_damage_is_noticed() {
        let content = b"a kernel, a kernel, a kernel, a kernel".repeat(100);
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        for half in content.chunks(content.len() / 2) {
            let block = lz4_flex::block::compress(half);
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        assert_eq!(unpack_lz4(&packed, content.len()).unwrap(), content);
        assert_eq!(unpack_lz4(&packed, content.len() + 1), None);
        assert_eq!(unpack_lz4(&packed[..packed.len() - 1], content.len()), None);
        assert_eq!(unpack(&packed), None);
    }
}
