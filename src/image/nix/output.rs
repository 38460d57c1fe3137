//! What boots in an output: looked for by the names that NixOS gives, and by what `nix-support` says of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::runner::{self, Runner};
use crate::error::{Context, Error, Result};

/// What boots in an output.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Disk(PathBuf),
    /// An ISO.
    Medium(PathBuf),
    Kernel {
        kernel: PathBuf,
        initrd: PathBuf,
        parameters: Vec<String>,
        /// With the root file system, as `bootproof.nixosModules.testing` makes it.
        disk: Option<PathBuf>,
    },
    /// A script that starts a NixOS VM.
    Runner(Runner),
}

impl Found {
    /// The files that decide what boots.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Found::Disk(path) | Found::Medium(path) => vec![path],
            Found::Kernel { kernel, initrd, disk, .. } => {
                [kernel, initrd].into_iter().chain(disk).map(PathBuf::as_path).collect()
            }
            Found::Runner(runner) => vec![&runner.script, &runner.kernel, &runner.initrd],
        }
    }
}

/// Folders of an output that hold images.
const FOLDERS: [&str; 4] = ["", "images", "iso", "sd-image"];
const DISKS: [&str; 3] = ["qcow2", "raw", "img"];
const COMPRESSIONS: [&str; 4] = ["zst", "xz", "gz", "bz2"];

/// Looks at an output, or at a file in one.
pub(super) fn find(output: &Path) -> Result<Found> {
    if output.is_file() {
        return of_file(output);
    }
    if !output.is_dir() {
        return Err(Error::usage(format!("`{}` does not exist", output.display())));
    }
    if let Some(script) = runner_script(output)? {
        return runner::read(&script);
    }
    let first = |names: &[&str]| names.iter().map(|name| output.join(name)).find(|path| path.is_file());
    if let (Some(kernel), Some(initrd)) = (first(&["kernel", "bzImage"]), first(&["initrd", "initrd.gz"])) {
        let disk = match images(output)?.as_slice() {
            [] => None,
            [disk] => Some(disk.clone()),
            several => return Err(too_many(output, several.len())),
        };
        return Ok(Found::Kernel { kernel, initrd, parameters: parameters(output)?, disk });
    }
    match images(output)?.as_slice() {
        [image] => of_file(image),
        [] => Err(Error::usage(format!("nothing that boots is in `{}`", output.display())).hint(
            "expected is a disk (`*.qcow2`, `*.raw`, `*.img`), `kernel` (or `bzImage`) with `initrd`, or the script of a \
             NixOS VM (`bin/run-*-vm`)",
        )),
        several => Err(too_many(output, several.len())),
    }
}

fn too_many(output: &Path, count: usize) -> Error {
    Error::usage(format!("`{}` holds {count} disk images", output.display()))
        .hint("name the one that is meant by its own path")
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn of_file(path: &Path) -> Result<Found> {
    if COMPRESSIONS.contains(&extension(path)) {
        return Err(Error::usage(format!("`{}` is compressed, and nothing boots from it so", path.display()))
            .hint("NixOS leaves an image as it is with `sdImage.compressImage = false` or `image.compress = false`"));
    }
    if !is_image(path) {
        // Anything can be written as a file; a machine that starts from a text only fails later and tells less.
        return Err(Error::usage(format!("`{}` is no image by its name", path.display()))
            .hint("a disk is called `*.qcow2`, `*.raw` or `*.img`; a `disk` image takes a file of any name"));
    }
    Ok(if extension(path) == "iso" { Found::Medium(path.into()) } else { Found::Disk(path.into()) })
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("failed to read the output `{}`", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).infrastructure(context)? {
        entries.push(entry.infrastructure(context)?.path());
    }
    entries.sort();
    Ok(entries)
}

fn runner_script(output: &Path) -> Result<Option<PathBuf>> {
    let folder = output.join("bin");
    if !folder.is_dir() {
        return Ok(None);
    }
    let is_runner = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("run-") && name.ends_with("-vm") && path.is_file()
    };
    Ok(entries(&folder)?.into_iter().find(is_runner))
}

/// Images of an output: those that it declares as its products, else those that are there.
fn images(output: &Path) -> Result<Vec<PathBuf>> {
    let products = fs::read_to_string(output.join("nix-support/hydra-build-products")).unwrap_or_default();
    let declared: Vec<PathBuf> = products.lines().filter_map(product).filter(|path| path.is_file()).collect();
    if !declared.is_empty() {
        return Ok(declared);
    }
    let mut images = Vec::new();
    for folder in FOLDERS.map(|name| output.join(name)).into_iter().filter(|folder| folder.is_dir()) {
        images.extend(entries(&folder)?.into_iter().filter(|path| path.is_file() && is_image(path)));
    }
    Ok(images)
}

fn is_image(path: &Path) -> bool {
    let inner = if COMPRESSIONS.contains(&extension(path)) { path.with_extension("") } else { path.to_path_buf() };
    extension(&inner) == "iso" || DISKS.contains(&extension(&inner))
}

/// The path in a line of `hydra-build-products` (`file TYPE PATH`) that is an image.
fn product(line: &str) -> Option<PathBuf> {
    let mut words = line.splitn(3, ' ');
    let (Some("file"), Some(kind), Some(path)) = (words.next(), words.next(), words.next()) else { return None };
    let path = PathBuf::from(path.trim().trim_matches('"'));
    let by_kind = ["iso", "sd-image", "qcow2", "qcow-image", "raw", "disk-image"].contains(&kind);
    (by_kind || is_image(&path)).then_some(path)
}

/// The kernel's command line: of `netboot.ipxe`, else of `kernel-params` and `init`.
fn parameters(output: &Path) -> Result<Vec<String>> {
    let read = |name: &str| match fs::read_to_string(output.join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).infrastructure(|| format!("failed to read `{}`", output.join(name).display())),
    };
    if let Some(script) = read("netboot.ipxe")? {
        let line = script.lines().find_map(|line| line.trim().strip_prefix("kernel ")).unwrap_or_default();
        // The first word is the kernel's own name; iPXE's variables have no value here.
        let words = line.split_whitespace().skip(1);
        let kept = words.filter(|word| !word.starts_with("initrd=") && !word.contains("${"));
        return Ok(without_consoles(kept.map(str::to_owned)));
    }
    let mut parameters: Vec<String> =
        read("kernel-params")?.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    // A NixOS system is started by its own init, below the store path.
    if let Ok(init) = fs::canonicalize(output.join("init")) {
        parameters.push(format!("init={}", init.display()));
    }
    Ok(without_consoles(parameters.into_iter()))
}

/// The machine's definition says where its console is: another one, named later, would take the markers with it.
pub(super) fn without_consoles(parameters: impl Iterator<Item = String>) -> Vec<String> {
    parameters.filter(|parameter| !parameter.starts_with("console=")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Output(tempfile::TempDir);

    impl Output {
        fn new(files: &[(&str, &str)]) -> Self {
            let output = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                fs::create_dir_all(output.at(name).parent().unwrap()).unwrap();
                fs::write(output.at(name), text.replace("$out", &output.0.path().display().to_string())).unwrap();
            }
            output
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn found(&self) -> Result<Found> {
            find(self.0.path())
        }

        #[track_caller]
        fn is_refused(&self, told: &str) {
            let error = self.found().unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn disks_and_media_are_found_where_nixos_puts_them() {
        for name in ["nixos.qcow2", "nixos.img", "images/a.raw", "sd-image/a.img"] {
            let output = Output::new(&[(name, ""), ("nix-support/system", "x86_64-linux")]);
            assert_eq!(output.found().unwrap(), Found::Disk(output.at(name)), "{name}");
        }
        let output = Output::new(&[
            ("iso/nixos.iso", ""),
            ("nix-support/hydra-build-products", "file iso $out/iso/nixos.iso\n"),
        ]);
        assert_eq!(output.found().unwrap(), Found::Medium(output.at("iso/nixos.iso")));
        let output = Output::new(&[
            ("a.img", ""),
            ("b.img", ""),
            ("nix-support/hydra-build-products", "report x $out/a.img\nfile sd-image $out/b.img\n"),
        ]);
        assert_eq!(output.found().unwrap(), Found::Disk(output.at("b.img")), "the one that is declared");
        assert_eq!(find(&output.at("a.img")).unwrap(), Found::Disk(output.at("a.img")), "the one that is named");
    }

    #[test]
    fn what_cannot_be_booted_is_told() {
        Output::new(&[("readme", "")]).is_refused("nothing that boots");
        Output::new(&[("a.img", ""), ("b.raw", "")]).is_refused("2 disk images");
        Output::new(&[("sd-image/a.img.zst", "")]).is_refused("is compressed");
        let output = Output::new(&[("notes", "")]);
        assert!(find(&output.at("notes")).unwrap_err().to_string().contains("no image by its name"));
        assert!(find(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn a_disk_beside_a_kernel_is_its_root() {
        let output = Output::new(&[("kernel", ""), ("initrd", ""), ("disk.raw", "")]);
        let Found::Kernel { disk, .. } = output.found().unwrap() else { panic!("a kernel") };
        assert_eq!(disk, Some(output.at("disk.raw")));
        Output::new(&[("kernel", ""), ("initrd", ""), ("a.raw", ""), ("b.raw", "")]).is_refused("2 disk images");
    }

    #[test]
    fn a_kernel_comes_with_its_parameters() {
        let files =
            [("bzImage", ""), ("initrd", ""), ("kernel-params", "quiet console=tty0 loglevel=4\n"), ("init", "")];
        let output = Output::new(&files);
        let init = format!("init={}", fs::canonicalize(output.at("init")).unwrap().display());
        let Found::Kernel { kernel, parameters, .. } = output.found().unwrap() else { panic!("a kernel") };
        assert_eq!((kernel, parameters), (output.at("bzImage"), vec!["quiet".into(), "loglevel=4".into(), init]));
        let script =
            "#!ipxe\nkernel bzImage init=/nix/store/x/init initrd=initrd loglevel=4 ${cmdline}\ninitrd initrd\nboot\n";
        let output = Output::new(&[("bzImage", ""), ("initrd", ""), ("netboot.ipxe", script), ("kernel-params", "no")]);
        let Found::Kernel { parameters, .. } = output.found().unwrap() else { panic!("a kernel") };
        assert_eq!(parameters, ["init=/nix/store/x/init", "loglevel=4"]);
    }
}
