//! Which kernel modules a guest needs to reach its agent and its disks, and in which order they load.
//!
//! A module itself says what it depends on (`.modinfo`), so neither `depmod` nor its tables are needed: kernels are
//! unpacked here, not installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::Elf;
use super::tools::how_to_get;
use crate::error::{Context, Error, Result};

/// What the agent's channel needs comes first, so that a guest can answer before the rest is loaded.
const NEEDED: &[&str] = &["virtio_pci", "virtio_console"];
/// Disks, network, the root file system and the power button: a kernel without one of them may still do.
const USEFUL: &[&str] = &["virtio_blk", "virtio_net", "ext4", "button", "evdev"];

/// What reaching a medium takes on any machine: file systems and their like.
const MEDIUM: &[&str] = &["isofs", "squashfs", "overlay", "loop"];
/// Drivers of what a medium, or an installed system's disk, may be behind: each is loaded where its device is.
const HARDWARE: &[&str] = &[
    "ahci",
    "ata_piix",
    "ata_generic",
    "nvme",
    "sd_mod",
    "sr_mod",
    "virtio_scsi",
    "usb_storage",
    "uas",
    "xhci_pci",
    "ehci_pci",
    "ohci_pci",
    "uhci_hcd",
    "mmc_block",
    "sdhci_pci",
    "hv_storvsc",
    "vmw_pvscsi",
    "mptspi",
    "mpt3sas",
    "megaraid_sas",
    "aacraid",
    "hpsa",
    "smartpqi",
];

/// What an initramfs is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Machines that QEMU starts: their devices are known.
    Virtual,
    /// A live medium, on whatever machine.
    Medium,
    /// A system that was installed, on whatever machine.
    Installed,
}

/// A module, uncompressed, ready to be put into an initramfs.
#[derive(Debug)]
pub(super) struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The modules of an initramfs.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// In load order.
    pub all: Vec<Module>,
    /// How many of them are loaded whatever devices there are: the first ones.
    pub always: usize,
}

/// The modules that stage 1 loads, in load order.
pub(super) fn choose(modules_folder: &Path, purpose: Purpose) -> Result<Modules> {
    let mut tree = Tree::read(modules_folder)?;
    for name in NEEDED {
        tree.load(name, true)?;
    }
    if purpose == Purpose::Medium {
        for name in MEDIUM {
            tree.load(name, true)?;
        }
    }
    for name in USEFUL {
        tree.load(name, false)?;
    }
    let always = tree.ordered.len();
    if purpose != Purpose::Virtual {
        for name in HARDWARE {
            tree.load(name, false)?;
        }
    }
    Ok(Modules { all: tree.ordered, always })
}

/// For each name that a device may have by which one of these modules is found (a pattern as of a shell), the modules to
/// load, in load order; by the module's own words.
pub(super) fn aliases(modules: &[Module]) -> Vec<(String, Vec<String>)> {
    let informations: BTreeMap<&str, Information> =
        modules.iter().filter_map(|module| Some((module.name.as_str(), Information::of(&module.bytes)?))).collect();
    let mut table = Vec::new();
    for module in modules {
        let Some(information) = informations.get(module.name.as_str()) else { continue };
        let mut wanted = BTreeSet::from([module.name.clone()]);
        let mut open = vec![module.name.clone()];
        while let Some(name) = open.pop() {
            let Some(information) = informations.get(name.as_str()) else { continue };
            for other in information.depends.iter().chain(&information.before).map(|name| normalise(name)) {
                if wanted.insert(other.clone()) {
                    open.push(other);
                }
            }
        }
        let chain: Vec<String> =
            modules.iter().map(|module| &module.name).filter(|name| wanted.contains(*name)).cloned().collect();
        // Aliases without a colon name a module, not a device.
        table.extend(
            information
                .aliases
                .iter()
                .filter(|alias| alias.contains(':') && !alias.contains(char::is_whitespace))
                .map(|alias| (alias.clone(), chain.clone())),
        );
    }
    table
}

/// `lib/modules/<release>` of one kernel.
struct Tree {
    folder: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Tree {
    fn read(folder: &Path) -> Result<Self> {
        let context = || format!("failed to read the kernel modules in `{}`", folder.display());
        let mut files = BTreeMap::new();
        for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
            let entry = entry.infrastructure(context)?;
            if let Some(name) = entry.file_type().is_file().then(|| module_name(entry.path())).flatten() {
                files.insert(name, entry.into_path());
            }
        }
        let builtin = fs::read_to_string(folder.join("modules.builtin"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { folder: folder.into(), files, builtin, seen: BTreeSet::new(), ordered: Vec::new() })
    }

    /// Puts a module behind everything that it depends on.
    fn load(&mut self, name: &str, needed: bool) -> Result<()> {
        let name = normalise(name);
        if self.builtin.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name).cloned() else {
            return if needed {
                Err(Error::infrastructure(format!("the kernel has no module `{name}`"))
                    .with_source(format!("looked in `{}`", self.folder.display()))
                    .hint("a guest kernel needs virtio's PCI and console drivers"))
            } else {
                Ok(())
            };
        };
        let bytes = read_module(&path)?;
        let information = Information::of(&bytes)
            .ok_or_else(|| Error::infrastructure(format!("`{}` is not a kernel module", path.display())))?;
        for dependency in &information.depends {
            self.load(dependency, true)?;
        }
        // A soft dependency is a wish: crc32c for ext4, say, which most kernels have built in.
        for dependency in &information.before {
            self.load(dependency, false)?;
        }
        self.ordered.push(Module { name, bytes });
        Ok(())
    }
}

/// The kernel takes `-` and `_` for the same in module names.
fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/fs/ext4/ext4.ko.xz` -> `ext4`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
    Some(normalise(name))
}

/// What a module says about itself.
#[derive(Debug, Default, PartialEq)]
struct Information {
    depends: Vec<String>,
    /// Soft dependencies that load before it.
    before: Vec<String>,
    /// Patterns of the devices that it drives.
    aliases: Vec<String>,
}

impl Information {
    fn of(module: &[u8]) -> Option<Self> {
        Some(Self::parse(Elf::parse(module)?.section(".modinfo")?))
    }

    /// `key=value` strings, each ended by a NUL.
    fn parse(section: &[u8]) -> Self {
        let mut information = Self::default();
        for entry in section.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            match entry.split_once('=') {
                Some(("depends", names)) => {
                    information.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(String::from));
                }
                Some(("alias", pattern)) => information.aliases.push(pattern.into()),
                Some(("softdep", rule)) => {
                    let mut before = false;
                    for word in rule.split_whitespace() {
                        match word.strip_suffix(':') {
                            Some(when) => before = when == "pre",
                            None if before => information.before.push(word.into()),
                            None => {}
                        }
                    }
                }
                _ => {}
            }
        }
        information
    }
}

/// A module's bytes, unpacked: the kernel of the guest need not be able to.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).infrastructure(|| format!("failed to read `{}`", path.display())),
    };
    let context = || format!("failed to unpack `{}`", path.display());
    let output = Command::new(tool).arg("-dc").arg(path).stdin(Stdio::null()).output().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            Error::blocked(format!("`{tool}` is not installed")).hint(how_to_get(tool))
        } else {
            Error::infrastructure(context()).with_source(error)
        }
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(
            Error::infrastructure(context()).with_source(format!("`{tool}` ended with {}: {said}", output.status))
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A minimal ELF file with a `.modinfo` section: header, section contents, then three section headers.
    pub fn fake_module(information: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let information = information.as_bytes();
        let (names_at, information_at) = (64, 64 + names.len());
        let table_at = (information_at + information.len()).next_multiple_of(8);
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes.extend(names);
        bytes.extend(information);
        bytes.resize(table_at + 3 * 64, 0);
        bytes[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
        for (offset, value) in [(58, 64u16), (60, 3), (62, 2)] {
            bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (index, name, offset, size) in
            [(1, 1u32, information_at, information.len()), (2, 10, names_at, names.len())]
        {
            let header = table_at + index * 64;
            bytes[header..header + 4].copy_from_slice(&name.to_le_bytes());
            bytes[header + 24..header + 32].copy_from_slice(&(offset as u64).to_le_bytes());
            bytes[header + 32..header + 40].copy_from_slice(&(size as u64).to_le_bytes());
        }
        bytes
    }

    /// A folder of modules as a kernel package has it: name -> `.modinfo`.
    pub fn fake_modules(folder: &Path, modules: &[(&str, &str)], builtin: &[&str]) {
        fs::create_dir_all(folder.join("kernel/drivers")).unwrap();
        for (name, information) in modules {
            fs::write(folder.join(format!("kernel/drivers/{name}.ko")), fake_module(information)).unwrap();
        }
        let builtin: String = builtin.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
        fs::write(folder.join("modules.builtin"), builtin).unwrap();
    }

    #[test]
    fn modules_come_after_what_they_depend_on_and_built_in_ones_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        fake_modules(
            folder.path(),
            &[
                ("virtio", "depends=virtio_ring\0"),
                ("virtio_ring", "license=GPL\0depends=\0"),
                ("virtio_pci", "depends=virtio_ring,virtio,virtio-pci-modern-dev\0"),
                ("virtio_pci_modern_dev", "depends=\0"),
                ("virtio_console", "depends=virtio\0"),
                ("ext4", "depends=jbd2\0softdep=pre: crc32c post: later\0"),
                ("jbd2", "depends=\0"),
                ("crc32c", "depends=\0"),
                ("later", "depends=\0"),
            ],
            &["virtio_blk"],
        );
        let names: Vec<_> =
            choose(folder.path(), Purpose::Virtual).unwrap().all.into_iter().map(|module| module.name).collect();
        assert_eq!(
            names,
            [
                "virtio_ring",
                "virtio",
                "virtio_pci_modern_dev",
                "virtio_pci",
                "virtio_console",
                "jbd2",
                "crc32c",
                "ext4"
            ]
        );
    }

    #[test]
    fn drivers_of_hardware_are_there_and_loaded_only_where_their_device_is() {
        let folder = tempfile::tempdir().unwrap();
        let plain = ["virtio_pci", "virtio_console", "isofs", "squashfs", "overlay", "loop", "libata"];
        let mut modules: Vec<(&str, &str)> = plain.iter().map(|name| (*name, "depends=\0")).collect();
        modules.push(("ahci", "alias=pci:v*d*sv*sd*bc01sc06i01*\0alias=ahci-name\0depends=libata\0"));
        fake_modules(folder.path(), &modules, &[]);
        let chosen = choose(folder.path(), Purpose::Medium).unwrap();
        let names: Vec<&str> = chosen.all.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names[chosen.always..], ["libata", "ahci"]);
        assert!(names[..chosen.always].contains(&"squashfs"));
        let expected = ("pci:v*d*sv*sd*bc01sc06i01*".to_owned(), vec!["libata".to_owned(), "ahci".to_owned()]);
        assert_eq!(aliases(&chosen.all), [expected]);
        let installed = choose(folder.path(), Purpose::Installed).unwrap();
        assert!(installed.all.iter().all(|module| module.name != "squashfs"));
    }

    #[test]
    fn a_kernel_without_the_console_driver_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fake_modules(folder.path(), &[], &["virtio_pci"]);
        assert!(choose(folder.path(), Purpose::Virtual).unwrap_err().to_string().contains("`virtio_console`"));
    }

    #[test]
    fn a_dependency_circle_ends() {
        let folder = tempfile::tempdir().unwrap();
        fake_modules(
            folder.path(),
            &[("virtio_console", "depends=virtio_pci\0"), ("virtio_pci", "depends=virtio_console\0")],
            &[],
        );
        assert_eq!(choose(folder.path(), Purpose::Virtual).unwrap().all.len(), 2);
    }
}
