# Kernel, initrd and iPXE script of a NixOS system that runs from memory, in one folder.
{ pkgs }:
configuration:
let
  inherit (configuration.config.system) build;
in
pkgs.runCommand "netboot-${configuration.config.networking.hostName}"
  {
    kernelParameters = pkgs.lib.concatStringsSep " " configuration.config.boot.kernelParams;
  }
  ''
    mkdir $out
    ln -s ${build.toplevel}/kernel $out/kernel
    ln -s ${build.netbootRamdisk}/initrd $out/initrd
    ln -s ${build.netbootIpxeScript}/netboot.ipxe $out/netboot.ipxe
    echo "init=${build.toplevel}/init $kernelParameters" >$out/kernel-params
  ''
