//! The folder that a deployer keeps its state in: one deployer at a time.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, Error, Result};
use crate::proof::sync_directory;
use crate::secret::{Secret, hex, random};

/// The file that holds the admin token.
pub const ADMIN_TOKEN: &str = "admin-token";

/// Held for as long as a deployer works on it.
#[derive(Debug)]
pub struct StateFolder {
    pub path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// # Errors
    /// Blocked: another deployer uses it.
    pub fn lock(path: &Path) -> Result<Self> {
        let said = || format!("failed to use the deployer's state folder `{}`", path.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).infrastructure(said)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .infrastructure(said)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::blocked(said())
                .with_source("a deployer is using it")
                .hint("end that one first, or give this one a folder of its own")),
            Err(error) => Err(Error::infrastructure(said()).with_source(error)),
        }
    }

    /// The admin token; made where there is none. Its file can be read by its owner alone.
    pub fn admin_token(&self) -> Result<Secret> {
        let path = self.path.join(ADMIN_TOKEN);
        if let Some(token) = read_token(&path)? {
            return Ok(token);
        }
        let token = new_secret()?;
        let text = zeroize::Zeroizing::new(format!("{}\n", token.expose()));
        // Written through a file of its own that is made for the owner alone.
        write_private(&path, text.as_bytes())?;
        Ok(token)
    }
}

/// The token in a file; `None` where there is none.
///
/// # Errors
/// Blocked: it cannot be read, or is too short to be one.
pub fn read_token(path: &Path) -> Result<Option<Secret>> {
    let said = || format!("failed to read the token in `{}`", path.display());
    match fs::read_to_string(path) {
        Ok(text) => {
            let text = zeroize::Zeroizing::new(text);
            if text.trim().len() < SHORTEST_TOKEN {
                return Err(Error::blocked(said())
                    .with_source(format!("it has fewer than {SHORTEST_TOKEN} characters"))
                    .hint("it could be guessed; take a longer one"));
            }
            Ok(Some(Secret::new(text.trim().to_owned())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::blocked(said()).with_source(error)),
    }
}

/// Characters. What is shorter could be guessed.
pub const SHORTEST_TOKEN: usize = 16;

/// 32 random bytes, hexadecimal.
pub fn new_secret() -> Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    random(bytes.as_mut_slice())?;
    Ok(Secret::new(hex(bytes.as_slice())))
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let said = || format!("failed to write `{}`", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Temporary files are their owner's alone.
    let mut partial = tempfile::NamedTempFile::new_in(folder).infrastructure(said)?;
    partial.write_all(bytes).and_then(|()| partial.as_file().sync_all()).infrastructure(said)?;
    partial.persist(path).infrastructure(said)?;
    sync_directory(folder).infrastructure(said)
}
