//! Files that a run leaves below `artifacts/`: told in the log with their digests once they are whole.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::event::{Kind, Reporter};

/// Tells of a file of the proof (`artifacts/...`).
pub fn report(root: &Path, file: &str, reporter: &Reporter) -> io::Result<()> {
    let mut source = std::fs::File::open(root.join(file))?;
    let mut hasher = Sha256::new();
    let bytes = io::copy(&mut source, &mut HashWriter(&mut hasher))?;
    let sha256 = crate::proof::digest::hexadecimal(&hasher.finalize());
    reporter.info(None, Kind::ArtifactSaved { file: file.into(), bytes, sha256 });
    Ok(())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
