//! `tiny`: a kernel that is unpacked, not installed, and an initramfs with the agent as init.

use std::path::{Path, PathBuf};

use super::apt::Archive;
use super::command::Tool;
use super::digest;
use super::index::{self, ImageRecord};
use super::initramfs;
use super::kernel::{self, Kernel};
use super::modules::Purpose;
use super::recipe::{GivenKernel, Recipe};
use super::store::Work;
use super::{BaseDisk, Boot, PackageVersion, sources};
use crate::error::{Context, Error, ErrorKind, Result};

/// What a kernel need not do at boot in a machine that only carries the agent: its cryptography's self-tests alone take a
/// sixth of the boot under emulation. Virtual machine monitors that start in a blink (Kata Containers, Firecracker)
/// leave out the same. Images with a system in them boot as their system does.
const QUICK_BOOT: &[&str] = &["cryptomgr.notests", "no_timer_check", "tsc=reliable", "noreplace-smp"];

/// Makes the image.
pub(super) async fn build(work: &Work<'_>) -> Result<ImageRecord> {
    let Recipe::Tiny { kernel: given } = &work.resolved.recipe else {
        return Err(Error::infrastructure("a recipe of another kind reached the builder of `tiny` images"));
    };
    let (kernel, packages) = match given {
        Some(given) => (given_kernel(work, given).await?, Vec::new()),
        None => distribution_kernel(work).await?,
    };
    let digest = work.resolved.digest(&packages)?;
    match existing(work, &digest, &packages) {
        Some(record) => Ok(record),
        None => {
            let parameters = QUICK_BOOT.iter().map(|parameter| parameter.to_string()).collect();
            assemble(work, digest, kernel, parameters, None, packages).await
        }
    }
}

/// The packages that the image lock gets for `tiny`.
pub(super) async fn resolve(work: &Work<'_>) -> Result<Vec<PackageVersion>> {
    let archive = Archive::refreshed(work.store, &sources::host_suite(), "", work.cancel).await?;
    archive.newest_kernel(work.cancel).await?.ok_or_else(no_kernel)
}

/// An image of this digest that was made for another request: the same thing, whatever the lock said then.
pub(super) fn existing(work: &Work<'_>, digest: &str, packages: &[PackageVersion]) -> Option<ImageRecord> {
    let record: ImageRecord = index::read(&work.store.built_folder(digest).join("image.json"))?;
    let lock = work.resolved.lock_state(packages);
    (record.is_whole() && record.digest == digest)
        .then(|| work.record(record.digest, lock, record.boot, record.disk, record.packages))
}

/// Puts kernel and initramfs (and a finished disk) where the image of this digest belongs.
pub(super) async fn assemble(
    work: &Work<'_>,
    digest: String,
    kernel: Kernel,
    parameters: Vec<String>,
    disk: Option<(&Path, BaseDisk)>,
    packages: Vec<PackageVersion>,
) -> Result<ImageRecord> {
    let agent = work
        .resolved
        .agent
        .as_ref()
        .ok_or_else(|| Error::infrastructure("an image was to be made without its agent"))?;
    let place = work.store.built_folder(&digest);
    let temporary = work.store.temporary()?;
    let folder = temporary.path().join("image");
    let boot = Boot::Kernel {
        kernel: place.join("vmlinuz"),
        uncompressed_kernel: kernel.uncompressed.is_some().then(|| place.join("vmlinux")),
        initramfs: place.join("initramfs"),
        parameters,
    };
    let (disk_file, base) = disk.map(|(file, base)| (file.to_path_buf(), base)).unzip();
    let lock = work.resolved.lock_state(&packages);
    let record = work.record(digest, lock, boot, base, packages);
    let (into, agent, written) = (folder.clone(), agent.path.clone(), record.clone());
    blocking(move || {
        let context = || format!("failed to put an image together in `{}`", into.display());
        std::fs::create_dir(&into).infrastructure(context)?;
        copy(&kernel.image, &into.join("vmlinuz")).infrastructure(context)?;
        if let Some(uncompressed) = &kernel.uncompressed {
            copy(uncompressed, &into.join("vmlinux")).infrastructure(context)?;
        }
        initramfs::write(&into.join("initramfs"), &agent, &kernel.modules, crate::agent::APPLETS)?;
        if let Some(disk) = disk_file {
            std::fs::rename(disk, into.join("disk.raw")).infrastructure(context)?;
        }
        index::write(&into.join("image.json"), &written)
    })
    .await?;
    work.store.publish(&folder, &place)?;
    Ok(record)
}

/// Kernels are kept once: images hold links to them.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(|_| ()))
}

/// Work on files, away from the threads that wait for events.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.infrastructure(|| "a thread of the image builder ended early".into())?
}

async fn given_kernel(work: &Work<'_>, given: &GivenKernel) -> Result<Kernel> {
    let temporary = work.store.temporary()?;
    let into = temporary.path().join("kernel");
    let (image, modules, folder) = (given.kernel.clone(), given.modules.clone(), into.clone());
    let release = modules
        .as_deref()
        .and_then(Path::file_name)
        .map_or_else(|| "unknown".to_string(), |name| name.to_string_lossy().into_owned());
    blocking(move || kernel::take_files(&image, &release, modules.as_deref(), Purpose::Virtual, &folder)).await?;
    let digest = digest::of_file(&given.kernel)?;
    let place = work.store.folder("kernels").join(format!(
        "given-{}-{}",
        &digest["sha256:".len()..][..16],
        &work.resolved.recipe_digest["sha256:".len()..][..16]
    ));
    keep(work, &into, &place)
}

/// The distribution's kernel: the locked version while the archive has it, else the newest, else the host's own.
async fn distribution_kernel(work: &Work<'_>) -> Result<(Kernel, Vec<PackageVersion>)> {
    if let Some(wanted) = &work.resolved.wanted {
        let packages: Vec<PackageVersion> = wanted
            .iter()
            .map(|(name, version)| PackageVersion { name: name.clone(), version: version.clone() })
            .collect();
        if let Some(kernel) = kernel::load(&place_of(work, &packages)) {
            return Ok((kernel, packages));
        }
    }
    match from_archive(work).await {
        Ok(found) => Ok(found),
        Err(error) if error.kind() != ErrorKind::Blocked => Err(error),
        Err(error) => match host_kernel(work).await {
            Some(found) => {
                let text =
                    format!("the host's own kernel is used, the distribution's could not be had: {}", error.chain());
                work.progress.warning(&work.request.name, &text);
                Ok(found)
            }
            None => Err(error.hint("or name a kernel in the lane: `tiny = { kernel = \"...\", modules = \"...\" }`")),
        },
    }
}

async fn from_archive(work: &Work<'_>) -> Result<(Kernel, Vec<PackageVersion>)> {
    // The host's lists first, since they are there already. Where they lack something, or are so old that the archive
    // has moved on, a refreshed view of the same archive decides.
    let host = Archive::host();
    if std::env::var_os("BOOTPROOF_APT_SOURCES").is_none()
        && let Some(packages) = choose(work, &host, false).await?
    {
        match fetch(work, &host, &packages).await {
            Ok(kernel) => return Ok((kernel, packages)),
            Err(error) if error.kind() != ErrorKind::Blocked => return Err(error),
            Err(error) => tracing::debug!(error = %error.chain(), "the host's lists of packages do not do"),
        }
    }
    work.stage("refreshing the lists of packages");
    let refreshed = Archive::refreshed(work.store, &sources::host_suite(), "", work.cancel).await?;
    let packages = choose(work, &refreshed, true).await?.ok_or_else(no_kernel)?;
    let kernel = fetch(work, &refreshed, &packages).await?;
    Ok((kernel, packages))
}

/// The locked packages where this view has them; else, if drifting is allowed or there is no lock, the newest.
async fn choose(work: &Work<'_>, archive: &Archive, may_drift: bool) -> Result<Option<Vec<PackageVersion>>> {
    if let Some(wanted) = &work.resolved.wanted {
        if archive.has(wanted, work.cancel).await? {
            let packages =
                wanted.iter().map(|(name, version)| PackageVersion { name: name.clone(), version: version.clone() });
            return Ok(Some(packages.collect()));
        }
        if !may_drift {
            return Ok(None);
        }
    }
    archive.newest_kernel(work.cancel).await
}

async fn fetch(work: &Work<'_>, archive: &Archive, packages: &[PackageVersion]) -> Result<Kernel> {
    let place = place_of(work, packages);
    let name = place.file_name().map(|name| format!("kernel-{}", name.to_string_lossy())).unwrap_or_default();
    let _turn = work.store.turn(&name, &work.request.name, work.progress, work.cancel).await?;
    if let Some(kernel) = kernel::load(&place) {
        return Ok(kernel);
    }
    let temporary = work.store.temporary()?;
    work.stage(&format!("fetching {}", packages[0].name));
    let files = archive.download(packages, temporary.path(), work.cancel).await?;
    let tree = temporary.path().join("tree");
    for file in &files {
        Tool::new("dpkg-deb")
            .args([Path::new("-x"), file, &tree])
            .locked_by(temporary.lock())
            .succeed(work.cancel, "unpack the kernel's package")
            .await?;
    }
    let into = temporary.path().join("kernel");
    let folder = into.clone();
    blocking(move || kernel::take(&tree, Purpose::Virtual, &folder)).await?;
    keep(work, &into, &place)
}

fn keep(work: &Work<'_>, made: &Path, place: &Path) -> Result<Kernel> {
    work.store.publish(made, place)?;
    kernel::load(place)
        .ok_or_else(|| Error::infrastructure(format!("failed to read back the kernel in `{}`", place.display())))
}

fn place_of(work: &Work<'_>, packages: &[PackageVersion]) -> PathBuf {
    let image = packages.iter().find(|package| package.name.starts_with("linux-image-")).or(packages.first());
    let name = image.map(|package| format!("{}_{}", package.name, package.version)).unwrap_or_default();
    work.store.folder("kernels").join(name.replace('/', "_"))
}

/// A kernel that is installed on the host and that we may read.
async fn host_kernel(work: &Work<'_>) -> Option<(Kernel, Vec<PackageVersion>)> {
    let (image, release) = kernel::newest_image(Path::new("/boot")).ok()?;
    let modules = Path::new("/lib/modules").join(&release);
    if std::fs::File::open(&image).is_err() || !modules.is_dir() {
        return None;
    }
    let temporary = work.store.temporary().ok()?;
    let into = temporary.path().join("kernel");
    let folder = into.clone();
    let name = release.clone();
    blocking(move || kernel::take_files(&image, &name, Some(&modules), Purpose::Virtual, &folder)).await.ok()?;
    let kernel = keep(work, &into, &work.store.folder("kernels").join(format!("host-{release}"))).ok()?;
    Some((kernel, vec![PackageVersion { name: "host-kernel".into(), version: release }]))
}

fn no_kernel() -> Error {
    Error::blocked("the host's package archive has no kernel for virtual machines")
        .hint("bootproof looks for `linux-image-cloud-*`, `linux-image-virtual` and their like")
}

/// How much disk the kernel, unpacked, and the initramfs take.
pub(super) const BUILD_DISK: u64 = 300 << 20;
