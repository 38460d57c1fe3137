//! SSH into a machine: whose keys, and how they get there.
//!
//! A key that the lane does not name is made here, for this machine and this run, and handed to systemd in the guest (252
//! and later) by QEMU's firmware configuration: as a credential that systemd-tmpfiles reads, before any server starts.
//! What always holds: private keys are in the run's own memory, and in files of its runtime folder that nobody else may
//! read and that go with the machine; nowhere else.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::networks::Networks;
use crate::channel::ssh::{ByteStream, HostKeySource, SshKey, SshLogin, SshPublicKey, host_key_on_console};
use crate::error::{Context, Result};
use crate::lane::model::{SshChoice, SshHostKey};
use crate::machine::qemu::{Identity, SshWay};
use crate::machine::registry::SshAccess;
use crate::secret::Secrets;

/// What systemd reads as a credential for systemd-tmpfiles.
const CREDENTIAL: &str = "opt/io.systemd.credentials/tmpfiles.extra";
/// What a server may take for greeting and key exchange, and again for the login: OpenSSH gives its clients two minutes, and
/// takes a second.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A guest that is silent for so long is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A console's beginning, in which host keys are looked for.
const CONSOLE_LIMIT: u64 = 16 << 20;

/// A machine that is entered by SSH.
pub struct SshMachine {
    pub way: SshWay,
    /// For whoever wants in beside the run.
    pub access: SshAccess,
    /// The file that systemd in the guest is handed, if any.
    credential: Option<PathBuf>,
}

impl SshMachine {
    /// Hands in what the guest has to have.
    pub fn hand_in(&self, identity: &mut Identity) {
        identity.secrets.extend(self.credential.iter().map(|file| (CREDENTIAL.to_owned(), file.clone())));
    }
}

/// Where a machine lives, as far as SSH has to know.
pub struct Place<'a> {
    pub machine: &'a str,
    /// Nobody else's; goes with the machine.
    pub runtime: &'a Path,
    /// The machine's folder in the proof.
    pub evidence: &'a Path,
    /// Deadlines are stretched by this.
    pub factor: f64,
}

/// Makes or reads the keys, and says how the machine is entered.
///
/// # Errors
/// Blocked: a key that the lane names cannot be used. Infrastructure: the files cannot be written.
pub fn prepare(choice: &SshChoice, place: &Place<'_>, secrets: &Secrets, networks: &Networks) -> Result<SshMachine> {
    let mut lines = Vec::new();
    let key = match &choice.key {
        Some(secret) => SshKey::parse(&secrets.fill(&format!("${{secret:{secret}}}"))?)
            .map_err(|error| error.hint(format!("it is the lane's secret `{secret}`")))?,
        None => {
            let key = SshKey::generate("bootproof")?;
            lines.push("d /root/.ssh 0700 root root -".to_owned());
            lines.push(file_line("/root/.ssh/authorized_keys", 0o600, &(key.public().to_line() + "\n")));
            key
        }
    };
    let mut public = None;
    let host_key: HostKeySource = match &choice.host_key {
        SshHostKey::HandedIn => {
            let host_key = SshKey::generate(place.machine)?;
            let path = "/etc/ssh/ssh_host_ed25519_key";
            lines.push(file_line(path, 0o600, &host_key.to_openssh()?));
            lines.push(file_line(&format!("{path}.pub"), 0o644, &(host_key.public().to_line() + "\n")));
            let host_key = host_key.public();
            public = Some(host_key.to_line());
            Arc::new(move || Some(host_key.clone()))
        }
        SshHostKey::Given { key } => {
            let host_key = SshPublicKey::parse(key)?;
            public = Some(host_key.to_line());
            Arc::new(move || Some(host_key.clone()))
        }
        SshHostKey::Console => {
            let console = place.evidence.join("console.raw");
            Arc::new(move || host_key_on_console(&beginning(&console)))
        }
    };
    let credential = match lines.is_empty() {
        true => None,
        false => Some(write(place.runtime, "ssh-credential", (lines.join("\n") + "\n").as_bytes())?),
    };
    let key_file = write(place.runtime, "ssh-key", key.to_openssh()?.as_bytes())?;
    let stretched = |duration: Duration| duration.mul_f64(place.factor.max(1.0));
    let connector = match &choice.network {
        Some(network) => {
            let (joined, machine, port) = (networks.join(network)?, place.machine.to_owned(), choice.port);
            let connector: crate::channel::ssh::Connector = Arc::new(move || {
                let (joined, machine) = (joined.clone(), machine.clone());
                Box::pin(async move { Ok(Box::new(joined.connect(&machine, port).await?) as Box<dyn ByteStream>) })
            });
            Some((connector, network.clone()))
        }
        None => None,
    };
    let login =
        SshLogin { user: choice.user.clone(), key, handshake: stretched(HANDSHAKE), keepalive: stretched(KEEPALIVE) };
    let within = stretched(choice.within.duration());
    let access = SshAccess { user: choice.user.clone(), port: choice.port, key: key_file, host_key: public };
    Ok(SshMachine { way: SshWay { login, host_key, within, port: choice.port, connector }, access, credential })
}

/// A line of tmpfiles.d(5): this file, with this content, whatever was there.
fn file_line(path: &str, mode: u32, content: &str) -> String {
    format!("f+~ {path} {mode:04o} root root - {}", BASE64.encode(content))
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(content))
        .infrastructure(|| format!("failed to write `{}`", path.display()))?;
    Ok(path)
}

/// What a console has printed, without control characters' company: enough to find keys in.
fn beginning(console: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(console) {
        let _ = file.take(CONSOLE_LIMIT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::lane::units::Span;

    #[test]
    fn keys_that_are_made_are_handed_in_and_nobody_else_may_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let choice = SshChoice {
            user: "root".into(),
            port: 22,
            network: None,
            key: None,
            host_key: SshHostKey::HandedIn,
            within: Span::from_secs(10),
        };
        let place = Place { machine: "node01", runtime: folder.path(), evidence: folder.path(), factor: 4.0 };
        let secrets = Secrets::resolve(&BTreeMap::new(), folder.path()).unwrap();
        let machine = prepare(&choice, &place, &secrets, &Networks::default()).unwrap();
        assert_eq!(machine.way.within, Duration::from_secs(40));
        let mut identity = Identity::default();
        machine.hand_in(&mut identity);
        let [(name, file)] = identity.secrets.as_slice() else { panic!() };
        assert!(name.len() <= 55);
        let lines = std::fs::read_to_string(file).unwrap();
        let content = |path: &str| {
            let line = lines.lines().find(|line| line.contains(&format!(" {path} "))).unwrap();
            String::from_utf8(BASE64.decode(line.rsplit(' ').next().unwrap()).unwrap()).unwrap()
        };
        assert_eq!(content("/root/.ssh/authorized_keys").trim_end(), machine.way.login.key.public().to_line());
        let host_key = SshKey::parse(&content("/etc/ssh/ssh_host_ed25519_key")).unwrap();
        assert_eq!(Some(host_key.public().to_line()), machine.access.host_key);
        assert_eq!((machine.way.host_key)().unwrap().to_line(), host_key.public().to_line());
        for file in [file, &machine.access.key] {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
