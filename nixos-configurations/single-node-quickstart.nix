# What the lane `quickstart` boots with `--images nix`.
{ lib, ... }:
{
  imports = [ ./single-node-services.nix ];
  networking.hostName = "node01";
  services.postgresql.enableTCPIP = true;
  networking.useDHCP = false;
  system.stateVersion = lib.mkDefault "20.09";
}
