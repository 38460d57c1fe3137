//! What is asked of the store and what it gives back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::PackageVersion;
use crate::lane::model::Image;
use crate::nix_store::Provenance;
use crate::plan::model::{ImageSource, LockState};

/// One image that a lane wants.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// The lane's name for it; for messages, and for the lock's readers.
    pub name: String,
    pub image: Image,
    /// Which of the image's recipes.
    pub source: ImageSource,
    /// What relative paths in the recipe are relative to, before the project's root is tried: the lane file's folder.
    pub base_directory: PathBuf,
    /// Versions other than the image lock's are an error.
    pub locked: bool,
}

impl ImageRequest {
    /// The built-in `tiny`: the distribution's kernel and the agent.
    pub fn tiny(base_directory: PathBuf) -> Self {
        Self {
            name: "tiny".into(),
            image: Image { tiny: Some(Default::default()), ..Image::default() },
            source: ImageSource::Tiny,
            base_directory,
            locked: false,
        }
    }
}

/// An image that is there, whole, to be used read-only.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltImage {
    pub source: ImageSource,
    /// `sha256:<hex>` of recipe, overlay, agent and resolved versions; of the file itself for `disk`.
    pub digest: String,
    pub lock: LockState,
    /// Made just now, not found.
    pub built: bool,
    pub boot: Boot,
    /// The disk to lay an overlay on; `tiny` has none.
    pub disk: Option<BaseDisk>,
    /// Folders of the host that the guest reads.
    pub shares: Vec<HostShare>,
    /// Resolved versions, sorted by name; empty where no packages are involved.
    pub packages: Vec<PackageVersion>,
    /// For an image in the Nix store, what the store says of it.
    pub provenance: Option<Provenance>,
}

impl BuiltImage {
    /// Stands for an image that is not built, where nothing is started: its files have the names of what they would be.
    pub fn unbuilt(name: &str, source: ImageSource) -> Self {
        let file = |what: &str| PathBuf::from(format!("/not-built/{name}/{what}"));
        let kernel = || Boot::Kernel {
            kernel: file("kernel"),
            uncompressed_kernel: None,
            initramfs: file("initramfs"),
            parameters: Vec::new(),
        };
        let boot = match source {
            ImageSource::Tiny | ImageSource::Debian => kernel(),
            ImageSource::Iso => Boot::Medium { path: file("medium.iso"), network: None },
            ImageSource::Nix | ImageSource::Disk => Boot::Firmware,
        };
        let has_disk = !matches!(source, ImageSource::Tiny | ImageSource::Iso);
        Self {
            source,
            digest: String::new(),
            lock: LockState::NotNeeded,
            built: false,
            boot,
            disk: has_disk.then(|| BaseDisk { path: file("disk"), format: DiskFormat::Raw, virtual_size: 0 }),
            shares: Vec::new(),
            packages: Vec::new(),
            provenance: None,
        }
    }
}

/// How a machine gets from power-on into the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Boot {
    /// QEMU loads the kernel itself.
    Kernel {
        /// A bzImage: any firmware starts it.
        kernel: PathBuf,
        /// The same kernel as an ELF file with a PVH entry, where there is one: no time goes into unpacking it in the
        /// guest. Only BIOS machines can start it.
        uncompressed_kernel: Option<PathBuf>,
        initramfs: PathBuf,
        /// What the image needs on the kernel's command line.
        parameters: Vec<String>,
    },
    /// The firmware finds a boot loader on the disk.
    Firmware,
    /// The firmware finds a boot loader on a medium, where the machine's disks have none.
    Medium {
        path: PathBuf,
        /// The same without the medium, for machines that boot from the network; of our own media only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkFiles>,
    },
}

/// What a machine boots over the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFiles {
    /// A bzImage.
    pub kernel: PathBuf,
    /// Laid over each other in this order.
    pub initrds: Vec<PathBuf>,
    /// What the image needs on the kernel's command line.
    pub parameters: Vec<String>,
}

impl NetworkFiles {
    /// Of an image whose kernel needs nothing but its initrds; `None` where a disk or a medium belongs to it.
    pub fn of(image: &BuiltImage) -> Option<Self> {
        match &image.boot {
            Boot::Kernel { kernel, initramfs, parameters, .. } if image.disk.is_none() && image.shares.is_empty() => {
                Some(Self { kernel: kernel.clone(), initrds: vec![initramfs.clone()], parameters: parameters.clone() })
            }
            Boot::Medium { network, .. } => network.clone(),
            Boot::Kernel { .. } | Boot::Firmware => None,
        }
    }
}

/// A folder that the guest reads through 9p, and never writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostShare {
    /// What the guest mounts it by.
    pub tag: String,
    /// `None`: an empty folder of the machine's own.
    pub path: Option<PathBuf>,
}

/// The disk that machines of this image lay their overlay on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseDisk {
    pub path: PathBuf,
    pub format: DiskFormat,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    /// QEMU's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// Hears what the store is doing; nothing here is a fact of a run.
pub trait ImageProgress: Send + Sync {
    /// A stage of work began (`fetching linux-image-6.1.0-56-cloud-amd64`).
    fn stage(&self, image: &str, what: &str);
    /// A stage has got so far: `done` of `total` parts, and what was said last. Comes often.
    fn advance(&self, _image: &str, _done: u64, _total: u64, _last: &str) {}
    /// Something that the user has to know although the work goes on.
    fn warning(&self, image: &str, text: &str);
}

/// For callers that show nothing.
pub struct Silent;

impl ImageProgress for Silent {
    fn stage(&self, _image: &str, _what: &str) {}
    fn warning(&self, _image: &str, _text: &str) {}
}
