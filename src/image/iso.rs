//! `iso`: a medium that machines boot from. One that exists is used where it stands; our installer's is made here.
//!
//! The installer's medium is hybrid: a CD or a USB stick, for BIOS and for UEFI. It holds GRUB, a kernel, an initramfs with
//! the agent, and the live system as a squashfs. The tools that make it (GRUB's, xorriso, squashfs-tools) are installed
//! into the live system's own root and run there, so that the host needs none of them; they are left out of the medium
//! as far as installing does not need them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::command::{Tool, failed};
use super::debian::{self, Layer};
use super::index::{self, ImageRecord};
use super::modules::Purpose;
use super::recipe::Recipe;
use super::store::{Temporary, Work};
use super::{Boot, NetworkFiles, disk, initramfs, tiny};
use crate::error::{Context, Error, Result};
use crate::lane::model::KernelFlavour;
use crate::plan::model::LockState;

/// Version of the way the medium is made: a change of it makes every medium anew.
pub(super) const VERSION: u32 = 2;
/// Packages as files and as a tree, the squashfs, the medium.
pub(super) const BUILD_DISK: u64 = 3 << 30;

/// What is in the live system: for partitions, file systems, boot loaders, addresses, device names; and the tools that make
/// the medium.
const PACKAGES: &[&str] = &[
    "busybox",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "kmod",
    "mtools",
    "squashfs-tools",
    "udev",
    "udhcpc",
    "xorriso",
    "zstd",
];

/// The time that everything on the medium has, 2024-01-01: always the same, and in nobody's future.
const EPOCH: &str = "1704067200";

/// What is made: the medium, and the same as a kernel and initrds, for machines that boot from the network.
const MEDIUM: &str = "installer.iso";
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs";
/// The live system in an archive of its own, which the kernel unpacks beside the initramfs.
const LIVE_INITRD: &str = "live.cpio";
const SQUASHFS: &str = "live.squashfs";

/// Where the agent stands in the live system.
const AGENT: &str = "usr/lib/bootproof/bootproof-agent";

/// The live system's own files beside packages.
const FILES: &[(&str, &str, u32)] = &[
    ("etc/hostname", "installer\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
    ("etc/machine-id", "", 0o644),
    ("usr/lib/bootproof/dhcp-event", include_str!("guest/dhcp-event"), 0o755),
];

/// Runs in the root: `$SOURCE_DATE_EPOCH` is the time of all files.
///
/// zstd: a squashfs is read once, by machines whose processor may be emulated, and decompressing it costs least of what is
/// small. GRUB brings the modules that our menu uses, its own for finding the medium included; on UEFI it asks for every
/// partition map that there is before it reads the menu, and complains on the console of each that is missing.
const SCRIPT: &str = r#"
cd /work
mksquashfs / iso/live.squashfs -noappend -no-progress -quiet -no-exports -comp zstd -Xcompression-level 9 -b 256K -wildcards -e \
  work 'proc/*' 'sys/*' 'dev/*' 'run/*' 'tmp/*' 'boot/*' 'var/cache/*' 'var/lib/apt/*' 'var/lib/dpkg/info/*' 'var/log/*' \
  usr/bin/xorriso usr/bin/mksquashfs usr/bin/mtools usr/share/grub 'usr/share/locale/*' >&2
grub-mkrescue --compress=no --fonts= --themes= --locales= \
  --install-modules="normal configfile linux echo test serial terminal smbios search search_label search_fs_uuid ls cat all_video iso9660 fat part_gpt part_msdos part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_plan part_sun part_sunpc reboot halt sleep" \
  --output=installer.iso iso -- -volid BOOTPROOF_LIVE -volume_date all_file_dates "=$SOURCE_DATE_EPOCH" >&2
"#;

/// The packages that are asked for: what installing takes, the kernel, and the recipe's own.
pub(super) fn packages(kernel: KernelFlavour, own: &[String]) -> BTreeSet<String> {
    let kernel = debian::kernel_package(kernel);
    PACKAGES.iter().map(|name| (*name).to_owned()).chain([kernel]).chain(own.iter().cloned()).collect()
}

/// Makes the medium, or looks at the one that exists.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    if let Recipe::Iso { path, .. } = &work.resolved.recipe {
        let record = disk::file_record(work.store, path)?;
        let boot = Boot::Medium { path: path.clone(), network: None };
        return Ok(work.record(record.sha256, LockState::NotNeeded, boot, None, Vec::new()));
    }
    let layer = debian::package_layer(work, Purpose::Medium).await?;
    let digest = work.resolved.digest(&layer.packages)?;
    if let Some(record) = tiny::existing(work, &digest, &layer.packages) {
        return Ok(record);
    }
    let place = work.store.built_folder(&digest);
    let temporary = work.store.temporary()?;
    let folder = temporary.path().join("image");
    fs::create_dir(&folder).infrastructure(|| format!("failed to make `{}`", folder.display()))?;
    make(work, &temporary, &layer, &folder).await?;
    let network = NetworkFiles {
        kernel: place.join(KERNEL),
        initrds: [INITRAMFS, LIVE_INITRD].map(|name| place.join(name)).into(),
        // As in the medium's own menu, but for the console, which is whose machine it is to say.
        parameters: ["bootproof.root=live:LABEL=BOOTPROOF_LIVE", "loglevel=4"].map(String::from).into(),
    };
    let boot = Boot::Medium { path: place.join(MEDIUM), network: Some(network) };
    let lock = work.resolved.lock_state(&layer.packages);
    let record = work.record(digest, lock, boot, None, layer.packages);
    index::write(&folder.join("image.json"), &record)?;
    work.store.publish(&folder, &place)?;
    Ok(record)
}

/// Makes medium, kernel and initrds in `folder`.
async fn make(work: &Work<'_>, temporary: &Temporary, layer: &Layer, folder: &Path) -> Result<()> {
    let agent = work
        .resolved
        .agent
        .as_ref()
        .ok_or_else(|| Error::infrastructure("a medium was to be made without its agent"))?;
    let ours = temporary.path().join("ours");
    let (into, agent, kernel, modules) =
        (ours.clone(), agent.path.clone(), layer.kernel.image.clone(), &layer.kernel.modules);
    lay_out(&into, &agent)?;
    let tree = ours.join("work/iso/boot");
    let context = || format!("failed to write to `{}`", tree.display());
    fs::create_dir_all(tree.join("grub")).infrastructure(context)?;
    fs::copy(kernel, tree.join(KERNEL)).infrastructure(context)?;
    fs::write(tree.join("grub/grub.cfg"), include_str!("guest/installer-grub.cfg")).infrastructure(context)?;
    initramfs::write(&tree.join(INITRAMFS), &agent, modules, crate::agent::APPLETS)?;
    for name in [KERNEL, INITRAMFS] {
        fs::copy(tree.join(name), folder.join(name)).infrastructure(context)?;
    }
    let (medium, squashfs) = (folder.join(MEDIUM), temporary.path().join(SQUASHFS));
    let files = temporary.path().join("ours.tar");
    Tool::new("tar")
        .args([Path::new("--create"), Path::new("--file"), &files, Path::new("--directory"), &ours])
        .args(["--owner=root:0", "--group=root:0", "."])
        .locked_by(temporary.lock())
        .succeed(work.cancel, "pack the medium's files")
        .await?;
    let scratch = temporary.path().join("mmdebstrap-medium");
    fs::create_dir(&scratch).infrastructure(|| format!("failed to make `{}`", scratch.display()))?;
    debian::open_to_mapped_users(&scratch, &work.store.folder(""))
        .infrastructure(|| format!("failed to open `{}` to other users", scratch.display()))?;
    work.stage("making the medium");
    let arguments = [
        format!("--mode={}", debian::mode()),
        "--variant=custom".into(),
        "--format=null".into(),
        "--skip=setup,update,cleanup,check/empty,output/dev".into(),
        format!("--setup-hook=tar-in {} /", layer.root_tar.display()),
        // Where mmdebstrap mounts the host's: the layer has none of it.
        "--setup-hook=mkdir -p \"$1/dev/pts\" \"$1/dev/shm\" \"$1/proc\" \"$1/sys\"".into(),
        format!("--customize-hook=tar-in {} /", files.display()),
        format!("--customize-hook=chroot \"$1\" /bin/sh -ec '{}'", SCRIPT.replace('\'', r"'\''")),
        format!("--customize-hook=download /work/{MEDIUM} {}", medium.display()),
        format!("--customize-hook=download /work/iso/{SQUASHFS} {}", squashfs.display()),
        String::new(),
        "/dev/null".into(),
    ];
    let finished = Tool::that_mounts("mmdebstrap")
        .args(&arguments)
        .env("TMPDIR", &scratch)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .locked_by(temporary.lock())
        .run(work.cancel, |_| {})
        .await?;
    if !finished.status.success() {
        return Err(failed("mmdebstrap", &format!("make the medium of image `{}`", work.request.name), &finished));
    }
    let archive = folder.join(LIVE_INITRD);
    tiny::blocking(move || initramfs::wrap(&archive, SQUASHFS, &squashfs)).await
}

/// Our files in the live system.
fn lay_out(folder: &Path, agent: &Path) -> Result<()> {
    let context = || format!("failed to lay out the live system's files in `{}`", folder.display());
    for (path, text, mode) in FILES {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all).infrastructure(context)?;
        fs::write(&path, text).infrastructure(context)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).infrastructure(context)?;
    }
    let place = folder.join(AGENT);
    fs::copy(agent, &place).infrastructure(context)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).infrastructure(context)?;
    for folder in [folder.join("usr/bin"), folder.join("usr/sbin")] {
        fs::create_dir_all(folder).infrastructure(context)?;
    }
    symlink("../lib/bootproof/bootproof-agent", folder.join("usr/bin/bootproof-agent")).infrastructure(context)?;
    symlink("../lib/bootproof/bootproof-agent", folder.join("usr/sbin/init")).infrastructure(context)?;
    // Written by the DHCP client.
    symlink("/run/resolv.conf", folder.join("etc/resolv.conf")).infrastructure(context)
}
