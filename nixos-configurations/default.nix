# NixOS systems of this project: what its lanes boot, and examples of how the modules fit together.
{
  lib,
  library,
  nixosModules,
  nixpkgs,
  self,
  system,
}:
let
  cluster = import ./cluster.nix;
  system' =
    modules:
    import (nixpkgs + "/nixos/lib/eval-config.nix") {
      inherit system modules;
    };
  node =
    name:
    system' [
      nixosModules.testing
      nixosModules.cluster
      ./node.nix
      {
        bootproof.cluster = {
          definition = cluster;
          node = name;
        };
      }
    ];
in
{
  single-node-quickstart = system' [
    nixosModules.testing
    ./single-node-quickstart.nix
  ];
  # The same, as the script that NixOS's own tools make: its own QEMU, the host's store.
  single-node-trial = system' [
    nixosModules.testing
    ./single-node-quickstart.nix
    (nixpkgs + "/nixos/modules/virtualisation/qemu-vm.nix")
  ];
  netboot-all-in-one = system' [
    nixosModules.agent
    nixosModules.markers
    ./netboot.nix
    ./single-node-services.nix
    { networking.hostName = "netboot-all-in-one"; }
  ];
  netboot-control-plane = system' [
    nixosModules.agent
    nixosModules.markers
    ./netboot.nix
    { networking.hostName = "netboot-control-plane"; }
  ];
}
// lib.genAttrs (lib.attrNames cluster.nodes) node
