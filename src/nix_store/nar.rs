//! A store path as a NAR: a stream in bounded memory, whose end is given out only when its hash is the database's.

use std::io::{self, BufRead, Read};
use std::path::Path;

use nix_derivation::NixHash;
use nix_nar::Encoder;
use sha2::{Digest, Sha256};

/// What is read at a time.
const BUFFER: usize = 256 << 10;
/// The encoder writes each of its tokens whole; the longest is that of a link, whose target has up to 4096 bytes.
const LONGEST_TOKEN: usize = 8 << 10;

/// The encoder of the kept crate, filling whole buffers.
struct Source {
    encoder: Encoder,
    ended: bool,
}

impl Source {
    fn open(path: &Path) -> io::Result<Self> {
        let encoder = Encoder::builder(path).internal_buffer_size(LONGEST_TOKEN).build().map_err(io::Error::other)?;
        Ok(Self { encoder, ended: false })
    }

    /// Fills the buffer as far as whole tokens fit; 0 at the end only.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !self.ended && buffer.len() - filled >= LONGEST_TOKEN {
            match self.encoder.read(&mut buffer[filled..])? {
                0 => self.ended = true,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

/// Reads a path through: hash and size of its NAR. `carry_on` is asked between pieces.
pub fn nar_hash(path: &Path, carry_on: impl Fn() -> bool) -> io::Result<(NixHash, u64)> {
    let mut source = Source::open(path)?;
    let mut buffer = vec![0; BUFFER];
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        let count = source.fill(&mut buffer)?;
        if count == 0 {
            return Ok((NixHash::Sha256(hasher.finalize().into()), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
        if !carry_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// A NAR that has to come out as the database says. Its last piece is kept back until the hash is right: whoever reads it
/// to the end has read what was signed, and otherwise gets an error in place of the end.
pub struct NarReader {
    source: Source,
    buffer: Vec<u8>,
    /// What of the buffer was not given out yet.
    position: usize,
    filled: usize,
    hasher: Sha256,
    read: u64,
    size: u64,
    hash: NixHash,
    ended: bool,
}

impl NarReader {
    /// `size` in bytes.
    pub fn open(path: &Path, hash: NixHash, size: u64) -> io::Result<Self> {
        Ok(Self {
            source: Source::open(path)?,
            buffer: vec![0; BUFFER],
            position: 0,
            filled: 0,
            hasher: Sha256::new(),
            read: 0,
            size,
            hash,
            ended: false,
        })
    }

    fn refill(&mut self) -> io::Result<()> {
        let count = self.source.fill(&mut self.buffer)?;
        self.hasher.update(&self.buffer[..count]);
        self.read += count as u64;
        let more = self.read < self.size && count > 0;
        if !more {
            self.check()?;
        }
        self.ended = !more;
        (self.position, self.filled) = (0, count);
        Ok(())
    }

    /// Whether all is read, and nothing else than was expected.
    fn check(&mut self) -> io::Result<()> {
        let whole = self.read == self.size && self.source.fill(&mut [0; LONGEST_TOKEN])? == 0;
        let hash = NixHash::Sha256(std::mem::take(&mut self.hasher).finalize().into());
        if whole && hash == self.hash {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its content is not what the Nix store's database says"))
    }
}

impl BufRead for NarReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.filled && !self.ended {
            self.refill()?;
        }
        Ok(&self.buffer[self.position..self.filled])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for NarReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder with all that a NAR can hold, larger than a buffer, with a link as long as links can be.
    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/big"), vec![7; 3 * BUFFER + 5]).unwrap();
        fs::write(at("a/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at("a/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("empty"), "").unwrap();
        symlink("x".repeat(4095), at("long")).unwrap();
        for number in 0..500 {
            fs::write(at(&format!("a/{number:0200}")), [0; 3]).unwrap();
        }
        folder
    }

    /// By the plain reading of the crate, in one go.
    fn expected(path: &Path) -> (Vec<u8>, NixHash) {
        let mut whole = Vec::new();
        let mut encoder = Encoder::builder(path).internal_buffer_size(LONGEST_TOKEN).build().unwrap();
        encoder.read_to_end(&mut whole).unwrap();
        let hash = NixHash::Sha256(Sha256::digest(&whole).into());
        (whole, hash)
    }

    #[test]
    fn a_path_is_read_whole_and_its_hash_is_that_of_what_was_read() {
        let folder = tree();
        let (whole, hash) = expected(folder.path());
        assert_eq!(nar_hash(folder.path(), || true).unwrap(), (hash.clone(), whole.len() as u64));
        let mut read = Vec::new();
        NarReader::open(folder.path(), hash, whole.len() as u64).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == whole);
    }

    #[test]
    fn what_is_not_as_recorded_never_ends_well() {
        let folder = tree();
        let (whole, hash) = expected(folder.path());
        let size = whole.len() as u64;
        let wrong = NixHash::Sha256([1; 32]);
        for (hash, size) in
            [(wrong, size), (hash.clone(), size - 1), (hash.clone(), size + 1), (hash.clone(), size - 300_000)]
        {
            let mut read = Vec::new();
            let error = NarReader::open(folder.path(), hash, size).unwrap().read_to_end(&mut read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!((read.len() as u64) < size, "the end is kept back: {} of {size}", read.len());
        }
        let mut reader = NarReader::open(folder.path(), hash, size).unwrap();
        reader.fill_buf().unwrap();
        fs::remove_file(folder.path().join("long")).unwrap();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn reading_through_can_be_stopped() {
        let folder = tree();
        assert_eq!(nar_hash(folder.path(), || false).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
