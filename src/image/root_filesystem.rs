//! The final layer of a debian image: unpacks the package layer, lays our files over it, runs the recipe's commands, and
//! makes the file system; nothing is mounted, so no root is needed.

use std::fs;
use std::path::{Path, PathBuf};

use super::command::{Finished, Tool, failed};
use super::debian::ROOT_LABEL;
use super::store::{Temporary, Work};
use super::{overlay, tiny, tools};
use crate::error::{Context, Error, Result};

/// What the final layer is made of.
pub(super) struct FinalLayer<'a> {
    pub root_tar: &'a Path,
    pub files: Option<&'a Path>,
    pub commands: &'a [String],
    /// Bytes.
    pub size: u64,
    /// Where the raw disk image is to be.
    pub disk: &'a Path,
}

/// `$1` the package layer, `$2` our files, `$3` the tree, `$4` the disk, `$5` its size in KiB.
///
/// Folders that are links in the tree (`/lib` on merged systems) stay links, and folders that are there keep their modes.
/// Nothing is left for the guest to initialise later, which would cost it time while it is being watched: neither file
/// system structures, nor the caches that systemd rebuilds when `/usr` is newer than the stamps in `/etc` and `/var`.
const SCRIPT: &str = r#"
set -eu
tar --extract --file "$1" --directory "$3" --numeric-owner
mkdir -p "$3/dev"
tar --create --directory "$2" --owner=root:0 --group=root:0 . |
  tar --extract --directory "$3" --keep-directory-symlink --no-overwrite-dir
touch "$3/etc/.updated" "$3/var/.updated"
mkfs.ext4 -q -F -L "$6" -m 0 -E lazy_itable_init=0,lazy_journal_init=0,nodiscard -d "$3" "$4" "$5k"
"#;

/// Makes the disk.
pub(super) async fn make(work: &Work<'_>, temporary: &Temporary, layer: FinalLayer<'_>) -> Result<()> {
    let agent = work
        .resolved
        .agent
        .as_ref()
        .ok_or_else(|| Error::infrastructure("an image was to be made without its agent"))?;
    let ours = temporary.path().join("ours");
    let tree = temporary.path().join("tree");
    for folder in [&ours, &tree] {
        fs::create_dir(folder).infrastructure(|| format!("failed to make `{}`", folder.display()))?;
    }
    work.stage("laying agent and files over the packages");
    let (into, agent, files) = (ours.clone(), agent.path.clone(), layer.files.map(Path::to_path_buf));
    tiny::blocking(move || overlay::lay_out(&into, &agent, files.as_deref())).await?;
    let root_tar = with_commands(work, temporary, layer.root_tar, layer.commands, &ours).await?;
    work.stage("making the file system");
    let (program, before) = shell_as_root();
    let size = (layer.size >> 10).to_string();
    let finished = Tool::new(program)
        .args(before)
        .args(["-c", SCRIPT, "bootproof"])
        .args([root_tar.as_path(), &ours, &tree, layer.disk])
        .args([&size, ROOT_LABEL])
        .locked_by(temporary.lock())
        .run(work.cancel, |_| {})
        .await?;
    if !finished.status.success() {
        return Err(explain(work, &finished, layer.size));
    }
    let (first, second) = (tree, ours);
    tiny::blocking(move || {
        // Gone before the image is put in place, so that it never counts twice against the disk.
        for folder in [first, second] {
            fs::remove_dir_all(&folder).infrastructure(|| format!("failed to remove `{}`", folder.display()))?;
        }
        Ok(())
    })
    .await
}

/// A shell that may give files to anybody. Owners other than ourselves can be given by root only, or in fakeroot's books,
/// which tar and mkfs.ext4 read as well.
pub(super) fn shell_as_root() -> (&'static str, &'static [&'static str]) {
    if tools::is_root() { ("sh", &[]) } else { ("fakeroot", &["sh"]) }
}

/// The package layer as it is, or as the recipe's commands leave it.
pub(super) async fn with_commands(
    work: &Work<'_>,
    temporary: &Temporary,
    root_tar: &Path,
    commands: &[String],
    ours: &Path,
) -> Result<PathBuf> {
    if commands.is_empty() {
        return Ok(root_tar.to_path_buf());
    }
    let commanded = temporary.path().join("commanded.tar");
    run_commands(work, temporary, (root_tar, commands), ours, &commanded).await?;
    Ok(commanded)
}

fn explain(work: &Work<'_>, finished: &Finished, size: u64) -> Error {
    let full = ["Could not allocate block", "Could not allocate inode", "while populating file system"];
    let image_is_full = finished.stderr.iter().any(|line| full.iter().any(|text| line.contains(text)));
    if image_is_full && !finished.ran_out_of_space() {
        let size = crate::lane::units::Size(size);
        return Error::usage(format!("image `{}` does not fit into its {size}", work.request.name))
            .with_source(finished.tail())
            .hint("give it more: `debian = { size = \"4GiB\", ... }`");
    }
    failed("mkfs.ext4", &format!("make the file system of image `{}`", work.request.name), finished)
}

/// Runs the recipe's commands inside the root, with our files already in it. mmdebstrap goes from tar file to tar file
/// here, since it knows how to get into a root in every mode that the host allows.
async fn run_commands(
    work: &Work<'_>,
    temporary: &Temporary,
    (root_tar, commands): (&Path, &[String]),
    ours: &Path,
    result: &Path,
) -> Result<()> {
    let files = temporary.path().join("ours.tar");
    let doing = "pack the image's files";
    Tool::new("tar")
        .args([Path::new("--create"), Path::new("--file"), &files, Path::new("--directory"), ours])
        .args(["--owner=root:0", "--group=root:0", "."])
        .succeed(work.cancel, doing)
        .await?;
    let scratch = temporary.path().join("mmdebstrap-commands");
    fs::create_dir_all(&scratch).infrastructure(|| format!("failed to make `{}`", scratch.display()))?;
    super::debian::open_to_mapped_users(&scratch, &work.store.folder(""))
        .infrastructure(|| format!("failed to open `{}` to other users", scratch.display()))?;
    let mut arguments = vec![
        format!("--mode={}", super::debian::mode()),
        "--variant=custom".to_string(),
        "--format=tar".into(),
        "--skip=setup,update,cleanup,check/empty,output/dev".into(),
        format!("--setup-hook=tar-in {} /", root_tar.display()),
        // The layer has no `/dev`, and without `setup` nobody makes what the host's devices are put on.
        "--setup-hook=mkdir -p \"$1/dev/pts\" \"$1/dev/shm\"".into(),
        format!("--customize-hook=tar-in {} /", files.display()),
    ];
    for command in commands {
        // The command is data to the outer shell: it reaches the inner one through the environment of the hook alone.
        let quoted = command.replace('\'', r"'\''");
        arguments.push(format!("--customize-hook=chroot \"$1\" /bin/sh -ec '{quoted}'"));
    }
    arguments.extend([String::new(), result.display().to_string()]);
    work.stage(&format!("running {} commands in the image", commands.len()));
    let finished = Tool::that_mounts("mmdebstrap")
        .args(&arguments)
        .env("TMPDIR", &scratch)
        .locked_by(temporary.lock())
        .run(work.cancel, |_| {})
        .await?;
    if finished.status.success() {
        return Ok(());
    }
    Err(failed("mmdebstrap", &format!("run the commands of image `{}`", work.request.name), &finished)
        .hint("each command runs as root inside the image by `/bin/sh -e`; the first that fails ends the build"))
}
