//! UEFI firmware on this host.

use std::path::PathBuf;

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
