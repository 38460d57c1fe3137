//! Bundles: a debian image's root as one file, for machines that install it onto their own disks.
//!
//! What always holds: the same image gives the same bytes; a bundle is named by their digest, and remembered beside its image.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::command::{Tool, failed};
use super::recipe::{Recipe, Resolved};
use super::store::{Temporary, Work};
use super::{
    Boot, ImageLock, ImageProgress, ImageRequest, ImageStore, debian, digest, index, overlay, root_filesystem, tiny,
};
use crate::error::{Context, Error, Result};

/// Version of the way bundles are made: a change of it makes every bundle anew.
const VERSION: u32 = 1;
/// Fast enough for every build; a higher one saves a tenth of the size for several times the time.
const COMPRESSION: i32 = 9;

/// A bundle's name beside its image.
pub const BUNDLE_FILE: &str = "bundle.tar.zst";

/// A bundle that is there, to be used read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltBundle {
    version: u32,
    pub path: PathBuf,
    /// `sha256:<hex>` of its bytes.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// `$1` the package layer, `$2` our files, `$3` the tree, `$4` the initramfs, `$5` the result. All times are one, since they are
/// when something was built, which is nobody's business.
const SCRIPT: &str = r#"
set -eu
tar --extract --file "$1" --directory "$3" --numeric-owner
mkdir -p "$3/dev" "$3/proc" "$3/sys" "$3/run" "$3/tmp"
tar --create --directory "$2" --owner=root:0 --group=root:0 . |
  tar --extract --directory "$3" --keep-directory-symlink --no-overwrite-dir
touch "$3/etc/.updated" "$3/var/.updated"
for kernel in "$3"/boot/vmlinuz-*; do
  install -m 0644 "$4" "$3/boot/initrd.img-${kernel##*/vmlinuz-}"
done
tar --create --file "$5" --directory "$3" --sort=name --mtime=@1704067200 --numeric-owner --format=gnu .
"#;

impl ImageStore {
    /// Gives the bundle of a `debian` image, making image and bundle first where they are not there yet.
    ///
    /// Errors: as of [`ImageStore::ensure`]; `usage` for an image of another source.
    pub async fn bundle(
        &self,
        request: &ImageRequest,
        progress: &dyn ImageProgress,
        cancel: CancellationToken,
    ) -> Result<BuiltBundle> {
        let image = self.ensure(request, progress, cancel.clone()).await?;
        let place = self.built_folder(&image.digest);
        let memory = place.join("bundle.json");
        let there =
            || index::read::<BuiltBundle>(&memory).filter(|known| known.version == VERSION && known.path.is_file());
        if let Some(bundle) = there() {
            return Ok(bundle);
        }
        let name = format!("bundle-{}", image.digest.trim_start_matches("sha256:"));
        let _turn = self.turn(&name, &request.name, progress, &cancel).await?;
        if let Some(bundle) = there() {
            return Ok(bundle);
        }
        let resolved = Resolved::new(self, request, &ImageLock::load(self.project_root())?)?;
        let work = Work { store: self, request, resolved: &resolved, progress, cancel: &cancel };
        let (Recipe::Debian { files, commands, .. }, Boot::Kernel { initramfs, .. }) = (&resolved.recipe, &image.boot)
        else {
            return Err(Error::usage(format!("image `{}` is not made of Debian packages", request.name))
                .hint("only a `debian` image can be bundled"));
        };
        let temporary = self.temporary()?;
        let packed = temporary.path().join("bundle.tar");
        pack(&work, &temporary, files.as_deref(), commands, initramfs, &packed).await?;
        work.stage("compressing the bundle");
        let compressed = temporary.path().join(BUNDLE_FILE);
        let into = place.join(BUNDLE_FILE);
        tiny::blocking(move || {
            let context = || format!("failed to compress `{}`", packed.display());
            compress(&packed, &compressed)?;
            let size = fs::metadata(&compressed).infrastructure(context)?.len();
            let bundle = BuiltBundle { version: VERSION, digest: digest::of_file(&compressed)?, size, path: into };
            fs::rename(&compressed, &bundle.path).infrastructure(context)?;
            index::write(&memory, &bundle)?;
            Ok(bundle)
        })
        .await
    }
}

fn compress(packed: &Path, into: &Path) -> Result<()> {
    let context = || format!("failed to compress `{}`", packed.display());
    let source = File::open(packed).infrastructure(context)?;
    let target = BufWriter::new(File::create(into).infrastructure(context)?);
    zstd::stream::copy_encode(source, target, COMPRESSION).infrastructure(context)
}

async fn pack(
    work: &Work<'_>,
    temporary: &Temporary,
    files: Option<&Path>,
    commands: &[String],
    initramfs: &Path,
    packed: &Path,
) -> Result<()> {
    let layer = debian::package_layer(work, debian::purpose(work)).await?;
    let (ours, tree) = (temporary.path().join("ours"), temporary.path().join("tree"));
    for folder in [&ours, &tree] {
        fs::create_dir(folder).infrastructure(|| format!("failed to make `{}`", folder.display()))?;
    }
    work.stage("packing the root file system");
    let agent = work
        .resolved
        .agent
        .as_ref()
        .ok_or_else(|| Error::infrastructure("a bundle was to be made without its agent"))?;
    let (into, agent, files) = (ours.clone(), agent.path.clone(), files.map(Path::to_path_buf));
    tiny::blocking(move || overlay::lay_out(&into, &agent, files.as_deref())).await?;
    let root_tar = root_filesystem::with_commands(work, temporary, &layer.root_tar, commands, &ours).await?;
    let (program, before) = root_filesystem::shell_as_root();
    let finished = Tool::new(program)
        .args(before)
        .args(["-c", SCRIPT, "bootproof"])
        .args([root_tar.as_path(), &ours, &tree, initramfs, packed])
        .locked_by(temporary.lock())
        .run(work.cancel, |_| {})
        .await?;
    if finished.status.success() {
        return Ok(());
    }
    Err(failed("tar", &format!("bundle image `{}`", work.request.name), &finished))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// A root's package layer and what is ours, made in another order and at another time each time.
    fn sources(folder: &Path, reversed: bool) {
        let mut files = vec![
            ("layer/boot/vmlinuz-6.1", "kernel"),
            ("layer/etc/hostname", "theirs"),
            ("layer/usr/lib/os-release", "ID=debian"),
            ("ours/etc/hostname", "ours"),
            ("ours/etc/z", "last"),
            ("ours/etc/a", "first"),
        ];
        if reversed {
            files.reverse();
        }
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        fs::create_dir_all(folder.join("layer/var")).unwrap();
        symlink("usr/lib", folder.join("layer/lib")).unwrap();
        fs::hard_link(folder.join("layer/usr/lib/os-release"), folder.join("layer/usr/lib/os-release.again")).unwrap();
        let status = Command::new("tar")
            .args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--file"])
            .args([folder.join("root.tar"), "--directory".into(), folder.join("layer"), ".".into()])
            .status()
            .unwrap();
        assert!(status.success());
        fs::write(folder.join("initramfs"), "initramfs").unwrap();
        fs::create_dir(folder.join("tree")).unwrap();
    }

    fn bundle(reversed: bool) -> (String, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        sources(folder.path(), reversed);
        let (program, before) = root_filesystem::shell_as_root();
        let output = Command::new(program)
            .args(before)
            .args(["-c", SCRIPT, "bootproof"])
            .args([at("root.tar"), at("ours"), at("tree"), at("initramfs"), at("bundle.tar")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        compress(&at("bundle.tar"), &at("bundle.tar.zst")).unwrap();
        (digest::of_file(&at("bundle.tar.zst")).unwrap(), fs::read(at("bundle.tar.zst")).unwrap())
    }

    #[test]
    fn the_same_root_gives_the_same_bytes() {
        let (program, _) = root_filesystem::shell_as_root();
        if crate::image::tools::find(program).is_none() {
            eprintln!("skipped: `{program}` is not installed, and bundles are packed as root");
            return;
        }
        let (digest, bytes) = bundle(false);
        let again = bundle(true);
        assert!(again.1 == bytes, "made at another time and in another order");
        assert_eq!(again.0, digest);
        // Its members are what went in, ours over theirs.
        let mut archive = tar::Archive::new(zstd::Decoder::new(&bytes[..]).unwrap());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name.ends_with("etc/hostname") {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
                assert_eq!(text, "ours");
            }
            assert_eq!(entry.header().mtime().unwrap(), 1_704_067_200, "{name}");
            names.push(name);
        }
        assert!(names.iter().any(|name| name.ends_with("boot/initrd.img-6.1")), "{names:?}");
    }
}
