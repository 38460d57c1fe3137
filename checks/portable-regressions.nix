# What needs no machine, together: every lane is valid and fits its profile, every profile holds, and what is shipped is
# finished.
{ pkgs, self, ... }:
pkgs.runCommand "portable-regressions" { nativeBuildInputs = [ pkgs.bootproof ]; } ''
  cp -r ${self} project
  chmod -R u+w project
  cd project
  bootproof lane check --all
  bootproof guard eval
  bootproof guard surface
  touch $out
''
