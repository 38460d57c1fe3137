//! The initramfs, written here: the agent as init, the modules it loads, and where to find both.
//!
//! What always holds: the same agent and modules give the same bytes, whoever builds it and when. It is not compressed:
//! unpacking costs an emulated processor more than reading does.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

use super::modules::{self, Modules};
use crate::error::{Context, Result};

/// Lists the modules to load, in load order, one path a line.
const MODULE_LIST: &str = "etc/bootproof/modules";
/// What to load for a device: its pattern, then modules in load order, parted by blanks.
const ALIAS_TABLE: &str = "etc/bootproof/module-aliases";

/// Writes the initramfs: `/init` is the agent, `/bin/<applet>` links to it.
pub(super) fn write(path: &Path, agent: &Path, modules: &Modules, applets: &[&str]) -> Result<()> {
    let context = || format!("failed to write the initramfs `{}`", path.display());
    let agent = fs::read(agent).infrastructure(|| format!("failed to read the agent `{}`", agent.display()))?;
    let mut archive = Archive { out: BufWriter::new(File::create(path).infrastructure(context)?), inode: 0 };
    archive.fill(&agent, modules, applets).infrastructure(context)?;
    archive.out.into_inner().map_err(|error| error.into_error()).infrastructure(context)?;
    Ok(())
}

/// Writes an archive that holds one file: what the kernel is to find beside the initramfs.
pub(super) fn wrap(path: &Path, name: &str, content: &Path) -> Result<()> {
    let context = || format!("failed to write `{}`", path.display());
    let mut source = File::open(content).infrastructure(|| format!("failed to read `{}`", content.display()))?;
    let length = source.metadata().infrastructure(context)?.len();
    let length = u32::try_from(length).infrastructure(context)?;
    let mut out = BufWriter::new(File::create(path).infrastructure(context)?);
    let mut writer =
        Builder::new(name).ino(1).mode(0o644).set_mode_file_type(ModeFileType::Regular).write(&mut out, length);
    std::io::copy(&mut source, &mut writer).infrastructure(context)?;
    writer.finish().infrastructure(context)?;
    trailer(&mut out).infrastructure(context)?;
    out.flush().infrastructure(context)
}

struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn fill(&mut self, agent: &[u8], modules: &Modules, applets: &[&str]) -> std::io::Result<()> {
        for folder in
            ["bin", "dev", "etc", "etc/bootproof", "lib", "lib/modules", "mnt", "proc", "root", "run", "sys", "tmp"]
        {
            self.entry(folder, ModeFileType::Directory, 0o755, &[], (0, 0))?;
        }
        // The kernel opens it for init before anything is mounted.
        self.entry("dev/console", ModeFileType::Char, 0o600, &[], (5, 1))?;
        self.entry("init", ModeFileType::Regular, 0o755, agent, (0, 0))?;
        for applet in applets {
            self.entry(&format!("bin/{applet}"), ModeFileType::Symlink, 0o777, b"/init", (0, 0))?;
        }
        let mut list = String::new();
        for (index, module) in modules.all.iter().enumerate() {
            let path = format!("lib/modules/{}.ko", module.name);
            self.entry(&path, ModeFileType::Regular, 0o644, &module.bytes, (0, 0))?;
            if index < modules.always {
                list.push_str(&format!("/{path}\n"));
            }
        }
        self.entry(MODULE_LIST, ModeFileType::Regular, 0o644, list.as_bytes(), (0, 0))?;
        if modules.always < modules.all.len() {
            let mut table = String::new();
            for (pattern, names) in modules::aliases(&modules.all) {
                let paths: Vec<String> = names.iter().map(|name| format!("/lib/modules/{name}.ko")).collect();
                table.push_str(&format!("{pattern} {}\n", paths.join(" ")));
            }
            self.entry(ALIAS_TABLE, ModeFileType::Regular, 0o644, table.as_bytes(), (0, 0))?;
        }
        trailer(&mut self.out)?;
        self.out.flush()
    }

    fn entry(
        &mut self,
        name: &str,
        kind: ModeFileType,
        permissions: u32,
        content: &[u8],
        (major, minor): (u32, u32),
    ) -> std::io::Result<()> {
        self.inode += 1;
        let length = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        let mut writer = Builder::new(name)
            .ino(self.inode)
            .mode(permissions)
            .set_mode_file_type(kind)
            .rdev_major(major)
            .rdev_minor(minor)
            .write(&mut self.out, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::modules::Module;

    fn modules() -> Modules {
        let all: Vec<_> =
            ["virtio_ring", "virtio"].map(|name| Module { name: name.into(), bytes: name.as_bytes().to_vec() }).into();
        Modules { always: all.len(), all }
    }

    #[test]
    fn a_file_is_wrapped_whole() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..100_001u32).map(|number| number as u8).collect();
        let (inside, path) = (folder.path().join("live.squashfs"), folder.path().join("live.cpio"));
        fs::write(&inside, &content).unwrap();
        wrap(&path, "live.squashfs", &inside).unwrap();
        let mut reader = cpio::NewcReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("live.squashfs", 0o100644));
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut unpacked).unwrap();
        assert_eq!(unpacked, content);
        assert!(cpio::NewcReader::new(reader.finish().unwrap()).unwrap().entry().is_trailer());
    }

    #[test]
    fn the_archive_holds_the_agent_its_applets_and_the_modules_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        fs::write(&agent, "AGENT").unwrap();
        let path = folder.path().join("initramfs");
        write(&path, &agent, &modules(), &["ls"]).unwrap();
        let again = folder.path().join("again");
        write(&again, &agent, &modules(), &["ls"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(again).unwrap(), "the same input gives the same bytes");

        let mut input = File::open(&path).unwrap();
        let mut entries = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
            let entry = reader.entry();
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            entries.push((entry.name().to_string(), entry.mode(), String::from_utf8(content).unwrap()));
            input = reader.finish().unwrap();
        }
        let find =
            |name: &str| entries.iter().find(|entry| entry.0 == name).map(|entry| (entry.1, entry.2.as_str())).unwrap();
        assert_eq!(find("init"), (0o100755, "AGENT"));
        assert_eq!(find("bin/ls"), (0o120777, "/init"));
        assert_eq!(find("dev/console").0, 0o020600);
        assert_eq!(find(MODULE_LIST).1, "/lib/modules/virtio_ring.ko\n/lib/modules/virtio.ko\n");
        assert_eq!(find("lib/modules/virtio.ko").1, "virtio");
    }
}
