//! The `nix` command: the features that it is called with, and what its complaints mean.

pub(crate) use super::super::command::{Finished, Tool};
use super::super::tools;
use crate::error::{Error, ErrorKind};

/// `nix SUBCOMMAND`, with the features that flakes and the command itself need, whatever the host's configuration says.
pub(crate) fn tool(subcommand: &str) -> Tool<'static> {
    Tool::new("nix").args(["--extra-experimental-features", "nix-command flakes", subcommand])
}

pub(crate) fn is_installed() -> bool {
    tools::find("nix").is_some()
}

/// Something that is wrong with the host and not with what was asked.
struct Trouble {
    /// All of them stand in one line of what Nix says.
    says: &'static [&'static str],
    kind: ErrorKind,
    told: &'static str,
    hints: &'static [&'static str],
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        says: &["experimental Nix feature", "is disabled"],
        kind: ErrorKind::Blocked,
        told: "this Nix does not let its callers enable `nix-command` and `flakes`",
        hints: &["add this line to `/etc/nix/nix.conf` (or `~/.config/nix/nix.conf`): \
             `extra-experimental-features = nix-command flakes`"],
    },
    Trouble {
        says: &["the group", "specified in 'build-users-group' does not exist"],
        kind: ErrorKind::Blocked,
        told: "this Nix has no users to build as",
        hints: &[
            "where root builds for itself, add this line to `/etc/nix/nix.conf`: `build-users-group =`",
            "else install the daemon: `apt-get install nix-setup-systemd` on Debian, or https://nixos.org/download",
        ],
    },
    Trouble {
        says: &["cannot connect to", "daemon"],
        kind: ErrorKind::Blocked,
        told: "the Nix daemon does not answer",
        hints: &["start it: `systemctl start nix-daemon.socket`"],
    },
    Trouble {
        says: &["cannot connect to socket"],
        kind: ErrorKind::Blocked,
        told: "the Nix daemon does not answer",
        hints: &["start it: `systemctl start nix-daemon.socket`"],
    },
    Trouble {
        says: &["daemon-socket", "Permission denied"],
        kind: ErrorKind::Blocked,
        told: "this user may not use the Nix daemon",
        hints: &["add the user to the daemon's group: `usermod --append --groups nix-users USER`"],
    },
    Trouble {
        says: &["big-lock", "Permission denied"],
        kind: ErrorKind::Blocked,
        told: "this user may not write the Nix store",
        hints: &["install the daemon: `apt-get install nix-setup-systemd` on Debian, or https://nixos.org/download"],
    },
    Trouble {
        says: &["creating directory '/nix", "Permission denied"],
        kind: ErrorKind::Blocked,
        told: "there is no Nix store that this user may write",
        hints: &["install the daemon: `apt-get install nix-setup-systemd` on Debian, or https://nixos.org/download"],
    },
    Trouble {
        says: &["namespaces that are required for sandboxing"],
        kind: ErrorKind::Blocked,
        told: "the kernel does not let Nix build in its sandbox",
        hints: &["to build without it, add this line to `/etc/nix/nix.conf`: `sandbox = false`"],
    },
    Trouble {
        says: &["cloning builder process", "Operation not permitted"],
        kind: ErrorKind::Blocked,
        told: "the kernel does not let Nix build in its sandbox",
        hints: &["to build without it, add this line to `/etc/nix/nix.conf`: `sandbox = false`"],
    },
    Trouble {
        says: &["is required to build", "but I am a"],
        kind: ErrorKind::Blocked,
        told: "this host cannot build that",
        hints: &["`nix show-config` tells its systems and features; `kvm` is one where `/dev/kvm` may be used"],
    },
    Trouble {
        says: &["unable to download"],
        kind: ErrorKind::Infrastructure,
        told: "Nix could not fetch what it needs",
        hints: &["without a network, give the inputs by path: `--override-input nixpkgs path:DIR`"],
    },
    Trouble {
        says: &["No space left on device"],
        kind: ErrorKind::Budget,
        told: "the disk is full",
        hints: &["free some space: `nix-collect-garbage` removes what nothing refers to"],
    },
];

/// The error for a complaint that is about the host; `None` for one that is about what was asked. `doing` completes
/// the sentence `failed to ...`.
pub(crate) fn trouble_of_the_host(doing: &str, said: &[String]) -> Option<Error> {
    let (trouble, line) = TROUBLES.iter().find_map(|trouble| {
        let line = said.iter().find(|line| trouble.says.iter().all(|part| line.contains(part)))?;
        Some((trouble, line))
    })?;
    let error = Error::new(trouble.kind, format!("failed to {doing}: {}", trouble.told));
    Some(trouble.hints.iter().fold(error.with_source(line.trim().to_owned()), |error, hint| error.hint(*hint)))
}

/// The error itself of all that Nix said: its last `error:` lines without the trace.
pub(crate) fn error_lines(said: &[String]) -> Vec<String> {
    let mut errors: Vec<String> = Vec::new();
    for line in said {
        if let Some(error) = line.trim().strip_prefix("error:") {
            let error = error.trim().to_owned();
            if !error.is_empty() && !errors.contains(&error) {
                errors.push(error);
            }
        }
    }
    // The first of several only tells what was being evaluated.
    errors.split_off(errors.len().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_troubles_are_told_from_those_of_what_was_asked() {
        let trouble = |line: &str| trouble_of_the_host("build `.#x`", &[line.to_owned()]);
        let error = trouble("error: experimental Nix feature 'flakes' is disabled; use '--extra-...'").unwrap();
        assert_eq!(error.kind(), ErrorKind::Blocked);
        assert!(error.hints()[0].contains("extra-experimental-features = nix-command flakes"));
        let error = trouble("error: the group 'nixbld' specified in 'build-users-group' does not exist").unwrap();
        assert!(error.hints()[0].contains("build-users-group ="));
        assert_eq!(trouble("writing file: No space left on device").unwrap().kind(), ErrorKind::Budget);
        assert!(trouble("error: flake 'path:/x' does not provide attribute 'packages.x86_64-linux.y'").is_none());
        assert!(trouble("error: builder for '/nix/store/x.drv' failed with exit code 1;").is_none());
    }

    #[test]
    fn the_error_is_found_among_what_was_said() {
        let said = ["warning: x", "error: undefined variable 'a'", "", "       at /x:1:2:"].map(String::from);
        assert_eq!(error_lines(&said), ["undefined variable 'a'"]);
    }
}
