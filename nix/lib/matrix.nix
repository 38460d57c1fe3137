# Jobs for a CI service, out of the same lanes.
{
  # mkMatrix { lanes; checks; } -> { include = [ { name, kind, attribute, tier } ]; }, the shape of GitHub's `strategy.matrix`
  #
  #   checks  names of flake checks that need no machine: a job each
  #   lanes   { <lane> = mkLane ...; }: a job each, for the lane's runner
  #   tiers   lanes of other tiers are left out
  mkMatrix =
    {
      system ? "x86_64-linux",
      checks ? [ ],
      lanes ? { },
      tiers ? [
        "host"
        "single"
      ],
    }:
    {
      include =
        map (name: {
          inherit name;
          kind = "check";
          tier = "host";
          attribute = "checks.${system}.${name}";
        }) checks
        ++ map (name: {
          inherit name;
          kind = "lane";
          inherit (lanes.${name}) tier;
          attribute = "checks.${system}.${name}-e2e";
        }) (builtins.filter (name: builtins.elem lanes.${name}.tier tiers) (builtins.attrNames lanes));
    };
}
