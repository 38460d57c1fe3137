# NixOS systems of this project: what its lanes boot, and examples of how the modules fit together.
{
  disko,
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
  baremetal =
    role:
    system' [
      disko.nixosModules.disko
      nixosModules.agent
      ./disk-layout.nix
      ./baremetal.nix
      { networking.hostName = lib.mkDefault role; }
    ];
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
  # The live system that installs NixOS machines, as an ISO: `config.system.build.isoImage`.
  installer-iso = system' [
    nixosModules.installer
    ./installer-iso.nix
  ];
  # What it installs on a machine in QEMU; disko lays out the disk.
  baremetal-qemu-control-plane = baremetal "control-plane";
  baremetal-qemu-worker = baremetal "worker";
  # Where machines phone home to.
  deployer = system' [
    nixosModules.deployer
    nixosModules.testing
    {
      networking.hostName = "deployer";
      services.bootproof-deployer = {
        enable = true;
        cluster = library.mkCluster cluster;
        openFirewall = true;
      };
      system.stateVersion = lib.mkDefault "20.09";
    }
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
