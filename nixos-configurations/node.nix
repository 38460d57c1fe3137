# A control-plane node of the reference cluster: one member of its etcd.
{ config, lib, ... }:
let
  inherit (config.bootproof.cluster) node state;
  members = lib.filterAttrs (name: other: other.role == "control-plane") state.nodes;
  this = state.nodes.${node};
in
{
  networking.useDHCP = false;
  networking.firewall.allowedTCPPorts = [
    2379
    2380
  ];
  services.etcd = {
    enable = true;
    name = node;
    listenClientUrls = [
      "http://127.0.0.1:2379"
      "http://${this.address}:2379"
    ];
    advertiseClientUrls = [ "http://${this.address}:2379" ];
    listenPeerUrls = [ "http://${this.address}:2380" ];
    initialAdvertisePeerUrls = [ "http://${this.address}:2380" ];
    initialCluster = lib.mapAttrsToList (name: other: "${name}=http://${other.address}:2380") members;
    initialClusterToken = state.name;
  };
  bootproof.markers."services.ready".after = [ "etcd.service" ];
  system.stateVersion = lib.mkDefault "20.09";
}
