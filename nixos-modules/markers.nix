# Markers out of units: whole lines on the console that say how far a machine has come.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.bootproof.markers;
  agent = config.services.bootproof-agent;
  word = lib.types.strMatching "[^[:space:]]+";
  service =
    name: marker:
    lib.nameValuePair "bootproof-marker-${name}" {
      description = "bootproof marker ${name}";
      # Ordered, not required: a service that is masked or has failed does not keep the marker away. The marker names each
      # one's state, and a lane's gates decide.
      inherit (marker) after;
      wantedBy = [ marker.wantedBy ];
      script =
        let
          state =
            unit:
            ''"${lib.removeSuffix ".service" unit}=$(systemctl show --property=ActiveState --value ${unit})"'';
        in
        "exec ${agent.package}/bin/bootproof-agent marker ${name} ${
          lib.concatMapStringsSep " " state marker.after
        } ${lib.escapeShellArgs marker.arguments}";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
    };
in
{
  imports = [ ./agent.nix ];

  options.bootproof.markers = lib.mkOption {
    default = { };
    example = {
      "services.ready".after = [ "nginx.service" ];
    };
    description = "Markers by name. Each is emitted once a boot, when the starts of its units are over, well or not.";
    type = lib.types.attrsOf (
      lib.types.submodule {
        options = {
          after = lib.mkOption {
            type = lib.types.listOf word;
            default = [ ];
            description = "Units whose start has to be over; the marker carries the state of each.";
          };
          wantedBy = lib.mkOption {
            type = word;
            default = "multi-user.target";
            description = "The unit that brings the marker about.";
          };
          arguments = lib.mkOption {
            type = lib.types.listOf (lib.types.strMatching "[^=[:space:]]+=.*");
            default = [ ];
            example = [ "role=worker" ];
            description = "KEY=VALUE, added to the marker.";
          };
        };
      }
    );
  };

  config = lib.mkIf (cfg != { }) {
    services.bootproof-agent.enable = lib.mkDefault true;
    systemd.services = lib.mapAttrs' service cfg;
  };
}
