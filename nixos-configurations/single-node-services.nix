# What the profile `single-node` requires, on NixOS.
{ config, pkgs, ... }:
{
  services.etcd.enable = true;
  services.postgresql.enable = true;
  environment.systemPackages = [ pkgs.etcd ];
  bootproof.markers."services.ready".after = [
    "etcd.service"
    "postgresql.service"
  ];
  # The same components as in profiles/single-node/profile.toml, under the names that they have here.
  environment.etc."bootproof/product-surface.json".text = builtins.toJSON {
    version = 1;
    components = [
      {
        name = "agent";
        required = true;
        unit = "bootproof-agent.service";
        executable = "${config.services.bootproof-agent.package}/bin/bootproof-agent";
      }
      {
        name = "clock";
        required = true;
        unit = "systemd-timesyncd.service";
        executable = "${config.systemd.package}/lib/systemd/systemd-timesyncd";
      }
      {
        name = "etcd";
        required = true;
        unit = "etcd.service";
        listens = [ "127.0.0.1:2379" ];
      }
      {
        name = "postgresql";
        required = true;
        unit = "postgresql.service";
        listens = [ "127.0.0.1:5432" ];
      }
    ];
  };
}
