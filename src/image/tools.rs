//! Which commands making an image needs, and which package gives them.

use std::env;
use std::path::PathBuf;

use crate::event::Finding;
use crate::plan::model::ImageSource;

/// Command, Debian's and Ubuntu's package for it.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("fakeroot", "fakeroot"),
    ("lz4", "lz4"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("nix", "nix-bin"),
    ("qemu-img", "qemu-utils"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// The full path of a command; `sbin` is searched even where the user's path leaves it out.
pub(super) fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(command))
        .find(|candidate| candidate.is_file())
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(super) fn how_to_get(command: &str) -> String {
    match PACKAGES.iter().find(|(name, _)| *name == command) {
        Some(("nix", _)) => "install Nix (https://nixos.org/download), or pick another source with `--images`".into(),
        Some((_, package)) => format!("`apt-get install {package}` gives it on Debian and Ubuntu"),
        None => format!("install the package that gives `{command}`"),
    }
}

/// Commands that making an image of this source needs and the host does not have, each with its remedy. Empty when all
/// is there. A tiny image made of a given kernel, and images that are built already, need less than this says.
///
/// What an installer's medium takes beside packages (GRUB, xorriso, squashfs tools) is installed into its own root, and run
/// there: the host needs no more than for a disk.
pub fn missing_tools(source: ImageSource) -> Vec<Finding> {
    let from_packages = matches!(source, ImageSource::Debian | ImageSource::Iso);
    let mut wanted = match source {
        ImageSource::Tiny => vec!["apt-get", "apt-cache", "dpkg-deb"],
        ImageSource::Debian => vec!["mmdebstrap", "apt-get", "tar", "mkfs.ext4"],
        ImageSource::Nix => vec!["nix"],
        ImageSource::Disk => vec!["qemu-img"],
        ImageSource::Iso => vec!["mmdebstrap", "apt-get", "tar"],
    };
    if from_packages {
        wanted.push(if is_root() { "unshare" } else { "fakeroot" });
    }
    let mut findings: Vec<Finding> = wanted
        .into_iter()
        .filter(|command| find(command).is_none())
        .map(|command| finding(format!("`{command}` is not installed"), how_to_get(command)))
        .collect();
    if from_packages && !can_enter_a_root() {
        findings.push(finding(NO_WAY_INTO_A_ROOT.into(), WAYS_INTO_A_ROOT.into()));
    }
    findings
}

fn finding(message: String, remedy: String) -> Finding {
    Finding { check: "image-tools".into(), blocking: true, message, remedy: Some(remedy) }
}

pub(super) const NO_WAY_INTO_A_ROOT: &str =
    "packages cannot be installed into an image without root: neither user namespaces nor fakechroot are there";
pub(super) const WAYS_INTO_A_ROOT: &str = "`apt-get install uidmap` (and lines for this user in /etc/subuid and \
     /etc/subgid), or `apt-get install fakechroot`, or run it as root";

/// Whether mmdebstrap has a way to work as root inside an image: as root, by a user namespace with more than one user, or
/// by fakechroot.
pub(super) fn can_enter_a_root() -> bool {
    is_root() || find("fakechroot").is_some() || (find("newuidmap").is_some() && has_subordinate_users())
}

/// Whether anybody has subordinate users at all: whom they belong to is told by mmdebstrap itself.
fn has_subordinate_users() -> bool {
    std::fs::read_to_string("/etc/subuid").is_ok_and(|text| text.lines().any(|line| line.split(':').count() == 3))
}
