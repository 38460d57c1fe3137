{
  description = "A NixOS machine that is proven to come up";

  inputs = {
    nixpkgs.url = "github:nixos/nixpkgs/nixos-unstable-small";
    # Where you have bootproof from: a clone on this machine, or its address.
    bootproof.url = "git+file:///path/to/bootproof";
    bootproof.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    {
      self,
      nixpkgs,
      bootproof,
    }:
    let
      system = "x86_64-linux";
      lane = bootproof.lib.mkLane {
        file = ./lanes/comes-up.toml;
        images.machine = self.nixosConfigurations.machine.config.system.build.bootproofImage;
      };
      runner = bootproof.lib.mkRunner { inherit lane; };
    in
    {
      nixosConfigurations.machine = nixpkgs.lib.nixosSystem {
        inherit system;
        modules = [
          ./configuration.nix
          bootproof.nixosModules.testing
        ];
      };
      # nix run .#comes-up
      apps.${system}.comes-up = {
        type = "app";
        program = "${runner}/bin/comes-up-e2e";
      };
      # nix flake check boots the machine in the build sandbox; the proof is in `nix build .#comes-up-proof`.
      packages.${system}.comes-up-proof = bootproof.lib.mkProof { inherit lane; };
      checks.${system}.comes-up = bootproof.lib.mkCheck {
        inherit lane;
        proof = self.packages.${system}.comes-up-proof;
      };
    };
}
