# A machine that the installer has made: it boots by BIOS and UEFI, and becomes what its deployer desires.
{ lib, ... }:
{
  services.bootproof-agent = {
    enable = true;
    converge = true;
  };
  boot.loader.grub = {
    enable = true;
    efiSupport = true;
    efiInstallAsRemovable = true;
  };
  boot.initrd.availableKernelModules = [
    "ahci"
    "ext4"
    "nvme"
    "sd_mod"
    "virtio_blk"
    "virtio_net"
    "virtio_pci"
  ];
  boot.kernelParams = [ "console=ttyS0,115200" ];
  networking.useDHCP = lib.mkDefault true;
  system.stateVersion = lib.mkDefault "20.09";
}
