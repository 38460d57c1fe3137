//! The plan's method `nixos`: disko lays out the disk, `nixos-install` fills it. Both are programs of NixOS's own medium.

use std::path::Path;

use super::layout::TARGET;
use super::runner::Runner;

/// Where the flake is unpacked.
const FLAKE: &str = "/run/bootproof/configuration";

/// Whether this medium can do it.
pub fn is_possible(runner: &dyn Runner) -> Result<(), String> {
    for (program, option) in [("disko", "--help"), ("nixos-install", "--help")] {
        runner
            .run(program, &[option], None)
            .map_err(|reason| format!("the plan's method is `nixos`, and this medium lacks what it takes: {reason}"))?;
    }
    Ok(())
}

/// Unpacks the flake.
pub fn unpack(runner: &dyn Runner, bundle: &Path) -> Result<(), String> {
    runner.run("mkdir", &["-p", FLAKE], None)?;
    let bundle = bundle.to_string_lossy();
    runner.run("tar", &["--extract", "--zstd", "--file", &bundle, "--directory", FLAKE], None).map(drop)
}

fn reference(attribute: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if attribute.is_empty() || !attribute.bytes().all(plain) {
        return Err(format!("`{attribute}` is no attribute of a flake"));
    }
    Ok(format!("{FLAKE}#{attribute}"))
}

/// Lays out the disk that the plan means, whatever the flake calls it (`main`).
pub fn lay_out(runner: &dyn Runner, attribute: &str, disk: &Path) -> Result<(), String> {
    let flake = reference(attribute)?;
    let disk = disk.to_string_lossy();
    let arguments =
        ["--mode", "destroy,format,mount", "--yes-wipe-all-disks", "--flake", &flake, "--disk", "main", &disk];
    runner.run("disko", &arguments, None).map(drop)
}

/// Installs the configuration.
pub fn install(runner: &dyn Runner, attribute: &str, binary_cache: Option<&str>) -> Result<(), String> {
    let flake = reference(attribute)?;
    let mut arguments = vec!["--root", TARGET, "--flake", &flake, "--no-root-password", "--no-channel-copy"];
    if let Some(cache) = binary_cache {
        arguments.extend(["--option", "extra-substituters", cache]);
    }
    runner.run("nixos-install", &arguments, None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::runner::Noted;
    use super::*;

    #[test]
    fn the_commands_are_these() {
        let runner = Noted::default();
        lay_out(&runner, "worker", Path::new("/dev/vda")).unwrap();
        install(&runner, "worker", Some("http://10.0.2.2:5000")).unwrap();
        let calls = runner.calls.borrow();
        assert!(
            calls[0].starts_with("disko --mode destroy,format,mount") && calls[0].ends_with("--disk main /dev/vda")
        );
        assert!(calls[1].contains("--root /mnt --flake /run/bootproof/configuration#worker"));
        assert!(calls[1].ends_with("--option extra-substituters http://10.0.2.2:5000"));
    }

    #[test]
    fn a_medium_without_the_programs_says_so_and_no_attribute_is_a_path() {
        let runner = Noted { answers: vec![("disko".into(), Err("no such file".into()))], ..Noted::default() };
        assert!(is_possible(&runner).unwrap_err().contains("this medium lacks"));
        assert!(install(&runner, "../x", None).is_err());
    }
}
