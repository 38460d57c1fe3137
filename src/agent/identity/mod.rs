//! An identity of its own for a guest that was forked from a checkpoint, or went back to one.
//!
//! Forks begin as one and the same guest: names, numbers, keys, clock, and all that the kernel's random generator will ever
//! give. What always holds: the generator is stirred before anything is drawn from it, and whoever asks for an identity
//! hears what could not be had.
//!
//! What only the firmware or the kernel could change is covered by files of ours: whoever reads the kernel's command line,
//! the boot's number or the product's serial number reads those of this machine.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::mount_bind;
use rustix::rand::{GetRandomFlags, getrandom};

use super::disturb;
use super::init::network::Declared;
use super::kernel_parameters::KernelParameters;
use super::marker::MarkerJournal;
use super::serve::Children;
use super::uevent::Uevents;
use crate::channel::protocol::{Identity, IdentityTaken, Role};

mod entropy;

/// Of the files that cover others; in memory, so that they go with the boot.
const FOLDER: &str = "/run/bootproof/identity";
const COMMAND_LINE: &str = "/proc/cmdline";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const DMI: &str = "/sys/class/dmi/id";
const MACHINE_ID: &str = "/etc/machine-id";
const RANDOM_SEED: &str = "/var/lib/systemd/random-seed";
const SSH: &str = "/etc/ssh";

/// How long the cards that are plugged in may take to appear.
const CARDS: Duration = Duration::from_secs(20);

/// Takes it; the journal of markers is that of the new name from then on.
pub fn take(identity: &Identity, role: Role, children: &Children) -> (IdentityTaken, MarkerJournal) {
    let mut taking = Taking { children, missing: Vec::new() };
    let sample = taking.stir(identity);
    taking.set_clock(identity);
    if let Some(names) = &identity.names {
        taking.cover(Path::new(COMMAND_LINE), "command-line", &format!("{}\n", names.command_line), 0o444);
        taking.name(&names.hostname);
        taking.number(&names.machine_id, &names.boot_id);
        taking.cover(&Path::new(DMI).join("product_serial"), "serial", &format!("{}\n", names.serial), 0o400);
        taking.cover(&Path::new(DMI).join("product_uuid"), "uuid", &format!("{}\n", names.uuid), 0o400);
        taking.network(role, &names.cards);
        let keys = taking.host_keys();
        taking.restart(&identity.restart, keys);
    }
    let Taking { missing, .. } = taking;
    (IdentityTaken { random_sample: sample, missing }, MarkerJournal::of_this_boot())
}

struct Taking<'a> {
    children: &'a Children,
    /// What could not be had, in words.
    missing: Vec<String>,
}

impl Taking<'_> {
    fn missed(&mut self, what: &str, why: impl std::fmt::Display) {
        self.missing.push(format!("{what}: {why}"));
    }

    fn had<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.missed(what, error)).ok()
    }

    /// The first that is drawn afterwards, for who wants to know whether another fork draws the same.
    fn stir(&mut self, identity: &Identity) -> String {
        if let Some(entropy) = &identity.entropy {
            let stirred = entropy::stir(entropy.as_bytes());
            self.had("entropy", stirred);
        }
        let mut sample = [0u8; 32];
        if let Err(error) = getrandom(&mut sample[..], GetRandomFlags::empty()) {
            self.missed("a sample of randomness", error);
        }
        let mut seed = [0u8; 512];
        if Path::new(RANDOM_SEED).exists() && getrandom(&mut seed[..], GetRandomFlags::empty()).is_ok() {
            // What the next boot begins with.
            self.had("the seed for the next boot", fs::write(RANDOM_SEED, seed));
        }
        let sample: String = sample.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = Path::new(FOLDER);
        let written =
            fs::create_dir_all(folder).and_then(|()| fs::write(folder.join("random-sample"), format!("{sample}\n")));
        self.had("a sample of randomness", written);
        sample
    }

    fn set_clock(&mut self, identity: &Identity) {
        self.had("clock", disturb::set_clock(identity.unix_milliseconds));
    }

    fn name(&mut self, hostname: &str) {
        self.had("host name", rustix::system::sethostname(hostname.as_bytes()));
        if Path::new("/etc/hostname").exists() {
            self.had("host name", fs::write("/etc/hostname", format!("{hostname}\n")));
        }
    }

    fn number(&mut self, machine_id: &str, boot_id: &str) {
        if Path::new(MACHINE_ID).exists() {
            self.had("machine id", fs::write(MACHINE_ID, format!("{machine_id}\n")));
        }
        // Markers are numbered for each boot; this one goes on under another number.
        let carried = MarkerJournal::of_this_boot().carry_over(boot_id);
        self.had("numbers of markers", carried);
        self.cover(Path::new(BOOT_ID), "boot-id", &format!("{boot_id}\n"), 0o444);
    }

    /// Lets whoever reads that file read something else.
    fn cover(&mut self, file: &Path, name: &str, content: &str, mode: u32) {
        if !file.exists() {
            return;
        }
        let cover = PathBuf::from(FOLDER).join(name);
        let covered = || -> io::Result<()> {
            // It lies there already in a guest that has been given an identity before.
            let first = !cover.exists();
            fs::create_dir_all(FOLDER)?;
            fs::write(&cover, content)?;
            fs::set_permissions(&cover, fs::Permissions::from_mode(mode))?;
            if first {
                mount_bind(&cover, file)?;
            }
            Ok(())
        };
        self.had(&file.display().to_string(), covered());
    }

    fn network(&mut self, role: Role, cards: &[String]) {
        let found = wait_for_cards(cards);
        self.had("network cards", found);
        let declared = Declared::of(&KernelParameters::read());
        if role == Role::Service {
            declared.leave_files(Path::new("/"));
            if declared.has_places() && Path::new("/run/systemd/netif").exists() {
                self.run("networkctl", &["reload"]);
            }
        }
        // Also where a service will do the same in a moment: who goes on from here has the address.
        declared.apply();
    }

    /// New keys where there were some; of one kind, since the others take seconds.
    fn host_keys(&mut self) -> bool {
        let Ok(entries) = fs::read_dir(SSH) else { return false };
        let ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("ssh_host_") && name.contains("_key")
        };
        let keys: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
        if keys.is_empty() {
            return false;
        }
        for key in &keys {
            self.had("host keys", fs::remove_file(key));
        }
        self.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"]);
        true
    }

    /// Services that have drawn randomness before the fork, or read what has been changed.
    fn restart(&mut self, units: &[String], host_keys: bool) {
        if !Path::new("/run/systemd/system").exists() {
            return;
        }
        let ssh = if host_keys { &["ssh.service"][..] } else { &[] };
        let units: Vec<&str> = units.iter().map(String::as_str).chain(ssh.iter().copied()).collect();
        if !units.is_empty() {
            let arguments: Vec<&str> = std::iter::once("try-restart").chain(units).collect();
            self.run("systemctl", &arguments);
        }
    }

    fn run(&mut self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let ended = self.children.spawn(&mut command).map(|started| self.children.wait(started.pid));
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => self.missed(program, format!("it ended with {status}")),
            Err(error) => self.missed(program, error),
        }
    }
}

/// Returns once the kernel knows them all.
fn wait_for_cards(macs: &[String]) -> io::Result<()> {
    let until = Instant::now() + CARDS;
    let uevents = Uevents::subscribe()?;
    loop {
        let known = cards()?;
        let Some(missing) = macs.iter().find(|mac| !known.contains(mac)) else { return Ok(()) };
        if !uevents.wait("net", Some(until))? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("`{missing}` did not appear")));
        }
    }
}

fn cards() -> io::Result<Vec<String>> {
    let mut macs = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        // One that goes away meanwhile is none.
        macs.push(fs::read_to_string(entry?.path().join("address")).unwrap_or_default().trim().to_owned());
    }
    Ok(macs)
}
