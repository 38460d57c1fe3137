# The installer's medium, of NixOS. The same installer program as on the Debian medium, the same kernel parameters, the same
# markers; what was laid out by disko and installed by nixos-install says so in its markers' names.
{
  lib,
  modulesPath,
  pkgs,
  ...
}:
{
  imports = [ (modulesPath + "/installer/cd-dvd/installation-cd-minimal.nix") ];
  services.bootproof-installer = {
    enable = true;
    disko = pkgs.disko or null;
  };
  networking.hostName = lib.mkForce "installer";
}
