# A NixOS that runs from memory.
{ lib, modulesPath, ... }:
{
  imports = [ (modulesPath + "/installer/netboot/netboot-minimal.nix") ];
  services.bootproof-agent.enable = true;
  boot.kernelParams = [ "console=ttyS0" ];
  boot.initrd.availableKernelModules = [
    "virtio_blk"
    "virtio_net"
    "virtio_pci"
  ];
  system.stateVersion = lib.mkDefault "20.09";
}
