//! What a checkpoint depends on.

use serde::{Deserialize, Serialize};

use crate::lane::model::{ConsoleDevice, Firmware, Ready};
use crate::lane::units::Size;
use crate::proof::digest;

/// Everything that must be the same for a guest to go on where it was saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointKey {
    /// Of this format, and of how machines are laid out.
    pub version: u32,
    /// The image's own digest, which covers the agent in it.
    pub image: String,
    pub cpus: u32,
    pub memory: Size,
    pub firmware: Firmware,
    pub console: ConsoleDevice,
    /// As the kernel was told, networks and names left out.
    pub kernel_parameters: Vec<String>,
    /// When it counts as ready.
    pub ready: Ready,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// QEMU's own word for its version, and the program's digest.
    pub qemu: String,
    /// The host's processor where the guest sees it (KVM); empty where QEMU plays one of its own.
    pub processor: String,
    /// Of what speaks for us in the guest.
    pub agent: String,
}

impl CheckpointKey {
    /// 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        // Fields in a fixed order, and nothing that could fail to be expressed.
        digest::of_bytes(&serde_json::to_vec(self).expect("a key is plain data"))
    }
}

/// Model and features of the host's processor, of which a guest under KVM sees all.
pub fn host_processor() -> String {
    let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        let found = facts.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    ["model name", "stepping", "microcode", "flags"].map(line).join("; ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn key() -> CheckpointKey {
        CheckpointKey {
            version: 1,
            image: "sha256:1".into(),
            cpus: 1,
            memory: Size::gibibytes(1),
            firmware: Firmware::Bios,
            console: ConsoleDevice::Serial,
            kernel_parameters: vec!["quiet".into()],
            ready: Ready::default(),
            accelerator: "tcg".into(),
            qemu: "10".into(),
            processor: String::new(),
            agent: "a".into(),
        }
    }

    #[test]
    fn whatever_matters_changes_the_digest() {
        let key = key();
        let mut digests = vec![key.digest()];
        let changes: [fn(&mut CheckpointKey); 12] = [
            |key| key.version = 2,
            |key| key.image = "sha256:2".into(),
            |key| key.cpus = 2,
            |key| key.memory = Size::gibibytes(2),
            |key| key.firmware = Firmware::Uefi,
            |key| key.console = ConsoleDevice::Virtio,
            |key| key.kernel_parameters.push("debug".into()),
            |key| key.ready.markers.push("services.ready".into()),
            |key| key.accelerator = "kvm".into(),
            |key| key.qemu = "11".into(),
            |key| key.processor = "other".into(),
            |key| key.agent = "b".into(),
        ];
        for change in changes {
            let mut other = key.clone();
            change(&mut other);
            digests.push(other.digest());
        }
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
