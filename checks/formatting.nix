# rustfmt and nixfmt have nothing to say.
{ pkgs, self, ... }:
pkgs.runCommand "formatting"
  {
    nativeBuildInputs = [
      pkgs.cargo
      pkgs.nixfmt
      pkgs.rustfmt
    ];
  }
  ''
    cd ${self}
    cargo fmt --check
    find . -name '*.nix' -exec nixfmt --check {} +
    touch $out
  ''
