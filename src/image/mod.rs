//! Where a machine's bits come from: finds, builds, names and remembers images.
//!
//! Owns everything below `<work root>/images`, the image lock (`profiles/images.lock`), and what goes into an image beside
//! packages: the initramfs, the agent, the overlay, the base configuration.
//!
//! What always holds:
//! - An image is named by what it was made from: its recipe, the overlay's files, the agent and the resolved package
//!   versions. A machine never writes to it: it runs on an overlay of its own.
//! - What stands at an image's final path is whole. Everything is made in a temporary folder of the same store and moved
//!   into place in one rename; a build that was killed leaves only a temporary folder, which the next one removes.
//! - Each image and each package layer is built by one process at a time; whoever waits then finds it built.
//! - Versions come from the image lock as far as the archive still has them; any difference is told (`Drifted`), and is
//!   an error where the caller asked for the lock and nothing else.

mod agent_binary;
mod apt;
mod bundle;
mod command;
mod debian;
mod digest;
mod disk;
mod elf;
mod index;
mod initramfs;
mod iso;
mod kernel;
mod lock;
mod modules;
mod nix;
mod overlay;
mod packages;
mod planned;
mod provenance;
mod recipe;
mod request;
mod root_filesystem;
mod sources;
mod store;
mod tiny;
mod tools;

pub use agent_binary::agent_binary;
pub use bundle::{BUNDLE_FILE, BuiltBundle};
pub use index::ImageRecord;
pub use lock::{Asked, ImageLock, LOCK_FILE, LockedImage};
pub(crate) use nix::command as nix_command;
pub use packages::PackageVersion;
pub use planned::plan_image;
pub use request::{
    BaseDisk, Boot, BuiltImage, DiskFormat, HostShare, ImageProgress, ImageRequest, NetworkFiles, Silent,
};
pub use store::{ImageStore, StoredImage, is_free_of_mounts};
pub use tools::missing_tools;
