//! Drivers for the devices that are there: by the names that devices give themselves (`modalias`).
//!
//! The initramfs has a table of its own (`/etc/bootproof/module-aliases`): a pattern and the modules to load for it, in
//! load order. A live system has the kernel's modules and `modprobe`, which knows all the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::modules::load_module;
use crate::agent::say;

const TABLE: &str = "/etc/bootproof/module-aliases";
/// Loaded for features of processors: ciphers and a hypervisor, seconds of an emulated processor's time.
const NO_DEVICE: &str = "cpu:";

/// The initramfs's table.
pub struct Drivers {
    /// Pattern, and the modules' files in load order.
    table: Vec<(String, Vec<String>)>,
    loaded: BTreeSet<String>,
}

impl Drivers {
    /// Empty where the initramfs has no table: all its modules are loaded then.
    pub fn listed() -> Self {
        Self::parse(&fs::read_to_string(TABLE).unwrap_or_default())
    }

    fn parse(table: &str) -> Self {
        let table = table
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().map(str::to_owned);
                Some((words.next()?, words.collect()))
            })
            .collect();
        Self { table, loaded: BTreeSet::new() }
    }

    /// Loads what drives the devices that are there now. To be called again when others have appeared.
    pub fn load_for_devices(&mut self) {
        if self.table.is_empty() {
            return;
        }
        for device in modaliases(Path::new("/sys/devices")) {
            for path in self.wanted(&device) {
                if let Err(error) = load_module(&path, "") {
                    say(&format!("failed to load the kernel module `{path}`: {error}"));
                }
            }
        }
    }

    /// The modules of a device that have not been loaded yet.
    fn wanted(&mut self, device: &str) -> Vec<String> {
        let Self { table, loaded } = self;
        let matching = table.iter().filter(|(pattern, _)| matches(pattern, device)).flat_map(|(_, paths)| paths);
        matching.filter(|path| loaded.insert((*path).clone())).cloned().collect()
    }
}

/// Loads the drivers of every device by `modprobe`: for a live system.
pub fn by_modprobe() {
    let devices = modaliases(Path::new("/sys/devices"));
    // Devices without a driver are the rule, so that its status says nothing.
    let started = Command::new("/sbin/modprobe")
        .args(["--all", "--quiet", "--use-blacklist"])
        .args(devices)
        .stdin(Stdio::null())
        .status();
    if let Err(error) = started {
        say(&format!("failed to load the devices' drivers: {error}"));
    }
}

/// What the devices below a folder call themselves, each name once.
fn modaliases(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Of the entry itself: links lead around in circles.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if entry.file_name() == "modalias"
                && let Ok(name) = fs::read_to_string(entry.path())
            {
                let name = name.trim();
                if !name.is_empty() && !name.starts_with(NO_DEVICE) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}

/// Whether a shell's pattern matches: `*`, `?` and `[...]`, as modules' aliases have them.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut in_text) = (0, 0);
    // Where to go on when it does not match: behind the last star, one character further.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let next = match pattern.get(at) {
            None if in_text == text.len() => return true,
            Some(b'*') => {
                retry = Some((at + 1, in_text));
                at += 1;
                continue;
            }
            Some(_) if in_text < text.len() => one(&pattern[at..], text[in_text]),
            _ => None,
        };
        match (next, retry) {
            (Some(length), _) => {
                at += length;
                in_text += 1;
            }
            (None, Some((behind, from))) if from < text.len() => {
                retry = Some((behind, from + 1));
                (at, in_text) = (behind, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether the pattern's first element matches this byte: how long the element is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|byte| *byte == b']')?;
            let set = &pattern[1..end];
            let mut inside = false;
            let mut index = 0;
            while index < set.len() {
                match set.get(index..index + 3) {
                    Some([from, b'-', to]) => {
                        inside |= (*from..=*to).contains(&byte);
                        index += 3;
                    }
                    _ => {
                        inside |= set[index] == byte;
                        index += 1;
                    }
                }
            }
            inside.then_some(end + 1)
        }
        plain => (plain == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shells_do() {
        for (pattern, text, expected) in [
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc02sc00i00", false),
            ("scsi:t-0x05*", "scsi:t-0x05", true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0951p1666d0110dc00dsc00dp00ic08isc06ip50in00", true),
            ("usb:v0421p0019d059[2-9]dc*", "usb:v0421p0019d0594dc00", true),
            ("usb:v0421p0019d059[2-9]dc*", "usb:v0421p0019d0591dc00", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("*ab*ab", "xabyabab", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn modules_are_loaded_once_and_in_their_order() {
        let mut drivers = Drivers::parse("scsi:t-0x05* /cdrom.ko /sr_mod.ko\nscsi:t-0x00* /sd_mod.ko\n");
        assert_eq!(drivers.wanted("scsi:t-0x05"), ["/cdrom.ko", "/sr_mod.ko"]);
        assert!(drivers.wanted("scsi:t-0x05").is_empty());
        assert_eq!(drivers.wanted("scsi:t-0x00"), ["/sd_mod.ko"]);
    }
}
