# bootproof and its agent, out of this checkout.
{ self }:
final: previous:
let
  inherit (final) lib;
  cargo = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  # What cargo reads, and nothing else: a change of a document builds nothing anew.
  src = lib.cleanSourceWith {
    name = "bootproof-source";
    src = ../.;
    filter =
      path: type:
      let
        name = lib.removePrefix (toString ../. + "/") (toString path);
        below = folder: name == folder || lib.hasPrefix "${folder}/" name;
      in
      below "src"
      || below "schemas"
      || below "profiles"
      || below "benches"
      || lib.elem name [
        "Cargo.toml"
        "Cargo.lock"
      ];
  };
  # nixpkgs before 21.05 cannot read Cargo.lock and would want the crates beside it (`cargo vendor`); its Rust is too old in any
  # case, so that there the package only evaluates.
  old = !(final.rustPlatform ? importCargoLock);
  vendored = if old then { cargoVendorDir = "vendor"; } else { cargoLock.lockFile = ../Cargo.lock; };
  common = {
    inherit (cargo.package) version;
    inherit src;
    # The tests boot machines: they are checks of their own.
    doCheck = false;
    meta = {
      inherit (cargo.package) description;
      license = with lib.licenses; [
        mit
        asl20
      ];
      platforms = [ "x86_64-linux" ];
    };
  }
  // vendored;
in
{
  # Static, so that it runs in any guest.
  bootproof-agent = final.rustPlatform.buildRustPackage (
    common
    // {
      pname = "bootproof-agent";
      buildInputs = [ final.glibc.static ];
      RUSTFLAGS = "-C target-feature=+crt-static";
      buildType = if old then "release" else "agent";
      cargoBuildFlags = [
        "--no-default-features"
        "--bin"
        "bootproof-agent"
      ];
    }
  );

  bootproof = final.rustPlatform.buildRustPackage (
    common
    // {
      pname = "bootproof";
      cargoBuildFlags = [
        "--bin"
        "bootproof"
      ];
      # The program finds the guest's agent there.
      postInstall = ''
        mkdir -p $out/libexec/bootproof
        ln -s ${final.bootproof-agent}/bin/bootproof-agent $out/libexec/bootproof/bootproof-agent
        $out/bin/bootproof man $out/share/man/man1
        mkdir -p $out/share/bash-completion/completions $out/share/fish/vendor_completions.d $out/share/zsh/site-functions
        $out/bin/bootproof completions bash >$out/share/bash-completion/completions/bootproof
        $out/bin/bootproof completions fish >$out/share/fish/vendor_completions.d/bootproof.fish
        $out/bin/bootproof completions zsh >$out/share/zsh/site-functions/_bootproof
      '';
      meta = common.meta // {
        mainProgram = "bootproof";
      };
    }
  );
}
