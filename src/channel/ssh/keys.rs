//! The keys of an SSH connection: the one that logs in, and the one by which the guest is known.

use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result};
use crate::secret::random;

/// How cloud-init prints a machine's host keys on its console.
const CONSOLE_BEGIN: &str = "-----BEGIN SSH HOST KEY KEYS-----";
const CONSOLE_END: &str = "-----END SSH HOST KEY KEYS-----";

/// A private key: one that logs in, or a guest's own. Neither printed nor serialised; zeroed when dropped.
#[derive(Clone)]
pub struct SshKey(Arc<PrivateKey>);

impl SshKey {
    /// A new ed25519 key.
    pub fn generate(comment: &str) -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        random(seed.as_mut_slice())?;
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        let key = PrivateKey::new(pair, comment).infrastructure(|| "failed to make an SSH key".into())?;
        Ok(Self(Arc::new(key)))
    }

    /// Reads a key in OpenSSH's own format, without a passphrase.
    ///
    /// # Errors
    /// Blocked: it is no such key, it is encrypted, or of a kind that is not supported (RSA, DSA).
    pub fn parse(text: &str) -> Result<Self> {
        let key = PrivateKey::from_openssh(text.trim_ascii_end().to_owned() + "\n").map_err(|error| {
            Error::blocked("failed to read a private SSH key")
                .with_source(error)
                .hint("it has to be in OpenSSH's format, as `ssh-keygen -t ed25519` writes it")
        })?;
        if key.is_encrypted() {
            return Err(Error::blocked("the private SSH key has a passphrase")
                .hint("nobody is there to type it: give a key without one"));
        }
        supported(&key.algorithm())?;
        Ok(Self(Arc::new(key)))
    }

    /// As OpenSSH keeps it in a file.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>> {
        self.0.to_openssh(LineEnding::LF).infrastructure(|| "failed to write an SSH key".into())
    }

    pub fn public(&self) -> SshPublicKey {
        SshPublicKey(self.0.public_key().clone())
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        self.0.clone()
    }
}

/// A public key: what a guest is known by.
#[derive(Clone, Debug)]
pub struct SshPublicKey(PublicKey);

impl SshPublicKey {
    /// Reads a line as it stands in `authorized_keys` and `*.pub`: `ssh-ed25519 AAAA... [comment]`.
    ///
    /// # Errors
    /// Usage: it is no such line, or of a kind that is not supported (RSA, DSA).
    pub fn parse(line: &str) -> Result<Self> {
        let key = PublicKey::from_openssh(line.trim()).map_err(|error| {
            Error::usage(format!("`{}` is no public SSH key", line.trim()))
                .with_source(error)
                .hint("it is one line: `ssh-ed25519 AAAA...`, as in `/etc/ssh/ssh_host_ed25519_key.pub`")
        })?;
        supported(&key.algorithm())?;
        Ok(Self(key))
    }

    /// The one line, without a comment.
    pub fn to_line(&self) -> String {
        let mut key = self.0.clone();
        key.set_comment("");
        key.to_openssh().unwrap_or_default().trim_end().to_owned()
    }

    /// `SHA256:<base64>`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }

    pub(super) fn is(&self, other: &PublicKey) -> bool {
        self.0.key_data() == other.key_data()
    }
}

fn supported(algorithm: &Algorithm) -> Result<()> {
    match algorithm {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(()),
        other => Err(Error::usage(format!("SSH keys of the kind `{other}` are not supported"))
            .hint("use ed25519 or ECDSA: `ssh-keygen -t ed25519`")),
    }
}

/// The host key that a machine has printed on its console, as cloud-init does: the last whole list's best key.
///
/// Whoever can write to the console can print another one.
pub fn host_key_on_console(console: &str) -> Option<SshPublicKey> {
    let (before, _) = console.rsplit_once(CONSOLE_END)?;
    let (_, list) = before.rsplit_once(CONSOLE_BEGIN)?;
    let keys: Vec<SshPublicKey> = list.lines().filter_map(from_console_line).collect();
    let ed25519 = keys.iter().find(|key| key.algorithm() == Algorithm::Ed25519);
    ed25519.or(keys.first()).cloned()
}

/// A line may have a prefix: what logged it, or the kernel's time.
fn from_console_line(line: &str) -> Option<SshPublicKey> {
    let start = ["ssh-ed25519 ", "ecdsa-sha2-"].iter().filter_map(|kind| line.find(kind)).min()?;
    let mut words = line[start..].split_ascii_whitespace();
    SshPublicKey::parse(&format!("{} {}", words.next()?, words.next()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_file() {
        let key = SshKey::generate("bootproof").unwrap();
        let again = SshKey::parse(&key.to_openssh().unwrap()).unwrap();
        assert_eq!(again.public().to_line(), key.public().to_line());
        assert!(key.public().to_line().starts_with("ssh-ed25519 AAAA"));
        assert_ne!(SshKey::generate("").unwrap().public().fingerprint(), key.public().fingerprint());
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_repeated() {
        let error = SshKey::parse("hunter2-and-more").err().unwrap();
        assert_eq!(error.kind().exit_code(), 3);
        assert!(!error.chain().contains("hunter2"));
        assert!(SshPublicKey::parse("ssh-ed25519 hello").is_err());
    }

    #[test]
    fn the_last_whole_list_on_the_console_counts() {
        let keys: Vec<String> = (0..3).map(|_| SshKey::generate("root@node").unwrap().public().to_line()).collect();
        let console = format!(
            "boot\n{CONSOLE_BEGIN}\n{} root@node\n{CONSOLE_END}\nreboot\n[   12.3] ci-info: x\n{CONSOLE_BEGIN}\n\
             ecdsa-sha2-nistp256 broken\n[   12.4] cloud-init[300]: {} root@node\n{CONSOLE_END}\n{CONSOLE_BEGIN}\n{}\n",
            keys[0], keys[1], keys[2]
        );
        assert_eq!(host_key_on_console(&console).unwrap().to_line(), keys[1]);
        assert!(host_key_on_console("nothing").is_none());
    }
}
