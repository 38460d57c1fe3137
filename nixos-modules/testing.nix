# A NixOS system as an image that bootproof boots: kernel, initrd and one ext4 file system, loaded without a boot loader.
#
# A lane names it as `nix = ".#nixosConfigurations.HOST.config.system.build.bootproofImage"`.
{
  config,
  lib,
  pkgs,
  modulesPath,
  ...
}:
let
  cfg = config.bootproof.image;
  toplevel = config.system.build.toplevel;
  rootFileSystem = pkgs.callPackage (modulesPath + "/../lib/make-ext4-fs.nix") {
    storePaths = [ toplevel ];
    volumeLabel = "nixos";
    populateImageCommands = "mkdir -p ./files/etc; touch ./files/etc/NIXOS";
  };
in
{
  imports = [
    ./agent.nix
    ./markers.nix
  ];

  options.bootproof.image.freeSpace = lib.mkOption {
    type = lib.types.ints.positive;
    default = 1024;
    description = "What the root file system has beyond the system itself, in MiB.";
  };

  config = {
    services.bootproof-agent.enable = lib.mkDefault true;
    boot.loader.grub.enable = false;
    boot.initrd.availableKernelModules = [
      "ext4"
      "virtio_blk"
      "virtio_console"
      "virtio_net"
      "virtio_pci"
    ];
    fileSystems."/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };
    # The store's database is made at the first boot, as on NixOS's own SD card images.
    boot.postBootCommands = ''
      if [ -f /nix-path-registration ]; then
        ${config.nix.package.out}/bin/nix-store --load-db </nix-path-registration
        touch /etc/NIXOS
        ${config.nix.package.out}/bin/nix-env -p /nix/var/nix/profiles/system --set /run/current-system
        rm -f /nix-path-registration
      fi
    '';
    system.build.bootproofImage =
      pkgs.runCommand "bootproof-image-${config.networking.hostName}"
        {
          nativeBuildInputs = [ pkgs.e2fsprogs ];
          kernelParameters = lib.concatStringsSep " " config.boot.kernelParams;
        }
        ''
          mkdir $out
          ln -s ${toplevel}/kernel $out/kernel
          ln -s ${toplevel}/initrd $out/initrd
          # Only in what boots the system is its store path: the same image would otherwise have two.
          echo "init=${toplevel}/init $kernelParameters" >$out/kernel-params
          cp --sparse=always ${rootFileSystem} $out/disk.raw
          chmod u+w $out/disk.raw
          truncate --size=+${toString cfg.freeSpace}M $out/disk.raw
          resize2fs $out/disk.raw
        '';
  };
}
