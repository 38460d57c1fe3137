# A lane in the build sandbox.
let
  inherit (import ./shell.nix) quote words;
  inherit (import ./tools.nix) complete;
  inherit (import ./runner.nix) environmentOf;
in
rec {
  # mkProof { lane; tools; } -> a derivation whose output is the run's proof root, whatever its verdict was: a build that
  # failed would leave none. It fails only where there is no proof, an invalid lane for one.
  mkProof =
    {
      lane,
      tools,
      name ? "${lane.name}-proof",
      # What the builder must offer. KVM is used where the sandbox has it, and only a lane that cannot do without asks for it.
      features ? if lane.requires.kvm or false then [ "kvm" ] else [ ],
    }:
    let
      given = complete tools;
    in
    derivation {
      inherit name;
      inherit (given) system;
      builder = given.shell;
      text = if lane.text == null then "" else lane.text;
      requiredSystemFeatures = features;
      args = [
        "-euc"
        ''
          ${environmentOf given lane}
          export BOOTPROOF_EXECUTION_MODEL=sandboxed-check HOME="$TMPDIR" XDG_RUNTIME_DIR=
          lane=${if lane.file == null then ''"$TMPDIR/${lane.name}.json"'' else quote lane.file}
          [ -z "$text" ] || printf '%s' "$text" >"$lane"
          cd "$TMPDIR"
          status=0
          bootproof --work-root "$TMPDIR/work" run "$lane" ${words lane.arguments} --output "$out" || status=$?
          if [ ! -e "$out/seal.json" ]; then
            echo "${lane.name}: there is no proof (exit status $status)" >&2
            exit 1
          fi
        ''
      ];
    };

  # mkCheck { lane; tools; proof; } -> a derivation that fails where the proof's verdict is not `passed`, and says how to look
  # closer and how to run the lane again: Nix keeps what was built, a failed lane's proof too.
  mkCheck =
    {
      lane,
      tools,
      proof ? mkProof { inherit lane tools; },
      name ? "${lane.name}-sandboxed",
    }:
    let
      given = complete tools;
    in
    derivation {
      inherit name;
      inherit (given) system;
      builder = given.shell;
      args = [
        "-euc"
        ''
          export PATH=${quote "${given.bootproof}/bin:${given.path}"} HOME="$TMPDIR"
          cd "$TMPDIR"
          bootproof proof verify ${proof}
          bootproof proof show ${proof} >show.txt
          cat show.txt
          case "$(bootproof proof show --json ${proof} | tr -d ' \n')" in
            *'"verdict":"passed"'*) mkdir "$out"; cp show.txt "$out/"; ln -s ${proof} "$out/proof" ;;
            *)
              echo "${lane.name} did not pass; its proof is ${proof}" >&2
              echo "to run it again, first: nix store delete ${proof}" >&2
              exit 1 ;;
          esac
        ''
      ];
    };
}
