# A lane as a program.
let
  inherit (import ./shell.nix) quote words;
  inherit (import ./tools.nix) complete;
in
rec {
  # The shell's lines that put bootproof and what it needs into the environment.
  environmentOf =
    tools: lane:
    let
      variables = {
        BOOTPROOF_PROJECT_ROOT = lane.project;
      }
      // tools.environment;
      export =
        name: if variables.${name} == null then "" else "export ${name}=${quote variables.${name}}\n";
    in
    # What the user has comes last, but it is there: sudo, editors, a newer QEMU by name.
    ''
      export PATH=${quote "${tools.bootproof}/bin:${tools.path}"}''${PATH:+:$PATH}
    ''
    + builtins.concatStringsSep "" (map export (builtins.attrNames variables));

  # mkRunner { lane; tools; } -> a derivation with bin/<name>: `<name> [OUTPUT] [options of bootproof run]`
  #
  # It runs on the host: KVM is used where it works, everything is written below ./work (or BOOTPROOF_WORK_ROOT), and the
  # proof is copied to OUTPUT where that is given.
  mkRunner =
    {
      lane,
      tools,
      name ? "${lane.name}-e2e",
      # What environment.json calls it; null for a plain `bootproof run`.
      executionModel ? "materialized-check-runner",
    }:
    let
      given = complete tools;
      script = ''
        #!${given.shell}
        # ${lane.document.lane.summary or lane.name}
        set -eu
        ${environmentOf given lane}${
          if executionModel == null then
            ""
          else
            ''
              export BOOTPROOF_EXECUTION_MODEL=${quote executionModel}
              case "''${1-}" in
                -h | --help) echo "usage: ${name} [OUTPUT] [options of bootproof run]"; echo "runs the lane ${lane.name}; the proof is copied to OUTPUT, which must not exist"; exit 0 ;;
                "" | -*) ;;
                *) output=$1; shift; set -- --output "$output" "$@" ;;
              esac
            ''
        }exec bootproof run ${
          # Beside the program, wherever that was installed or linked to.
          if lane.file == null then
            ''"$(dirname "$(readlink -f "$0")")/../share/bootproof/${lane.name}.json"''
          else
            quote lane.file
        } ${words lane.arguments} "$@"
      '';
    in
    derivation {
      inherit name script;
      inherit (given) system;
      builder = given.shell;
      text = if lane.text == null then "" else lane.text;
      args = [
        "-euc"
        ''
          export PATH=${quote given.path}
          mkdir -p "$out/bin" "$out/share/bootproof"
          printf '%s' "$script" >"$out/bin/${name}"
          chmod 755 "$out/bin/${name}"
          [ -z "$text" ] || printf '%s' "$text" >"$out/share/bootproof/${lane.name}.json"
        ''
      ];
    }
    // {
      meta.mainProgram = name;
    };
}
