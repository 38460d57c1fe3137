# What working on bootproof needs.
{ pkgs }:
pkgs.mkShell {
  buildInputs = [
    pkgs.cargo
    pkgs.clippy
    pkgs.glibc.static
    pkgs.gnumake
    pkgs.qemu_kvm
    pkgs.rustc
    pkgs.rustfmt
  ];
}
