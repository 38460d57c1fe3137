# Profiles and their lanes, read from the same files that the program reads: nothing is listed twice.
rec {
  # readProfiles ./. -> { <profile> = { profile, components, ..., lanes = { <lane> = { file, document }; }; }; }
  # `file` is relative to the project.
  readProfiles =
    project:
    let
      directory = project + "/profiles";
      entries = builtins.readDir directory;
      names = builtins.filter (
        name: entries.${name} == "directory" && builtins.pathExists (directory + "/${name}/profile.toml")
      ) (builtins.attrNames entries);
      read =
        name:
        let
          profile = builtins.fromTOML (builtins.readFile (directory + "/${name}/profile.toml"));
          lane = lane: rec {
            name = lane;
            value = {
              file = "profiles/${profile.profile.name}/lanes/${lane}.toml";
              document = builtins.fromTOML (builtins.readFile (project + "/${value.file}"));
            };
          };
        in
        {
          inherit name;
          value = profile // {
            lanes = builtins.listToAttrs (map lane (profile.profile.lanes or [ ]));
          };
        };
    in
    builtins.listToAttrs (map read names);

  # lanesOf profiles -> { <lane> = { file, document }; }, of all of them
  lanesOf =
    profiles:
    builtins.foldl' (all: name: all // profiles.${name}.lanes) { } (builtins.attrNames profiles);
}
