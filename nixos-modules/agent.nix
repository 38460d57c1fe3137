# The bootproof agent in a NixOS guest: it executes, copies and emits markers for the lane that runs the machine.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.bootproof-agent;
  program = "${cfg.package}/bin/bootproof-agent";
  # Early: a machine whose services do not come up must still answer, so that the reason can be asked for.
  early = {
    before = [
      "sysinit.target"
      "shutdown.target"
    ];
    conflicts = [ "shutdown.target" ];
    wantedBy = [ "sysinit.target" ];
    unitConfig.DefaultDependencies = false;
  };
in
{
  options.services.bootproof-agent = {
    enable = lib.mkEnableOption "the bootproof agent";
    converge = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether the machine asks a deployer what to run, and becomes that.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.bootproof-agent;
      description = "The package that has bin/bootproof-agent.";
    };
  };

  config = lib.mkIf cfg.enable {
    boot.kernelModules = [ "virtio_console" ];
    environment.systemPackages = [ cfg.package ];
    # Where lanes find it in every guest.
    systemd.tmpfiles.rules = [ "L+ /usr/lib/bootproof/bootproof-agent - - - - ${program}" ];
    systemd.services = {
      bootproof-agent = early // {
        description = "bootproof agent";
        # What a step executes is looked for where a login would.
        environment.PATH = lib.mkForce "/run/wrappers/bin:/run/current-system/sw/bin";
        serviceConfig = {
          ExecStart = "${program} serve";
          Restart = "always";
          RestartSec = 1;
          OOMScoreAdjust = -900;
          KillMode = "mixed";
          # The console carries markers, whole lines that the agent writes there itself.
          StandardOutput = "journal";
        };
      };
      # Apart from the agent's own unit, so that an agent that is restarted does not claim another boot.
      bootproof-boot = early // {
        description = "bootproof marker boot";
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${program} marker boot";
        };
      };
    }
    // lib.optionalAttrs cfg.converge {
      bootproof-converge = {
        description = "bootproof convergence to the desired system";
        wantedBy = [ "multi-user.target" ];
        after = [
          "network.target"
          "bootproof-boot.service"
        ];
        # Switching to another system must not end what is switching.
        restartIfChanged = false;
        stopIfChanged = false;
        # Either the installer has written where to ask, or the kernel's command line says so.
        unitConfig = {
          ConditionPathExists = "|/etc/bootproof/agent.json";
          ConditionKernelCommandLine = "|bootproof.deployer_url";
        };
        path = [
          config.nix.package
          "/run/current-system/sw"
        ];
        serviceConfig = {
          Type = "simple";
          ExecStart = "${program} converge";
          Restart = "on-failure";
          RestartSec = 5;
          # The deployer does not take the machine in: it says so again, until somebody has done something about it.
          RestartPreventExitStatus = 77;
          KillMode = "mixed";
        };
      };
    };
  };
}
