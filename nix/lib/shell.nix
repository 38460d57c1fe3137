# Words that a shell takes as they are.
rec {
  quote = text: "'" + builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text) + "'";
  words = list: builtins.concatStringsSep " " (map quote list);
}
