# The library: profiles and lanes as data, runners and checks as derivations.
#
# It needs no nixpkgs. Where a derivation is made, whoever calls hands in what it runs with (`tools`): a shell, a search path,
# and bootproof itself.
{
  inherit (import ./profiles.nix) readProfiles lanesOf;
  inherit (import ./lane.nix) mkLane;
  inherit (import ./runner.nix) mkRunner;
  inherit (import ./check.nix) mkCheck mkProof;
  inherit (import ./matrix.nix) mkMatrix;
  inherit (import ./cluster.nix) mkCluster;
}
