//! `debian`: a disk image made from packages, in two layers.
//!
//! The *package layer* is what mmdebstrap makes of suite, packages and locked versions: a tar file, kept by exactly that. The
//! *final layer* is everything of ours: configuration, overlay, agent, file system. So a change of an overlay or of the
//! agent costs seconds, and lanes that ask for the same packages share the slow part.

use std::fs;
use std::path::{Path, PathBuf};

use super::command::Tool;
use super::index::ImageRecord;
use super::kernel::{self, Kernel};
use super::lock::Asked;
use super::modules::Purpose;
use super::recipe::Recipe;
use super::root_filesystem::{self, FinalLayer};
use super::sources::{self, Source};
use super::store::{Temporary, Work};
use super::{BaseDisk, DiskFormat, PackageVersion, apt, digest, index, packages, tiny, tools};
use crate::error::{Context, Error, Result};
use crate::lane::model::KernelFlavour;
use crate::plan::model::ImageSource;

/// Version of the package layer: a change of it makes every layer anew.
const LAYER_VERSION: u32 = 2;
/// The label that stage 1 finds the root file system by: a device's name changes when a disk is added.
pub(super) const ROOT_LABEL: &str = "bootproof-root";
/// The installed size of a package layer with its tar file, and of the disk made of it, at most.
pub(super) const BUILD_DISK_BASE: u64 = 2 << 30;

/// Stands in for an initramfs generator, which kernel packages depend on: our initramfs comes from elsewhere, and
/// generating one on every installation takes long.
const STAND_IN: &str = "bootproof-initramfs";
const STAND_IN_STATUS: &str = "\
Package: bootproof-initramfs
Status: install ok installed
Priority: optional
Section: kernel
Maintainer: bootproof
Architecture: all
Version: 1
Provides: linux-initramfs-tool
Description: stands in for an initramfs generator
";

/// What every image has beside its own packages: an init, device management, names that resolve, a look at the network.
fn base_packages(asked: &Asked) -> Vec<String> {
    if asked.source == ImageSource::Iso {
        // All that is in a live system stands in its own list.
        return Vec::new();
    }
    // One kernel: the recipe's own stands among the packages.
    let generic = asked.packages.contains(&kernel_package(KernelFlavour::Generic));
    let kernel = (!generic).then(|| kernel_package(KernelFlavour::Cloud));
    ["systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "libnss-myhostname"]
        .into_iter()
        .map(String::from)
        .chain(kernel)
        .collect()
}

/// The package that brings the distribution's newest kernel.
pub(super) fn kernel_package(flavour: KernelFlavour) -> String {
    let architecture = sources::architecture();
    match flavour {
        KernelFlavour::Generic => format!("linux-image-{architecture}"),
        KernelFlavour::Cloud => format!("linux-image-cloud-{architecture}"),
    }
}

fn wanted_packages(asked: &Asked) -> Vec<String> {
    base_packages(asked).into_iter().chain(asked.packages.iter().cloned()).collect()
}

/// What of mmdebstrap's log tells how far it is.
const STAGES: &[&str] = &["running apt-get update", "downloading", "extracting", "installing", "creating tarball"];

/// Files that no machine under test reads.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/boot/System.map-*",
];

/// Makes the image.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    let Recipe::Debian { files, commands, size, .. } = &work.resolved.recipe else {
        return Err(Error::infrastructure("a recipe of another kind reached the builder of `debian` images"));
    };
    let layer = package_layer(work, purpose(work)).await?;
    let digest = work.resolved.digest(&layer.packages)?;
    if let Some(record) = tiny::existing(work, &digest, &layer.packages) {
        return Ok(record);
    }
    let temporary = work.store.temporary()?;
    let disk = temporary.path().join("disk.raw");
    let final_layer =
        FinalLayer { root_tar: &layer.root_tar, files: files.as_deref(), commands, size: *size, disk: &disk };
    root_filesystem::make(work, &temporary, final_layer).await?;
    let parameters = vec![format!("bootproof.root=LABEL={ROOT_LABEL}"), "rw".into()];
    let place = work.store.built_folder(&digest).join("disk.raw");
    let base = BaseDisk { path: place, format: DiskFormat::Raw, virtual_size: *size };
    let disk = Some((disk.as_path(), base));
    tiny::assemble(work, digest, layer.kernel, parameters, disk, layer.packages).await
}

/// A kernel for real hardware has an initramfs for real hardware.
pub(super) fn purpose(work: &Work<'_>) -> Purpose {
    let generic = kernel_package(KernelFlavour::Generic);
    let is_generic = work.resolved.asked.as_ref().is_some_and(|asked| asked.packages.contains(&generic));
    if is_generic { Purpose::Installed } else { Purpose::Virtual }
}

/// A package layer in the store.
pub(super) struct Layer {
    pub root_tar: PathBuf,
    pub kernel: Kernel,
    pub packages: Vec<PackageVersion>,
}

impl Layer {
    fn load(folder: &Path) -> Option<Self> {
        let root_tar = folder.join("root.tar");
        Some(Self {
            kernel: kernel::load(&folder.join("kernel"))?,
            packages: index::read(&folder.join("packages.json"))?,
            root_tar: root_tar.is_file().then_some(root_tar)?,
        })
    }
}

/// Finds the package layer, or makes it.
pub(super) async fn package_layer(work: &Work<'_>, purpose: Purpose) -> Result<Layer> {
    let Some(asked) = &work.resolved.asked else {
        return Err(Error::infrastructure("a debian image asks for no packages"));
    };
    let key = digest::of_value(&(LAYER_VERSION, asked, base_packages(asked), LEFT_OUT, &work.resolved.wanted))?;
    let key = key.trim_start_matches("sha256:");
    let place = work.store.folder("layers").join(key);
    if let Some(layer) = Layer::load(&place) {
        return Ok(layer);
    }
    let turn = format!("layer-{key}");
    let _turn = work.store.turn(&turn, &work.request.name, work.progress, work.cancel).await?;
    if let Some(layer) = Layer::load(&place) {
        return Ok(layer);
    }
    let temporary = work.store.temporary()?;
    let layer = temporary.path().join("layer");
    fs::create_dir(&layer).infrastructure(|| format!("failed to make `{}`", layer.display()))?;
    work.stage(&format!("installing {} packages of {} and what they need", asked.packages.len(), asked.suite));
    let tar = layer.join("root.tar");
    run_mmdebstrap(work, &temporary, asked, &tar).await?;
    work.stage("taking the kernel out of the package layer");
    take_out(work, &temporary, purpose, &layer).await?;
    work.store.publish(&layer, &place)?;
    Layer::load(&place)
        .ok_or_else(|| Error::infrastructure(format!("failed to read back the package layer `{}`", place.display())))
}

/// The packages that the image lock gets for this image: the newest, resolved without installing anything. (mmdebstrap's own
/// simulation leaves out the essential packages and runs no hooks.)
pub(super) async fn resolve(work: &Work<'_>) -> Result<Vec<PackageVersion>> {
    let Some(asked) = &work.resolved.asked else { return Ok(Vec::new()) };
    work.stage(&format!("resolving {} packages of {}", asked.packages.len(), asked.suite));
    check_keyrings(&sources::for_suite(&asked.suite)?)?;
    let archive = apt::Archive::refreshed(work.store, &asked.suite, STAND_IN_STATUS, work.cancel).await?;
    let packages = wanted_packages(asked);
    archive.simulate_install(&packages, &asked.suite, work.cancel).await
}

/// Runs mmdebstrap over the host's sources; all that it makes stays below the temporary folder.
async fn run_mmdebstrap(work: &Work<'_>, temporary: &Temporary, asked: &Asked, tar: &Path) -> Result<()> {
    let suite = asked.suite.as_str();
    let sources = sources::for_suite(suite)?;
    check_keyrings(&sources)?;
    let no_way = || Error::blocked(tools::NO_WAY_INTO_A_ROOT).hint(tools::WAYS_INTO_A_ROOT);
    if !tools::can_enter_a_root() {
        return Err(no_way());
    }
    let context = || format!("failed to prepare `{}`", temporary.path().display());
    let mut arguments: Vec<String> = vec![
        format!("--mode={}", mode()),
        "--variant=minbase".into(),
        format!("--include={}", wanted_packages(asked).join(",")),
        format!("--setup-hook=cat >> \"$1/var/lib/dpkg/status\" <<'STATUS'\n{STAND_IN_STATUS}\nSTATUS"),
        // Nobody needs a build's own file to survive a power cut; the machine under test gets dpkg's defaults back.
        "--dpkgopt=force-unsafe-io".into(),
        "--customize-hook=rm -f \"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap\" \"$1/etc/apt/apt.conf.d/99mmdebstrap\"".into(),
        // Device nodes are the guest kernel's to make, and no one but root can unpack them.
        "--skip=cleanup/reproducible,output/dev".into(),
    ];
    arguments.extend(LEFT_OUT.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    arguments.extend(host_apt_options(work).await?.into_iter().map(|option| format!("--aptopt={option}")));
    if let Some(wanted) = &work.resolved.wanted {
        // A pin to a version that is gone is ignored, so one pass takes what is left of the lock and the newest else.
        let preferences = temporary.path().join("preferences");
        let text: String = wanted
            .iter()
            .map(|(name, version)| format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n"))
            .collect();
        fs::write(&preferences, text).infrastructure(context)?;
        let inside = "/etc/apt/preferences.d/bootproof-lock";
        arguments.push(format!("--setup-hook=upload {} {inside}", preferences.display()));
        arguments.push(format!("--customize-hook=rm -f \"$1{inside}\""));
    }
    arguments.extend(["--format=tar".into(), suite.into(), tar.display().to_string()]);
    arguments.extend(sources.iter().map(Source::line));
    let scratch = temporary.path().join("mmdebstrap");
    fs::create_dir_all(&scratch).infrastructure(context)?;
    open_to_mapped_users(&scratch, work.store.folder("").as_path()).infrastructure(context)?;
    let image = &work.request.name;
    let finished = Tool::that_mounts("mmdebstrap")
        .args(&arguments)
        .env("TMPDIR", &scratch)
        .locked_by(temporary.lock())
        .run(work.cancel, |line| {
            let stage = line.strip_prefix("I: ").unwrap_or_default();
            if STAGES.iter().any(|known| stage.starts_with(known)) {
                work.progress.stage(image, stage.trim().trim_end_matches("..."));
            }
        })
        .await?;
    if finished.status.success() {
        return Ok(());
    }
    if let Some(line) = finished.stderr.iter().find(|line| line.contains("Unable to locate package")) {
        return Err(apt::unknown_package(suite, line));
    }
    if finished.stderr.iter().any(|line| line.contains("unable to pick chroot mode")) {
        return Err(no_way().with_source(finished.tail()));
    }
    Err(apt::unreachable_archive(
        &format!("install the packages of image `{image}`"),
        "mmdebstrap",
        &sources,
        &finished,
    ))
}

/// As root there is no need of tricks; else mmdebstrap picks what the host allows: user namespaces, then fakechroot.
pub(super) fn mode() -> &'static str {
    if tools::is_root() { "root" } else { "auto" }
}

/// In a user namespace mmdebstrap works as another user, who has to be able to reach its scratch folder.
pub(super) fn open_to_mapped_users(scratch: &Path, store: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if tools::is_root() {
        return Ok(());
    }
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o1777))?;
    for folder in scratch.ancestors().skip(1).take_while(|folder| folder.starts_with(store)) {
        let permissions = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, fs::Permissions::from_mode(permissions | 0o011))?;
    }
    Ok(())
}

fn check_keyrings(sources: &[Source]) -> Result<()> {
    let missing =
        sources.iter().filter_map(|source| source.signed_by.as_deref()).find(|path| !Path::new(path).exists());
    match missing {
        None => Ok(()),
        Some(path) => Err(Error::blocked(format!("the keyring `{path}`, which signs the packages, is not there"))
            .hint("`apt-get install debian-archive-keyring` gives Debian's, on Ubuntu too")),
    }
}

/// What the host's apt needs to be told to reach its archive: proxies, and mirrors that are frozen in time.
async fn host_apt_options(work: &Work<'_>) -> Result<Vec<String>> {
    if tools::find("apt-config").is_none() {
        return Ok(Vec::new());
    }
    let dumped = Tool::new("apt-config").args(["dump", "Acquire"]).run(work.cancel, |_| {}).await?;
    Ok(select_options(&dumped.stdout))
}

fn select_options(dump: &str) -> Vec<String> {
    const KEPT: &[&str] =
        &["Acquire::Check-Valid-Until ", "Acquire::Check-Date ", "Acquire::http::Proxy ", "Acquire::https::Proxy "];
    dump.lines()
        .filter(|line| KEPT.iter().any(|name| line.starts_with(name)) && !line.ends_with("\"\";"))
        .map(String::from)
        .collect()
}

/// Takes the kernel, its modules and the list of packages out of the layer's tar file.
async fn take_out(work: &Work<'_>, temporary: &Temporary, purpose: Purpose, layer: &Path) -> Result<()> {
    let tree = temporary.path().join("tree");
    fs::create_dir(&tree).infrastructure(|| format!("failed to make `{}`", tree.display()))?;
    let tar = layer.join("root.tar");
    Tool::new("tar")
        .args([Path::new("--extract"), Path::new("--no-same-owner"), Path::new("--file"), &tar])
        .args([Path::new("--directory"), &tree])
        .args(["--wildcards", "./boot/vmlinuz-*", "*lib/modules/*", "./var/lib/dpkg/status"])
        .locked_by(temporary.lock())
        .succeed(work.cancel, "read the package layer")
        .await?;
    let layer = layer.to_path_buf();
    tiny::blocking(move || {
        kernel::take(&tree, purpose, &layer.join("kernel"))?;
        let status = tree.join("var/lib/dpkg/status");
        let text = fs::read_to_string(&status).infrastructure(|| format!("failed to read `{}`", status.display()))?;
        index::write(&layer.join("packages.json"), &packages::from_dpkg_status(&text, STAND_IN))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reaches_the_archive_is_taken_over_from_the_hosts_apt() {
        let dump = "Acquire \"\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::http::Proxy \"http://p:1\";\n\
                    Acquire::https::Proxy \"\";\nAcquire::GzipIndexes \"true\";\n";
        assert_eq!(
            select_options(dump),
            ["Acquire::Check-Valid-Until \"false\";", "Acquire::http::Proxy \"http://p:1\";"]
        );
    }

    #[test]
    fn a_missing_keyring_is_named_before_anything_is_fetched() {
        let mut source = sources::for_suite("bookworm").unwrap().remove(0);
        source.signed_by = Some("/nowhere/keyring.gpg".into());
        assert!(check_keyrings(&[source]).unwrap_err().to_string().contains("/nowhere/keyring.gpg"));
    }
}
