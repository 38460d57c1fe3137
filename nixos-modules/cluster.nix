# One node of a cluster. The cluster is described once, for all of its nodes, the deployer and the lanes: `lib.mkCluster`
# checks it, and `state` is what everybody reads.
{ mkCluster }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.bootproof.cluster;
  cluster = mkCluster cfg.definition;
  node =
    cluster.state.nodes.${cfg.node}
      or (throw "bootproof.cluster.node = \"${cfg.node}\": the cluster `${cluster.state.name}` has no such node; it has ${lib.concatStringsSep ", " (lib.attrNames cluster.state.nodes)}");
in
{
  options.bootproof.cluster = {
    definition = lib.mkOption {
      type = lib.types.attrs;
      description = "The whole cluster, as `lib.mkCluster` takes it.";
    };
    node = lib.mkOption {
      type = lib.types.str;
      description = "Which of its nodes this system is.";
    };
    state = lib.mkOption {
      type = lib.types.attrs;
      readOnly = true;
      default = cluster.state;
      description = "The cluster's state, as deployer and lanes read it.";
    };
  };

  config = {
    networking.hostName = lib.mkDefault cfg.node;
    networking.hosts = lib.mapAttrs' (
      name: other: lib.nameValuePair other.address [ name ]
    ) cluster.state.nodes;
    environment.etc."bootproof/cluster.json".text = cluster.json;
    environment.etc."bootproof/role".text = node.role;
    system.build.bootproofClusterState = pkgs.writeText "cluster-${cluster.state.name}.json" cluster.json;
  };
}
