# The deployer as a service: machines phone home to it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.bootproof-deployer;
  # JSON is a cluster's state, with the deployer's configuration in it.
  file = pkgs.writeText "cluster.json" cfg.cluster.json;
in
{
  options.services.bootproof-deployer = {
    enable = lib.mkEnableOption "the bootproof deployer";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.bootproof;
      description = "The package that has bin/bootproof.";
    };
    cluster = lib.mkOption {
      type = lib.types.nullOr lib.types.attrs;
      default = null;
      description = "What `lib.mkCluster` gives. One of this and `configurationFile`.";
    };
    configurationFile = lib.mkOption {
      type = lib.types.path;
      default = file;
      description = "A deployer's configuration (TOML), or a cluster's state (JSON).";
    };
    address = lib.mkOption {
      type = lib.types.str;
      default = "0.0.0.0";
      description = "Where it listens.";
    };
    port = lib.mkOption {
      type = lib.types.port;
      default = 8080;
      description = "Where it listens with HTTP.";
    };
    tlsPort = lib.mkOption {
      type = lib.types.nullOr lib.types.port;
      default = null;
      description = "Where it listens with HTTPS, with the certificate that the configuration's `tls` says.";
    };
    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether machines may reach it.";
    };
  };

  config = lib.mkIf cfg.enable {
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (
      [ cfg.port ] ++ lib.optional (cfg.tlsPort != null) cfg.tlsPort
    );
    systemd.services.bootproof-deployer = {
      description = "bootproof deployer";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        ExecStart = lib.concatStringsSep " " (
          [
            "${cfg.package}/bin/bootproof"
            "deployer"
            "serve"
            "--config"
            "${cfg.configurationFile}"
            "--state-dir"
            "/var/lib/bootproof-deployer"
            "--listen"
            "${cfg.address}:${toString cfg.port}"
          ]
          ++ lib.optionals (cfg.tlsPort != null) [
            "--listen-tls"
            "${cfg.address}:${toString cfg.tlsPort}"
          ]
        );
        DynamicUser = true;
        StateDirectory = "bootproof-deployer";
        WorkingDirectory = "/var/lib/bootproof-deployer";
        Restart = "on-failure";
        # Tokens and credentials are its own business.
        UMask = "0077";
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        NoNewPrivileges = true;
      };
    };
  };
}
