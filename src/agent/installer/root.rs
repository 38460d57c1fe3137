//! Writing below a new system's root, whatever links it has: none leads out of it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

pub struct Root {
    folder: OwnedFd,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self, String> {
        let folder = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| format!("failed to open `{}`: {error}", path.display()))?;
        Ok(Self { folder })
    }

    /// Writes a file, and the folders that it is in; one that is there is replaced.
    pub fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<(), String> {
        let failed = |reason: String| format!("failed to write `{path}` into the new system: {reason}");
        let parts: Vec<&std::ffi::OsStr> = Path::new(path)
            .components()
            .filter_map(|component| match component {
                Component::Normal(part) => Some(Ok(part)),
                Component::RootDir | Component::CurDir => None,
                Component::ParentDir | Component::Prefix(_) => Some(Err(failed("it leads upwards".into()))),
            })
            .collect::<Result<_, _>>()?;
        let Some((name, folders)) = parts.split_last().filter(|_| path.starts_with('/')) else {
            return Err(failed("this is no absolute path of a file".into()));
        };
        let mut at = String::from(".");
        for folder in folders {
            let next = format!("{at}/{}", folder.to_string_lossy());
            match self.resolve(&next, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let parent = self
                        .resolve(&at, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                        .map_err(|error| failed(error.to_string()))?;
                    mkdirat(&parent, *folder, Mode::from(0o755)).map_err(|error| failed(error.to_string()))?;
                }
                Err(error) => return Err(failed(error.to_string())),
            }
            at = next;
        }
        let place = format!("{at}/{}", name.to_string_lossy());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = self.resolve(&place, flags, Mode::from(mode)).map_err(|error| failed(error.to_string()))?;
        // The mode of a file that was there, and whatever the mask took.
        rustix::fs::fchmod(&file, Mode::from(mode)).map_err(|error| failed(error.to_string()))?;
        let mut file = File::from(file);
        file.write_all(content).and_then(|()| file.sync_all()).map_err(|error| failed(error.to_string()))
    }

    fn resolve(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        openat2(&self.folder, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_and_paths_that_lead_upwards_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        let inside = folder.path().join("root");
        fs::create_dir_all(inside.join("usr/etc")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink("/usr/etc", inside.join("etc")).unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        let root = Root::open(&inside).unwrap();
        root.write("/etc/a/b", b"1", 0o600).unwrap();
        assert_eq!(fs::read_to_string(inside.join("usr/etc/a/b")).unwrap(), "1");
        root.write("/etc/a/b", b"22", 0o644).unwrap();
        assert_eq!(fs::read_to_string(inside.join("usr/etc/a/b")).unwrap(), "22");
        assert!(root.write("/out/x", b"1", 0o644).is_err());
        assert!(root.write("/../x", b"1", 0o644).unwrap_err().contains("upwards"));
        assert!(root.write("x", b"1", 0o644).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
