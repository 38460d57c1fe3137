//! Kernel modules: `/etc/bootproof/modules` lists them in the order of loading.
//!
//! One a line: the file's path in the initramfs, then parameters for the module, all parted by white space. Empty lines and
//! lines that begin with `#` say nothing. A file whose name ends in `.gz`, `.xz` or `.zst` is unpacked by the kernel, where
//! that can.

use std::ffi::CString;
use std::fs::File;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::agent::say;

const LIST: &str = "/etc/bootproof/modules";

/// `MODULE_INIT_COMPRESSED_FILE` of the kernel's `linux/module.h`.
const COMPRESSED: i32 = 4;

/// The module that makes the agent's channel; those before it in the list are what it stands on.
const CHANNEL: &str = "/virtio_console.ko";

/// Loads what is listed. A module that cannot be loaded is said on the console; those after it are tried all the same.
///
/// `channel_only`: no more than the channel needs, for a machine whose commands need nothing else.
pub fn load_listed(channel_only: bool) {
    let list = match std::fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return say(&format!("failed to read `{LIST}`: {error}")),
    };
    for (path, parameters) in entries(&list) {
        if let Err(error) = load_module(path, &parameters) {
            say(&format!("failed to load the kernel module `{path}`: {error}"));
        }
        if channel_only && path.ends_with(CHANNEL) {
            return;
        }
    }
}

fn entries(list: &str) -> impl Iterator<Item = (&str, String)> {
    list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let path = words.next().filter(|path| !path.starts_with('#'))?;
        Some((path, words.collect::<Vec<_>>().join(" ")))
    })
}

/// Loads one module; one that is there already is fine.
pub fn load_module(path: &str, parameters: &str) -> std::io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    let compressed = [".gz", ".xz", ".zst"].iter().any(|suffix| path.ends_with(suffix));
    match finit_module(&file, &parameters, if compressed { COMPRESSED } else { 0 }) {
        // It is there already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // The file is there: it was opened. The kernel's own message, above, says which symbol.
        Err(Errno::NOENT) => Err(std::io::Error::other("it needs a symbol of a module that is not loaded before it")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn paths_and_parameters_are_told_apart() {
        let list = "# drivers\n\n/lib/virtio.ko\n  /lib/ext4.ko.xz  a=1   b=2 \n";
        let found: Vec<_> = entries(list).collect();
        assert_eq!(found, [("/lib/virtio.ko", String::new()), ("/lib/ext4.ko.xz", "a=1 b=2".into())]);
    }
}
