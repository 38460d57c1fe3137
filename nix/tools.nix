# What runners and checks of this flake run with.
{ pkgs, system }:
{
  inherit system;
  shell = pkgs.runtimeShell;
  bootproof = pkgs.bootproof;
  path = pkgs.lib.makeBinPath (
    [
      pkgs.coreutils
      pkgs.e2fsprogs
      pkgs.qemu_kvm
      pkgs.xz
      pkgs.zstd
    ]
    # For disks that forget; nixpkgs has it since 23.05.
    ++ pkgs.lib.optional (pkgs ? nbdkit) pkgs.nbdkit
  );
  environment = {
    BOOTPROOF_OVMF_CODE = "${pkgs.OVMF.fd}/FV/OVMF_CODE.fd";
    BOOTPROOF_OVMF_VARS = "${pkgs.OVMF.fd}/FV/OVMF_VARS.fd";
  };
}
