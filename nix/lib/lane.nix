# A lane with the images that Nix builds put into it.
let
  json = builtins.toJSON;

  # `images.NAME` of a lane: a derivation or a path is what a `nix` image is made from, `{ kernel, modules }` a `tiny`.
  settingsOf =
    name: image:
    if builtins.isAttrs image && !(image ? outPath) then
      builtins.concatMap
        (key: if image ? ${key} then [ "images.${name}.tiny.${key}=${image.${key}}" ] else [ ])
        [
          "kernel"
          "modules"
        ]
    else
      [ "images.${name}.nix=${image}" ];
in
{
  # mkLane { file = ./lanes/mine.toml; images.node = self.packages.x86_64-linux.my-image; }
  #
  #   file      the lane: a path, whose folder goes into the store with it, since a lane names files beside it; or a path
  #             within `project`, as text
  #   project   the folder that holds `profiles/`; where `file` is text
  #   document  in place of `file`: the lane as a Nix value; files that it names have to be store paths
  #   images    by the lane's name for them: what boots, as a derivation or a path (`nix`), or { kernel, modules } (`tiny`).
  #             `tiny` is the image of machines that name none
  #   set       further settings, as `bootproof run --set` takes them
  mkLane =
    {
      file ? null,
      project ? null,
      document ? null,
      images ? { },
      set ? [ ],
    }:
    let
      given =
        if document != null then
          document
        else if project != null then
          builtins.fromTOML (builtins.readFile (project + "/${file}"))
        else if file != null then
          builtins.fromTOML (builtins.readFile file)
        else
          throw "bootproof.lib.mkLane: one of `file` and `document` has to be there";
      name = given.lane.name or (throw "bootproof.lib.mkLane: the lane has no `lane.name`");
    in
    {
      inherit name images;
      document = given;
      tier =
        given.lane.tier
          or (if builtins.length (builtins.attrNames (given.machines or { })) > 1 then "site" else "single");
      requires = given.requires or { };
      # Text of the lane, for whoever makes the file; null where it is in the store already.
      text = if document != null then json given else null;
      # The file, for `bootproof run`; null where it is `text`.
      file =
        if document != null then
          null
        else if project != null then
          "${project}/${file}"
        else
          "${
            builtins.path {
              path = dirOf file;
              name = "lanes";
            }
          }/${baseNameOf file}";
      project = if project != null then "${project}" else null;
      arguments =
        (
          if
            builtins.any (image: !(builtins.isAttrs image) || image ? outPath) (builtins.attrValues images)
          then
            [
              "--images"
              "nix"
            ]
          else
            [ ]
        )
        ++ builtins.concatMap (setting: [
          "--set"
          setting
        ]) (builtins.concatMap (name: settingsOf name images.${name}) (builtins.attrNames images) ++ set);
    };
}
