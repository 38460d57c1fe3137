{
  description = "bootproof: proves that machines come up, install, converge, survive faults and keep their data";

  inputs = {
    nixpkgs.url = "github:nixos/nixpkgs/nixos-unstable-small";
    disko.url = "github:nix-community/disko/master";
    disko.inputs.nixpkgs.follows = "nixpkgs";
  };

  # Wiring only. What is made stands in nix/, nixos-modules/, nixos-configurations/ and checks/; which lanes there are, in
  # profiles/.
  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      system = "x86_64-linux";
      pkgs = import nixpkgs {
        inherit system;
        overlays = [ self.overlays.default ];
      };
      project = import ./nix { inherit inputs pkgs system; };
    in
    {
      inherit (project) lib nixosModules nixosConfigurations;
      overlays.default = import ./nix/overlay.nix { inherit self; };
      packages.${system} = project.packages;
      apps.${system} = project.apps;
      checks.${system} = project.checks;
      devShells.${system}.default = import ./nix/shell.nix { inherit pkgs; };
      formatter.${system} = pkgs.nixfmt;
      templates.default = {
        path = ./templates/default;
        description = "A lane for a NixOS configuration of your own";
      };
    };
}
