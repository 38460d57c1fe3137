//! The machine's disks, and which of them the plan means.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::mark;
use super::runner::Runner;
use crate::provisioning::{Disk, DiskSelector};

/// Kinds of block devices that are nobody's disk.
const NO_DISK: &[&str] = &["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock"];

/// A disk, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisk {
    /// `/dev/vda`.
    pub device: PathBuf,
    pub disk: Disk,
    pub read_only: bool,
    /// An installation of ours was begun on it and did not come to its end.
    pub unfinished: bool,
}

/// Every disk but the medium that the machine was booted from. `root`: `/`, but for tests.
pub fn find(root: &Path, runner: &dyn Runner) -> Result<Vec<FoundDisk>, String> {
    let folder = root.join("sys/block");
    let entries = fs::read_dir(&folder).map_err(|error| format!("failed to read `{}`: {error}", folder.display()))?;
    let names = by_id_names(root);
    let medium = medium_device(root);
    let mut disks = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_medium = medium.as_deref().is_some_and(|medium| medium == name || is_partition_of(medium, &name));
        if is_medium || NO_DISK.iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let read = |file: &str| {
            let text = fs::read_to_string(entry.path().join(file)).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let size = read("size").and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) * 512;
        if size == 0 {
            // A card reader without a card.
            continue;
        }
        let device = root.join("dev").join(&name);
        disks.push(FoundDisk {
            disk: Disk {
                by_id: names.get(&name).cloned().unwrap_or_default(),
                size,
                model: read("device/model"),
                serial: read("serial").or_else(|| read("device/serial")),
                rotational: read("queue/rotational").as_deref() == Some("1"),
                removable: read("removable").as_deref() == Some("1"),
                signatures: signatures(runner, &device)?,
            },
            read_only: read("ro").as_deref() == Some("1"),
            unfinished: mark::is_there(&device),
            device,
        });
    }
    disks.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(disks)
}

/// The one disk that everything in the selector holds of, if it may be written.
pub fn choose<'d>(disks: &'d [FoundDisk], selector: &DiskSelector, wipe: bool) -> Result<&'d FoundDisk, String> {
    let holds = |disk: &Disk| {
        let DiskSelector { by_id, model, serial, minimum_size, maximum_size, rotational } = selector;
        by_id.as_ref().is_none_or(|wanted| disk.by_id.contains(wanted))
            && model.as_ref().is_none_or(|wanted| disk.model.as_ref() == Some(wanted))
            && serial.as_ref().is_none_or(|wanted| disk.serial.as_ref() == Some(wanted))
            && minimum_size.is_none_or(|least| disk.size >= least)
            && maximum_size.is_none_or(|most| disk.size <= most)
            && rotational.is_none_or(|wanted| disk.rotational == wanted)
    };
    let matching: Vec<&FoundDisk> = disks.iter().filter(|found| holds(&found.disk)).collect();
    let chosen = match matching[..] {
        [chosen] => chosen,
        [] => return Err(format!("no disk is what the plan asks for; there are: {}", names_of(disks.iter()))),
        _ => {
            let names = names_of(matching.into_iter());
            return Err(format!("the plan has to mean one disk, and it means several: {names}"));
        }
    };
    if chosen.read_only {
        return Err(format!("the disk {} is read-only", name_of(chosen)));
    }
    if !chosen.disk.signatures.is_empty() && !wipe && !chosen.unfinished {
        let found = chosen.disk.signatures.join(", ");
        return Err(format!(
            "the disk {} is not empty ({found}), and the plan does not say `wipe`: not touched",
            name_of(chosen)
        ));
    }
    Ok(chosen)
}

fn names_of<'d>(disks: impl Iterator<Item = &'d FoundDisk>) -> String {
    let names: Vec<String> = disks.map(name_of).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn name_of(disk: &FoundDisk) -> String {
    let name = disk.disk.by_id.first().cloned().unwrap_or_else(|| disk.device.display().to_string());
    format!("`{name}` ({} MiB)", disk.disk.size >> 20)
}

/// A partition's device: a name that ends in a digit gets a `p` between.
pub fn partition(disk: &Path, number: usize) -> PathBuf {
    let name = disk.to_string_lossy();
    let separator = if name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    PathBuf::from(format!("{name}{separator}{number}"))
}

fn is_partition_of(name: &str, disk: &str) -> bool {
    let rest = match name.strip_prefix(disk) {
        Some(rest) if disk.ends_with(|last: char| last.is_ascii_digit()) => rest.strip_prefix('p').unwrap_or_default(),
        Some(rest) => rest,
        None => return false,
    };
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// Device name -> names below `/dev/disk/by-id`, sorted.
fn by_id_names(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(root.join("dev/disk/by-id")).into_iter().flatten().flatten() {
        if let Ok(target) = fs::read_link(entry.path())
            && let Some(device) = target.file_name()
        {
            let list = names.entry(device.to_string_lossy().into_owned()).or_default();
            list.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    for list in names.values_mut() {
        list.sort();
    }
    names
}

/// What the live medium is mounted from: `sr0`, `sdb`, `sdb1`.
fn medium_device(root: &Path) -> Option<String> {
    let mounts = fs::read_to_string(root.join("proc/mounts")).ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        let live = kind == "iso9660" || place == "/run/bootproof/medium" || place == "/iso";
        live.then(|| device.strip_prefix("/dev/").map(str::to_owned)).flatten()
    })
}

/// What is on a disk, as `wipefs` names it.
fn signatures(runner: &dyn Runner, device: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        #[serde(rename = "type")]
        kind: String,
    }
    let said = runner.run("wipefs", &["--json", "--no-act", &device.to_string_lossy()], None)?;
    if said.trim().is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer =
        serde_json::from_str(&said).map_err(|error| format!("failed to read what `wipefs` says: {error}"))?;
    let mut kinds: Vec<String> = answer.signatures.into_iter().map(|signature| signature.kind).collect();
    kinds.dedup();
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::runner::Noted;
    use super::*;

    fn disk(name: &str, size: u64, signatures: &[&str]) -> FoundDisk {
        FoundDisk {
            device: Path::new("/dev").join(name),
            disk: Disk {
                by_id: vec![format!("virtio-{name}")],
                size,
                model: None,
                serial: Some(name.into()),
                rotational: false,
                removable: false,
                signatures: signatures.iter().map(|kind| kind.to_string()).collect(),
            },
            read_only: false,
            unfinished: false,
        }
    }

    #[test]
    fn exactly_one_disk_must_match_and_only_an_empty_one_is_written() {
        let disks = [disk("vda", 10 << 30, &[]), disk("vdb", 20 << 30, &["gpt"]), disk("vdc", 30 << 30, &[])];
        let choose = |selector: DiskSelector, wipe| choose(&disks, &selector, wipe).map(|found| found.device.clone());
        let by_id = |name: &str| DiskSelector { by_id: Some(name.into()), ..DiskSelector::default() };
        assert_eq!(choose(by_id("virtio-vda"), false).unwrap(), Path::new("/dev/vda"));
        assert!(choose(by_id("virtio-vd"), false).unwrap_err().contains("no disk"));
        assert!(choose(DiskSelector::default(), true).unwrap_err().contains("several"));
        let error = choose(by_id("virtio-vdb"), false).unwrap_err();
        assert!(error.contains("gpt") && error.contains("not touched"), "{error}");
        assert_eq!(choose(by_id("virtio-vdb"), true).unwrap(), Path::new("/dev/vdb"));
        let large = DiskSelector { minimum_size: Some(25 << 30), ..DiskSelector::default() };
        assert_eq!(choose(large, false).unwrap(), Path::new("/dev/vdc"));
        let conflicting = DiskSelector { serial: Some("vda".into()), ..by_id("virtio-vdc") };
        assert!(choose(conflicting, false).is_err());
    }

    #[test]
    fn an_unfinished_installation_is_begun_anew_and_a_read_only_disk_is_not() {
        let mut disks = [disk("vda", 1 << 30, &["gpt", "PMBR"])];
        assert!(choose(&disks, &DiskSelector::default(), false).is_err());
        disks[0].unfinished = true;
        assert!(choose(&disks, &DiskSelector::default(), false).is_ok());
        disks[0].read_only = true;
        assert!(choose(&disks, &DiskSelector::default(), true).unwrap_err().contains("read-only"));
    }

    #[test]
    fn disks_are_found_with_their_names_and_the_medium_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["vda", "loop0", "sr0", "sdb", "nvme0n1"] {
            write(&format!("sys/block/{name}/size"), "2048\n");
            write(&format!("dev/{name}"), "");
        }
        write("sys/block/sdc/size", "0\n");
        write("sys/block/vda/serial", "root\n");
        write("sys/block/nvme0n1/device/serial", "S1 \n");
        write("proc/mounts", "/dev/sdb1 /run/bootproof/medium iso9660 ro 0 0\n");
        fs::create_dir_all(root.join("dev/disk/by-id")).unwrap();
        symlink("../../vda", root.join("dev/disk/by-id/virtio-root")).unwrap();
        let json = r#"{"signatures": [{"device":"vda","offset":"0x200","type":"gpt"},{"type":"gpt"},{"type":"PMBR"}]}"#;
        let vda = format!("wipefs --json --no-act {}", root.join("dev/vda").display());
        let runner = Noted { answers: vec![(vda, Ok(json.into()))], ..Noted::default() };
        let found = find(root, &runner).unwrap();
        let names: Vec<_> = found.iter().map(|disk| disk.device.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["nvme0n1", "vda"]);
        assert_eq!(found[0].disk.serial.as_deref(), Some("S1"));
        let vda = &found[1].disk;
        assert_eq!((vda.size, vda.by_id[0].as_str(), vda.serial.as_deref()), (1 << 20, "virtio-root", Some("root")));
        assert_eq!(vda.signatures, ["gpt", "PMBR"]);
    }

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        assert_eq!(partition(Path::new("/dev/vda"), 2), Path::new("/dev/vda2"));
        assert_eq!(partition(Path::new("/dev/nvme0n1"), 2), Path::new("/dev/nvme0n1p2"));
        assert!(is_partition_of("nvme0n1p2", "nvme0n1") && is_partition_of("sdb1", "sdb"));
        assert!(
            !is_partition_of("sdb", "sdb")
                && !is_partition_of("sdba", "sdb")
                && !is_partition_of("nvme0n12", "nvme0n1")
        );
    }
}
