# A live NixOS that installs what a deployer says: the same installer as on the Debian medium, as a service.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.bootproof-installer;
in
{
  imports = [ ./agent.nix ];

  options.services.bootproof-installer = {
    enable = lib.mkEnableOption "the bootproof installer";
    disko = lib.mkOption {
      type = lib.types.nullOr lib.types.package;
      default = null;
      description = "The package that has bin/disko; without it the installer refuses plans of the method `nixos`.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.bootproof-agent.enable = true;
    # The kernel prints its command line, and tokens may stand there.
    boot.consoleLogLevel = 4;
    boot.kernelParams = [ "console=ttyS0,115200" ];
    boot.kernelModules = [ "qemu_fw_cfg" ];
    systemd.services.bootproof-installer = {
      description = "bootproof installer";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "bootproof-agent.service"
      ];
      # Without a deployer this is just a live system.
      unitConfig.ConditionKernelCommandLine = "bootproof.deployer_url";
      path = [
        config.nix.package
        pkgs.dosfstools
        pkgs.e2fsprogs
        pkgs.gnutar
        pkgs.zstd
        "/run/current-system/sw"
      ]
      ++ lib.optional (cfg.disko != null) cfg.disko;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${config.services.bootproof-agent.package}/bin/bootproof-agent install";
        StandardOutput = "journal+console";
      };
    };
  };
}
