# Every canonical entry point that has to build is built.
{
  lib,
  pkgs,
  profiles,
  self,
  ...
}:
let
  attributes = lib.unique (
    lib.concatMap (profile: (profile.nix or { }).build or [ ]) (lib.attrValues profiles)
  );
in
pkgs.linkFarm "canonical-profile-build-guards" (
  map (attribute: {
    name = attribute;
    path =
      lib.attrByPath (lib.splitString "." attribute)
        (throw "a profile names `${attribute}`, and this flake has no such output")
        self;
  }) attributes
)
