//! Finds the guest's agent: the static program that goes into every image.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const NAME: &str = "bootproof-agent";

/// The agent's path: `$BOOTPROOF_AGENT`, else beside the running program, else below its `libexec`, else where cargo puts
/// it. `blocked` when it is nowhere.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(given) = env::var_os("BOOTPROOF_AGENT").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(given);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::blocked(format!("the agent `{}` is not a file", path.display()))
                .hint("`BOOTPROOF_AGENT` has to name the static `bootproof-agent` program"))
        };
    }
    let here = env::current_exe().unwrap_or_default();
    candidates(&here).into_iter().find(|path| path.is_file() && is_static(path)).ok_or_else(|| {
        Error::blocked("the guest's agent `bootproof-agent` was not found as a static program")
            .hint("`make agent` builds it; or name it in the environment variable `BOOTPROOF_AGENT`")
    })
}

/// Where the agent may be, best first, for a program that runs from `executable`.
fn candidates(executable: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Some(folder) = executable.parent() {
        paths.push(folder.join(NAME));
        paths.push(folder.join("../libexec/bootproof").join(NAME));
    }
    // <target>/debug/bootproof, <target>/debug/deps/<test>, <target>/x86_64-unknown-linux-gnu/release/bootproof
    for target in executable.ancestors().skip(2).take(3) {
        for triple in ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl"] {
            paths.push(target.join(triple).join("agent").join(NAME));
        }
    }
    paths
}

/// Whether an ELF program needs no interpreter: cargo also leaves a dynamic build of the agent beside the host's program,
/// which no initramfs could start.
fn is_static(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| super::elf::Elf::parse(&bytes).is_some_and(|elf| !elf.has_interpreter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_from_beside_the_program_to_cargos_folders() {
        let paths = candidates(Path::new("/t/debug/deps/image-123"));
        assert_eq!(paths[0], Path::new("/t/debug/deps/bootproof-agent"));
        assert!(paths.contains(&PathBuf::from("/t/x86_64-unknown-linux-gnu/agent/bootproof-agent")));
        let paths = candidates(Path::new("/usr/bin/bootproof"));
        assert!(paths.contains(&PathBuf::from("/usr/bin/../libexec/bootproof/bootproof-agent")));
    }

    #[test]
    fn a_dynamic_program_is_not_taken_for_the_agent() {
        assert!(!is_static(Path::new("/bin/sh")));
    }
}
