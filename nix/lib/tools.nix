# What runners and checks run with. Of nixpkgs:
#
#   tools = { system = "x86_64-linux"; shell = pkgs.runtimeShell; path = lib.makeBinPath [ pkgs.coreutils pkgs.qemu_kvm ... ];
#             bootproof = bootproof.packages.x86_64-linux.bootproof; environment = { BOOTPROOF_OVMF_CODE = ...; }; };
{
  # Fills in what may be left out, and says what is missing.
  complete =
    given:
    let
      required = [
        "system"
        "shell"
        "path"
        "bootproof"
      ];
      missing = builtins.filter (name: !(builtins.hasAttr name given)) required;
    in
    if missing != [ ] then
      throw "bootproof: `tools` lacks ${builtins.concatStringsSep ", " missing} (it takes ${builtins.concatStringsSep ", " required}, and optionally environment)"
    else
      { environment = { }; } // given;
}
