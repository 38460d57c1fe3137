# Every canonical entry point of every profile evaluates. That is decided while this is evaluated, so that a broken attribute
# is found before anything is built. `bootproof guard eval` does the same outside of a flake check, and names the line.
{
  lib,
  pkgs,
  profiles,
  self,
  ...
}:
let
  # Its derivation's path, without anything being built for it.
  force =
    attribute:
    let
      value =
        lib.attrByPath (lib.splitString "." attribute)
          (throw "a profile names `${attribute}`, and this flake has no such output")
          self;
      # An app is no derivation, and is what its program depends on.
      text =
        value.drvPath or value.program or (throw "`${attribute}` is neither a derivation nor an app");
    in
    "${attribute} ${builtins.unsafeDiscardStringContext text}";
  entries = profile: (profile.nix or { }).evaluate or [ ] ++ (profile.nix or { }).build or [ ];
  evaluated = map force (lib.unique (lib.concatMap entries (lib.attrValues profiles)));
in
pkgs.writeText "canonical-profile-eval-guards" (lib.concatMapStrings (line: line + "\n") evaluated)
