//! The script that starts a NixOS VM (`bin/run-*-vm`, as nixpkgs' `qemu-vm.nix` writes it): read, and never run.
//!
//! Of what it says this is taken over: kernel, initrd, the kernel's parameters, the size of the root disk or the disk
//! image that it lies over, and the host's store, which the guest reads through 9p. Memory, processors, network, consoles
//! and screens are the lane's to say. The guest may write nothing on the host: folders that the script would share for
//! exchange are there, and empty.

use std::fs;
use std::path::{Path, PathBuf};

use super::output::{Found, without_consoles};
use crate::error::{Context, Error, Result};
use crate::image::HostShare;

/// What a runner script starts.
#[derive(Debug, PartialEq)]
pub(super) struct Runner {
    pub script: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub parameters: Vec<String>,
    /// Bytes of the disk that the script would make for the guest's root; `None`: the guest has none.
    pub root_disk: Option<u64>,
    pub shares: Vec<HostShare>,
    /// What the script would give the guest beyond that, in sentences.
    pub left_out: Vec<String>,
}

/// Reads the script.
///
/// # Errors
/// Usage: it starts something that is not understood, or gives the guest what a lane has to ask for.
pub(super) fn read(script: &Path) -> Result<Found> {
    let text = fs::read_to_string(script).infrastructure(|| format!("failed to read `{}`", script.display()))?;
    parse(script, &text)
        .map_err(|told| Error::usage(format!("failed to understand the VM's script `{}`", script.display())).with_source(told).hint(
            "a NixOS VM as `config.system.build.vm` makes it is understood; disk images (`config.system.build.images`) always are",
        ))
}

fn parse(script: &Path, text: &str) -> Result<Found, String> {
    let logical = text.replace("\\\n", " ");
    let command = logical
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("exec ") && line.contains("qemu"))
        .ok_or("it starts no QEMU")?;
    let words = words(command)?;
    let options = || words.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
    let value = |name: &str| options().find(|(option, _)| *option == name).map(|(_, value)| value);
    if text.contains("NIX_STORE_IMAGE") || words.iter().any(|word| word.contains("store.img")) {
        return Err(
            "it makes an image of the store when it starts: set `virtualisation.useNixStoreImage = false`".into()
        );
    }
    let Some(kernel) = value("-kernel") else {
        // With a boot loader, the root disk lies over an image that was built.
        let image = logical.lines().filter(|line| line.contains("qemu-img create")).find_map(backing_file);
        return image.map(Found::Disk).ok_or_else(|| "it names neither a kernel nor a disk image".into());
    };
    let kernel = PathBuf::from(default_of(kernel)?);
    let initrd = PathBuf::from(default_of(value("-initrd").ok_or("it names no initrd")?)?);
    let parameters = parameters(value("-append").unwrap_or_default())?;
    let mut left_out = Vec::new();
    if text.contains("empty0.qcow2") || text.contains("empty$idx.qcow2") {
        left_out.push("the VM's empty disks are the lane's to give: `disks` of its machine".to_owned());
    }
    let mut shares = Vec::new();
    for (_, share) in options().filter(|(option, _)| *option == "-virtfs") {
        shares.push(host_share(share, &kernel)?);
    }
    Ok(Found::Runner(Runner {
        script: script.into(),
        kernel,
        initrd,
        parameters,
        root_disk: root_disk(&logical)?,
        shares,
        left_out,
    }))
}

/// The size of the disk that the script makes where there is none: `qemu-img create -f qcow2 "$NIX_DISK_IMAGE" 512M`, or
/// `createEmptyFilesystemImage "$NIX_DISK_IMAGE" "1024M"`.
fn root_disk(logical: &str) -> Result<Option<u64>, String> {
    for line in logical.lines().filter(|line| line.contains("NIX_DISK_IMAGE")) {
        let words = words(line)?;
        if let Some(position) = words.iter().position(|word| word == "$NIX_DISK_IMAGE" || word == "${NIX_DISK_IMAGE}")
            && let Some(size) = words.get(position + 1).and_then(|word| word.strip_suffix('M'))
            && let Ok(mebibytes) = size.parse::<u64>()
        {
            let bytes = mebibytes.checked_mul(1 << 20).filter(|bytes| *bytes > 0);
            return bytes.map(Some).ok_or_else(|| format!("`{size}M` is no size for a disk"));
        }
    }
    if logical.contains("file=\"$NIX_DISK_IMAGE\"") || logical.contains("file=$NIX_DISK_IMAGE") {
        return Err("it does not say how large its root disk is".into());
    }
    Ok(None)
}

fn backing_file(line: &str) -> Option<PathBuf> {
    let words = words(line).ok()?;
    let position = words.iter().position(|word| word == "-b")?;
    let path = PathBuf::from(words.get(position + 1)?);
    path.is_absolute().then_some(path)
}

/// `local,path=/nix/store,security_model=none,mount_tag=store`. The store is the folder that the kernel is in as well.
fn host_share(options: &str, kernel: &Path) -> Result<HostShare, String> {
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let tag = option("mount_tag").ok_or_else(|| format!("`{options}` names no tag"))?.to_owned();
    let path = option("path").ok_or_else(|| format!("`{options}` names no folder"))?.trim_matches('"');
    if path.contains("TMPDIR") {
        return Ok(HostShare { tag, path: None });
    }
    if Path::new(path).file_name().is_some_and(|name| name == "store") && kernel.starts_with(path) {
        return Ok(HostShare { tag, path: Some(path.into()) });
    }
    Err(format!(
        "it would share the host's `{path}` with the guest, which reaches nothing of the host but the Nix store: \
         remove it from `virtualisation.sharedDirectories`"
    ))
}

/// The kernel's command line: `$(cat FILE)` is the file's text, and `$QEMU_KERNEL_PARAMS` is for the lane to say.
fn parameters(append: &str) -> Result<Vec<String>, String> {
    let mut text = String::new();
    let mut rest = append;
    while let Some((before, after)) = rest.split_once("$(cat ") {
        let (file, after) = after.split_once(')').ok_or("its kernel parameters are cut short")?;
        text.push_str(before);
        let content = fs::read_to_string(file.trim()).map_err(|error| format!("failed to read `{file}`: {error}"))?;
        text.push_str(content.trim());
        rest = after;
    }
    text.push_str(rest);
    let text = text.replace("${QEMU_KERNEL_PARAMS}", "").replace("$QEMU_KERNEL_PARAMS", "");
    if let Some(position) = text.find('$') {
        return Err(format!(
            "its kernel parameters hold `{}`",
            text[position..].split_whitespace().next().unwrap_or("$")
        ));
    }
    Ok(without_consoles(text.split_whitespace().map(str::to_owned)))
}

/// A word as it is, or what `${NAME:-default}` stands for where nobody has set the variable.
fn default_of(word: &str) -> Result<&str, String> {
    let default =
        word.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).and_then(|rest| rest.split_once(":-"));
    match default {
        Some((_, default)) => Ok(default),
        None if word.contains('$') => Err(format!("`{word}` is known only when it runs")),
        None => Ok(word),
    }
}

/// The words of a line of shell. Nothing is expanded; quotes hold words together and go, and so does what a
/// substitution holds.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut depth = 0_usize;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '#') if word.is_none() => break,
            (Some('\''), '\'') => quote = None,
            (Some('"'), '"') if depth == 0 => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(character),
            (_, '\\') => word.get_or_insert_default().extend(characters.next()),
            (_, '$') if matches!(characters.peek(), Some('(' | '{')) => {
                depth += 1;
                let word = word.get_or_insert_default();
                word.push('$');
                word.extend(characters.next());
            }
            (_, ')' | '}') if depth > 0 => {
                depth -= 1;
                word.get_or_insert_default().push(character);
            }
            (None, '\'' | '"') if depth == 0 => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() && depth == 0 => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() || depth > 0 {
        return Err("a quote in it is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nixpkgs 20.09 writes it.
    const OLD: &str = r#"#! /nix/store/b-bash/bin/bash

NIX_DISK_IMAGE=$(readlink -f ${NIX_DISK_IMAGE:-./one.qcow2})

if ! test -e "$NIX_DISK_IMAGE"; then
    /nix/store/q-qemu/bin/qemu-img create -f qcow2 "$NIX_DISK_IMAGE" \
      512M || exit 1
fi

cd $TMPDIR
idx=0

# Start QEMU.
exec /nix/store/q-qemu/bin/qemu-kvm -cpu host \
    -name one \
    -m 384 \
    -smp 1 \
    -device virtio-rng-pci \
    -net nic,netdev=user.0,model=virtio -netdev user,id=user.0${QEMU_NET_OPTS:+,$QEMU_NET_OPTS} \
    -virtfs local,path=/nix/store,security_model=none,mount_tag=store \
    -virtfs local,path=$TMPDIR/xchg,security_model=none,mount_tag=xchg \
    -virtfs local,path=${SHARED_DIR:-$TMPDIR/xchg},security_model=none,mount_tag=shared \
    -drive cache=writeback,file=$NIX_DISK_IMAGE,id=drive1,if=none,index=1,werror=report -device virtio-blk-pci,drive=drive1 \
    -kernel /nix/store/t-one/kernel -initrd /nix/store/t-one/initrd -append "$(cat PARAMETERS) init=/nix/store/t-one/init regInfo=/nix/store/r-info/registration console=ttyS0 console=tty0 $QEMU_KERNEL_PARAMS" -nographic \
    $QEMU_OPTS \
    "$@"
"#;

    /// What nixpkgs 24.11 writes otherwise.
    const NEW: &str = r#"
if test -n "$NIX_DISK_IMAGE" && ! test -e "$NIX_DISK_IMAGE"; then
    echo "Disk image do not exist, creating the virtualisation disk image..."
    createEmptyFilesystemImage "$NIX_DISK_IMAGE" "1024M"
fi
exec /nix/store/q-qemu/bin/qemu-kvm -cpu max \
    -virtfs local,path=/nix/store,security_model=none,mount_tag=nix-store \
    -virtfs local,path="${SHARED_DIR:-$TMPDIR/xchg}",security_model=none,mount_tag=shared \
    -virtfs local,path="$TMPDIR"/xchg,security_model=none,mount_tag=xchg \
    -drive cache=writeback,file="$NIX_DISK_IMAGE",id=drive1,if=none,index=1 -device virtio-blk-pci,drive=drive1 \
    -kernel ${NIXPKGS_QEMU_KERNEL_one:-/nix/store/t-one/kernel} -initrd /nix/store/i-initrd/initrd \
    -append "$(cat PARAMETERS) init=/nix/store/t-one/init $QEMU_KERNEL_PARAMS" \
    $QEMU_OPTS \
    "$@"
"#;

    fn parsed(text: &str) -> Result<Found, String> {
        let parameters = tempfile::NamedTempFile::new().unwrap();
        fs::write(parameters.path(), "loglevel=4 net.ifnames=0\n").unwrap();
        let text = text.replace("PARAMETERS", &parameters.path().display().to_string());
        parse(Path::new("/run-one-vm"), &text)
    }

    fn runner(text: &str) -> Runner {
        match parsed(text).unwrap() {
            Found::Runner(runner) => runner,
            other => panic!("{other:?}"),
        }
    }

    fn share(tag: &str, path: Option<&str>) -> HostShare {
        HostShare { tag: tag.into(), path: path.map(PathBuf::from) }
    }

    #[test]
    fn scripts_of_old_and_new_nixpkgs_are_read() {
        let old = runner(OLD);
        assert_eq!(old.kernel, Path::new("/nix/store/t-one/kernel"));
        let init = "init=/nix/store/t-one/init";
        let registration = "regInfo=/nix/store/r-info/registration";
        assert_eq!(old.parameters, ["loglevel=4", "net.ifnames=0", init, registration]);
        assert_eq!(old.root_disk, Some(512 << 20));
        assert_eq!(old.shares, [share("store", Some("/nix/store")), share("xchg", None), share("shared", None)]);
        assert_eq!(old.left_out, Vec::<String>::new());
        let new = runner(NEW);
        assert_eq!((new.kernel.to_str(), new.root_disk), (Some("/nix/store/t-one/kernel"), Some(1 << 30)));
        assert_eq!(new.shares, [share("nix-store", Some("/nix/store")), share("shared", None), share("xchg", None)]);
        assert_eq!(new.parameters, ["loglevel=4", "net.ifnames=0", init]);
    }

    #[test]
    fn a_boot_loaders_disk_is_a_disk() {
        let text = "/q/bin/qemu-img create -f qcow2 -b /nix/store/d-disk/nixos.qcow2 -F qcow2 \"$NIX_DISK_IMAGE\"\n\
                    exec /q/bin/qemu-kvm -m 1 -drive file=\"$NIX_DISK_IMAGE\"\n";
        assert_eq!(parsed(text).unwrap(), Found::Disk("/nix/store/d-disk/nixos.qcow2".into()));
    }

    #[test]
    fn what_a_lane_would_have_to_ask_for_is_refused() {
        let replaced = |from: &str, to: &str| parsed(&NEW.replace(from, to)).unwrap_err();
        assert!(replaced("path=/nix/store,", "path=/home/me,").contains("the host's `/home/me`"));
        assert!(replaced("path=/nix/store,", "path=/home/me/store,").contains("the host's `/home/me/store`"));
        assert!(replaced("$QEMU_KERNEL_PARAMS", "$OTHER").contains("hold `$OTHER`"));
        assert!(replaced("1024M", "large").contains("how large"));
        assert!(replaced("/nix/store/i-initrd/initrd", "$INITRD").contains("only when it runs"));
        assert!(replaced("exec ", "exit ").contains("starts no QEMU"));
        assert!(replaced("$QEMU_OPTS", "-drive file=$TMPDIR/store.img").contains("useNixStoreImage"));
        assert!(replaced("\"$@\"", "\"$@").contains("not closed"));
    }
}
