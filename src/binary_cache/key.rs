//! Signing keys, in Nix's format: `NAME:BASE64`, of the secret's 64 bytes or the public key's 32.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use nix_narinfo::NarInfoSignature;
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result};

/// A key with the name that clients know it by. It cannot be printed; its memory is zeroed when it is dropped.
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// A new key.
    ///
    /// # Errors
    /// Usage: a name that Nix could not read.
    pub fn generate(name: &str) -> Result<Self> {
        check_name(name)?;
        let mut seed = Zeroizing::new([0; 32]);
        crate::secret::random(&mut *seed)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(&seed) })
    }

    /// Reads a key's file, as `nix key generate-secret` and `bootproof cache key` write it.
    ///
    /// # Errors
    /// Usage: it cannot be read, or is no such key.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)
            .map(Zeroizing::new)
            .usage(|| format!("failed to read the key `{}`", file.display()))?;
        Self::parse(text.trim()).map_err(|reason| {
            Error::usage(format!("`{}` holds no secret key of Nix", file.display()))
                .with_source(reason)
                .hint("`bootproof cache key NAME` and `nix key generate-secret` make one")
        })
    }

    /// What is wrong is told without any of the key.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, encoded) = text.split_once(':').ok_or("it has no name followed by a colon")?;
        check_name(name).map_err(|_| "its name is not one that Nix reads")?;
        let bytes = STANDARD.decode(encoded).map(Zeroizing::new).map_err(|_| "what follows the colon is not base64")?;
        let pair: Zeroizing<[u8; 64]> = Zeroizing::new(match bytes.as_slice().try_into() {
            Ok(pair) => pair,
            Err(_) if bytes.len() == 32 => return Err("it is a public key"),
            Err(_) => return Err("a secret key has 64 bytes"),
        });
        let key = SigningKey::from_keypair_bytes(&pair).map_err(|_| "its two halves do not belong together")?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Writes the key to a file that nobody else may read. A file that exists is left alone.
    ///
    /// # Errors
    /// Usage: the file exists, or cannot be made.
    pub fn write(&self, file: &Path) -> Result<()> {
        let context = || format!("failed to write the key to `{}`", file.display());
        let mut output = match File::options().write(true).create_new(true).mode(0o600).open(file) {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::usage(format!("`{}` exists, and no key is written over it", file.display()))
                    .hint("name another file with `--output`"));
            }
            Err(error) => return Err(Error::usage(context()).with_source(error)),
        };
        let pair = Zeroizing::new(self.key.to_keypair_bytes());
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_slice()));
        output.write_all(self.name.as_bytes()).infrastructure(context)?;
        output.write_all(b":").infrastructure(context)?;
        output.write_all(encoded.as_bytes()).infrastructure(context)?;
        output.write_all(b"\n").infrastructure(context)
    }

    /// `NAME:BASE64`, as `trusted-public-keys` takes it.
    pub fn public(&self) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.key.verifying_key().as_bytes()))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Signs a path's fingerprint.
    pub fn sign(&self, fingerprint: &str) -> Result<NarInfoSignature> {
        let signature = self.key.sign(fingerprint.as_bytes());
        NarInfoSignature::from_bytes(&self.name, &signature.to_bytes())
            .infrastructure(|| "failed to write a signature".into())
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = |character: char| character.is_ascii_graphic() && character != ':';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Error::usage(format!("`{name}` cannot be the name of a key"))
            .hint("a name has no colon and no blank, for example `cache.example.org-1`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix_narinfo::TrustedPublicKey;

    use super::*;

    /// Made by `nix key generate-secret --key-name example-1`, and its `nix key convert-secret-to-public`.
    const BY_NIX: (&str, &str) = (
        "example-1:IJ6+9VoG6eehlBf3K86xB56+bnpTRzqHfcehKV1X76loIiwZoIhbneO9ewTg8EWSwIwbQb0BTlrRSVezMudRFg==",
        "example-1:aCIsGaCIW53jvXsE4PBFksCMG0G9AU5a0UlXszLnURY=",
    );

    #[test]
    fn a_key_of_nix_is_read_and_has_the_same_public_part() {
        assert_eq!(SecretKey::parse(BY_NIX.0).ok().unwrap().public(), BY_NIX.1);
    }

    #[test]
    fn a_key_is_written_once_for_its_owner_and_signs_what_its_public_part_verifies() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let made = SecretKey::generate("here-1").unwrap();
        made.write(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(made.write(&file).unwrap_err().to_string().contains("no key is written over it"));
        let read = SecretKey::read(&file).unwrap();
        assert_eq!(read.public(), made.public());
        let trusted = [TrustedPublicKey::parse(&made.public()).unwrap()];
        assert!(read.sign("1;x").unwrap().verify(b"1;x", &trusted).unwrap());
        assert!(!read.sign("1;y").unwrap().verify(b"1;x", &trusted).unwrap());
    }

    #[test]
    fn what_is_no_key_is_told_without_showing_it() {
        let public = SecretKey::generate("a").unwrap().public();
        let mut other = STANDARD.decode(BY_NIX.0.split_once(':').unwrap().1).unwrap();
        other[40] ^= 1;
        let torn = format!("a:{}", STANDARD.encode(other));
        for (text, part) in [
            ("", "no name"),
            (":eA==", "not one that Nix reads"),
            ("a:???", "not base64"),
            ("a:eA==", "64 bytes"),
            (public.as_str(), "public key"),
            (torn.as_str(), "do not belong together"),
        ] {
            assert!(SecretKey::parse(text).err().unwrap().contains(part), "{part}");
        }
        for name in ["", "a:b", "a b"] {
            assert!(SecretKey::generate(name).is_err(), "`{name}`");
        }
    }
}
