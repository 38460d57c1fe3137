//! Firmware on this host: UEFI, and what network cards boot by.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Code and variable-store template of an OVMF that is installed here, without secure boot.
pub fn uefi() -> Option<(PathBuf, PathBuf)> {
    if let (Some(code), Some(variables)) =
        (std::env::var_os("BOOTPROOF_OVMF_CODE"), std::env::var_os("BOOTPROOF_OVMF_VARS"))
    {
        return Some((code.into(), variables.into()));
    }
    // Debian and Ubuntu, Fedora, Arch, and where a NixOS host links it.
    let places = [
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/run/libvirt/nix-ovmf/OVMF_CODE.fd", "/run/libvirt/nix-ovmf/OVMF_VARS.fd"),
    ];
    let pairs = places.into_iter().map(|(code, variables)| (PathBuf::from(code), PathBuf::from(variables)));
    pairs.into_iter().find(|(code, variables)| code.is_file() && variables.is_file())
}

/// The option ROM of the machines' network cards, where QEMU itself looks for it.
const NETWORK_ROM: &str = "efi-virtio.rom";

/// iPXE for the machines' network cards; `None` where QEMU has it in none of its folders.
pub fn network_rom() -> Option<PathBuf> {
    let output = Command::new(super::program()).args(["-L", "help"]).stdin(Stdio::null()).output().ok()?;
    let folders = String::from_utf8(output.stdout).ok()?;
    folders.lines().map(|folder| PathBuf::from(folder.trim()).join(NETWORK_ROM)).find(|rom| rom.is_file())
}
