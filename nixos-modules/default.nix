# Modules for NixOS systems that bootproof proves.
{ mkCluster, self }:
let
  # `pkgs.bootproof-agent` has to be there for the agent's default package.
  withPackages = module: {
    imports = [ module ];
    nixpkgs.overlays = [ self.overlays.default ];
  };
in
{
  agent = withPackages ./agent.nix;
  markers = withPackages ./markers.nix;
  testing = withPackages ./testing.nix;
  deployer = withPackages ./deployer.nix;
  installer = withPackages ./installer.nix;
  cluster = import ./cluster.nix { inherit mkCluster; };
}
