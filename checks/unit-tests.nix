# The unit tests: none of them boots a machine.
{ pkgs, ... }:
pkgs.bootproof.overrideAttrs (previous: {
  name = "unit-tests";
  buildPhase = "cargo test --offline --lib";
  installPhase = "touch $out";
})
