# The outputs that follow from profiles/, nixos-modules/, nixos-configurations/ and checks/.
{
  inputs,
  pkgs,
  system,
}:
let
  inherit (inputs) self nixpkgs;
  inherit (pkgs) lib;
  library = import ./lib;
  profiles = library.readProfiles ../.;

  tools = import ./tools.nix { inherit pkgs system; };

  nixosModules = import ../nixos-modules {
    inherit (library) mkCluster;
    inherit self;
  };
  nixosConfigurations = import ../nixos-configurations {
    inherit (inputs) disko;
    inherit
      lib
      library
      nixosModules
      nixpkgs
      self
      system
      ;
  };

  # What a lane's `images.NAME.nix = ".#ATTRIBUTE"` names, as a derivation of this flake.
  imageOf =
    reference:
    let
      attribute = lib.removePrefix ".#" reference;
      path = lib.splitString "." attribute;
      named =
        lib.attrByPath path (throw "a lane names `${reference}`, and this flake has no such output")
          self;
    in
    if lib.head path == "nixosConfigurations" && lib.length path == 2 then
      named.config.system.build.vm
    else
      named;

  # The kernel of machines that have only the agent.
  kernel = pkgs.linuxPackages.kernel;
  tiny = {
    kernel = "${kernel}/bzImage";
    modules = "${kernel.modules or kernel}/lib/modules/${kernel.modDirVersion}";
  };
  lanes = lib.mapAttrs (
    name: lane:
    library.mkLane {
      project = self;
      inherit (lane) file;
      images =
        lib.mapAttrs (image: recipe: imageOf recipe.nix) (
          lib.filterAttrs (image: recipe: recipe ? nix) (lane.document.images or { })
        )
        # Machines that name no image have this one.
        // lib.optionalAttrs (lib.any (machine: machine.image or "tiny" == "tiny") (
          lib.attrValues (lane.document.machines or { })
        )) { inherit tiny; };
    }
  ) (lib.filterAttrs (name: lane: hasNixImages lane.document) (library.lanesOf profiles));
  # Images without a recipe for Nix are built from Debian's packages, on the host: such a lane is for `bootproof run`.
  hasNixImages =
    document:
    lib.all (recipe: recipe ? nix || recipe ? tiny || recipe ? disk) (
      lib.attrValues (document.images or { })
    );

  runner =
    executionModel: suffix: name: lane:
    library.mkRunner {
      inherit lane tools executionModel;
      name = "${name}${suffix}";
    };
  single = lib.filterAttrs (name: lane: lane.tier == "single") lanes;
  proofs = lib.mapAttrs' (
    name: lane: lib.nameValuePair "${name}-proof" (library.mkProof { inherit lane tools; })
  ) lanes;

  packages = {
    inherit (pkgs) bootproof bootproof-agent;
    default = pkgs.bootproof;
    single-node-quickstart-image =
      nixosConfigurations.single-node-quickstart.config.system.build.bootproofImage;
    installer-iso = nixosConfigurations.installer-iso.config.system.build.isoImage;
    single-node-trial-vm = nixosConfigurations.single-node-trial.config.system.build.vm;
    netboot-all-in-one = import ./netboot.nix { inherit pkgs; } nixosConfigurations.netboot-all-in-one;
    netboot-control-plane = import ./netboot.nix {
      inherit pkgs;
    } nixosConfigurations.netboot-control-plane;
  }
  // proofs;

  app = program: {
    type = "app";
    inherit program;
  };
  laneApps = lib.mapAttrs (name: lane: app "${runner null "" name lane}/bin/${name}") lanes;
  # Another name for the same lane.
  aliases = lib.optionalAttrs (laneApps ? quickstart) { single-node-trial = laneApps.quickstart; };

  # checks/NAME.nix: a function of all this, and the check `NAME`.
  dropped = lib.mapAttrs' (
    file: type:
    lib.nameValuePair (lib.removeSuffix ".nix" file) (
      import (../checks + "/${file}") {
        inherit
          lib
          library
          nixosConfigurations
          packages
          pkgs
          profiles
          self
          ;
      }
    )
  ) (lib.filterAttrs (file: type: lib.hasSuffix ".nix" file) (builtins.readDir ../checks));
in
{
  inherit nixosModules nixosConfigurations packages;

  apps =
    laneApps
    // aliases
    // {
      default = app "${pkgs.bootproof}/bin/bootproof";
      bootproof = app "${pkgs.bootproof}/bin/bootproof";
    };

  checks =
    dropped
    // lib.mapAttrs' (
      name: lane: lib.nameValuePair "${name}-e2e" (runner "materialized-check-runner" "-e2e" name lane)
    ) lanes
    # Only what takes minutes: the proofs of the others are packages.
    // lib.mapAttrs' (
      name: lane:
      lib.nameValuePair "${name}-sandboxed" (
        library.mkCheck {
          inherit lane tools;
          proof = proofs."${name}-proof";
        }
      )
    ) single;

  lib = library // {
    # For `mkRunner`, `mkProof` and `mkCheck`; they take it by themselves where nothing else is given.
    tools.${system} = tools;
    mkRunner = arguments: library.mkRunner ({ inherit tools; } // arguments);
    mkProof = arguments: library.mkProof ({ inherit tools; } // arguments);
    mkCheck = arguments: library.mkCheck ({ inherit tools; } // arguments);
    # What this project's own CI runs: .github/workflows/ci.yml reads it.
    matrix = library.mkMatrix {
      inherit system;
      checks = lib.attrNames dropped;
      lanes = single;
    };
  };
}
