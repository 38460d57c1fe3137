//! Targets that are NixOS systems: a generation is one of the system profile's, and Nix keeps what it needs.

use std::fs;
use std::time::Duration;

use super::host::{Host, Invocation};
use super::places::Places;

const PROFILE: &str = "/nix/var/nix/profiles/system";
const COPY_BOUND: Duration = Duration::from_secs(3600);
const SWITCH_BOUND: Duration = Duration::from_secs(900);

/// A path that stands on command lines, and of which a program is run.
fn checked(store_path: &str) -> Result<&str, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    match store_path.strip_prefix("/nix/store/") {
        Some(name) if name.len() > 33 && name.bytes().all(plain) => Ok(store_path),
        _ => Err(format!("`{store_path}` is no store path")),
    }
}

/// Fetches the system; without a cache it has to be there, or come from where the machine fetches everything from.
pub fn fetch(host: &dyn Host, store_path: &str, binary_cache: Option<&str>) -> Result<(), String> {
    let path = checked(store_path)?;
    let invocation = match binary_cache {
        Some(cache) => {
            let words = ["--extra-experimental-features", "nix-command", "copy", "--from", cache, path];
            Invocation::new("nix", &words, COPY_BOUND)
        }
        None => Invocation::new("nix-store", &["--realise", path], COPY_BOUND),
    };
    host.run(&invocation).map(drop)
}

/// The system that the profile has now.
pub fn active(places: &Places) -> Option<String> {
    let path = fs::canonicalize(places.nixos_profile()).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// Makes it the profile's newest generation, which the machine boots from then on, and switches to it.
pub fn switch(host: &dyn Host, store_path: &str) -> Result<(), String> {
    let path = checked(store_path)?;
    host.run(&Invocation::new("nix-env", &["--profile", PROFILE, "--set", path], SWITCH_BOUND))?;
    host.durable("profile");
    let program = format!("{path}/bin/switch-to-configuration");
    host.run(&Invocation::new(program, &["switch"], SWITCH_BOUND)).map(drop)
}
