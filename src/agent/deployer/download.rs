//! Fetching bundles.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::client::{Deployer, Refusal, SILENCE, Token, Trouble};
use crate::agent::http::{self, Request};
use crate::provisioning::{BUNDLES, Bundle};

impl Deployer {
    /// Fetches a bundle into a file and checks it. It goes on where a cut left off, and behind what the file has already; with
    /// `tries`, until so many in a row have brought nothing. An error of the first kind is the deployer's refusal, one of the
    /// second ours: the bytes are not those that are meant, have no place, or do not come.
    pub fn download(
        &self,
        bundle: &Bundle,
        into: &Path,
        credential: &Token,
        tries: Option<u32>,
    ) -> Result<Result<(), String>, Refusal> {
        let wanted = bundle.digest.strip_prefix("sha256:").unwrap_or_default();
        if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Err(format!("`{}` is no digest", bundle.digest)));
        }
        let mut download = match Download::begin(into, bundle.size) {
            Ok(download) => download,
            Err(error) => return Ok(Err(unwritable(&error))),
        };
        let (mut had, mut failures) = (download.have, 0);
        let outcome = self.until_done(|| match download.go_on(self, bundle, wanted, credential) {
            Err(Trouble::Again(reason, after)) => {
                failures = if download.have > had { 1 } else { failures + 1 };
                had = download.have;
                if tries.is_some_and(|tries| failures >= tries) {
                    Ok(Err(reason))
                } else {
                    Err(Trouble::Again(reason, after))
                }
            }
            other => other,
        })?;
        if let Err(reason) = outcome {
            return Ok(Err(reason));
        }
        if download.is_right(wanted) {
            return Ok(Ok(()));
        }
        let found = download.digest();
        let _ = std::fs::remove_file(into);
        Ok(Err(format!("the bundle's digest is sha256:{found}, and the plan says {}", bundle.digest)))
    }
}

fn unwritable(error: &std::io::Error) -> String {
    format!("failed to keep the bundle: {error}")
}

/// A file that grows to a bundle.
struct Download {
    file: File,
    hasher: Sha256,
    /// Bytes.
    have: u64,
    /// Some of them were there when we came: a power cut may have left anything.
    from_before: bool,
}

impl Download {
    /// With what the file has already; one that is too long is begun anew.
    fn begin(path: &Path, most: u64) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut download = Self { file, hasher: Sha256::new(), have: 0, from_before: false };
        if download.file.metadata()?.len() > most {
            download.file.set_len(0)?;
        }
        let mut chunk = vec![0; 256 << 10];
        loop {
            let count = download.file.read(&mut chunk)?;
            if count == 0 {
                download.from_before = download.have > 0;
                return Ok(download);
            }
            download.hasher.update(&chunk[..count]);
            download.have += count as u64;
        }
    }

    fn begin_anew(&mut self) -> Result<(), String> {
        (self.have, self.hasher, self.from_before) = (0, Sha256::new(), false);
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|error| unwritable(&error))
    }

    fn digest(&self) -> String {
        self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn is_right(&self, wanted: &str) -> bool {
        self.digest().eq_ignore_ascii_case(wanted)
    }

    /// One request, for what is missing.
    fn go_on(
        &mut self,
        deployer: &Deployer,
        bundle: &Bundle,
        wanted: &str,
        credential: &Token,
    ) -> Result<Result<(), String>, Trouble> {
        if self.have == bundle.size {
            if !self.from_before || self.is_right(wanted) {
                return Ok(Ok(()));
            }
            if let Err(reason) = self.begin_anew() {
                return Ok(Err(reason));
            }
        }
        let url = deployer.url.with_path(&format!("{BUNDLES}/{}", bundle.digest));
        let request = Request {
            bearer: Some(credential.expose()),
            from: Some(self.have),
            patience: SILENCE,
            ..Request::get(&url)
        };
        let mut response = deployer.checked(&request)?;
        if self.have > 0 && response.status != 206 {
            // A server that knows no ranges: from the beginning, then.
            if let Err(reason) = self.begin_anew() {
                return Ok(Err(reason));
            }
        }
        (deployer.say)(&format!("the bundle comes, from byte {} of {} on", self.have, bundle.size));
        let again = |reason: String| Err(Trouble::Again(reason, None));
        let mut chunk = vec![0; 256 << 10];
        loop {
            let count = match response.body().read(&mut chunk) {
                Ok(0) if self.have < bundle.size => {
                    return again(format!("the bundle ended at {} of {} bytes", self.have, bundle.size));
                }
                Ok(0) if self.from_before && !self.is_right(wanted) => {
                    let reason = "what was there of the bundle is damaged; it is fetched anew";
                    return Err(Trouble::Again(reason.into(), Some(Duration::ZERO)));
                }
                Ok(0) => return Ok(Ok(())),
                Ok(count) => count,
                Err(error) => {
                    return again(format!("the bundle broke off at {} bytes: {}", self.have, http::reason(&error)));
                }
            };
            self.have += count as u64;
            if self.have > bundle.size {
                return Ok(Err(format!("the bundle is longer than the plan's {} bytes", bundle.size)));
            }
            self.hasher.update(&chunk[..count]);
            if let Err(error) = self.file.write_all(&chunk[..count]) {
                return Ok(Err(unwritable(&error)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, serve};
    use super::*;
    use crate::agent::http::sha256_hex;

    #[test]
    fn a_download_that_breaks_off_goes_on_where_it_was_and_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let bundle = Bundle { digest: format!("sha256:{}", sha256_hex(b"hello world")), size: 11 };
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello".to_vec();
        let (deployer, server) = serve(vec![half.clone(), answer("206 Partial Content", b" world")]);
        let token = Token::new("t".into());
        deployer.download(&bundle, &path, &token, None).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        let heads = server.join().unwrap();
        assert!(!heads[0].contains("Range") && heads[1].contains("Range: bytes=5-"), "{heads:?}");
        assert!(heads[0].contains("Authorization: Bearer t"));

        std::fs::remove_file(&path).unwrap();
        let (deployer, server) = serve(vec![half, answer("200 OK", b"hello world")]);
        deployer.download(&bundle, &path, &token, None).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world", "a server without ranges");
        server.join().unwrap();

        std::fs::remove_file(&path).unwrap();
        let (deployer, server) = serve(vec![answer("200 OK", b"hello_world")]);
        let error = deployer.download(&bundle, &path, &token, None).unwrap().unwrap_err();
        assert!(error.contains("digest") && !path.exists(), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn what_a_file_has_from_before_is_gone_on_with_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let bundle = Bundle { digest: format!("sha256:{}", sha256_hex(b"hello world")), size: 11 };
        let token = Token::new("t".into());
        let fetch = |before: &[u8], answers: Vec<Vec<u8>>| {
            std::fs::write(&path, before).unwrap();
            let (deployer, server) = serve(answers);
            deployer.download(&bundle, &path, &token, None).unwrap().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
            server.join().unwrap()
        };
        assert!(fetch(b"hello world", vec![]).is_empty(), "it was whole");
        let heads = fetch(b"hello", vec![answer("206 Partial Content", b" world")]);
        assert!(heads[0].contains("Range: bytes=5-"), "{heads:?}");
        let whole = || answer("200 OK", b"hello world");
        let heads = fetch(&[0; 11], vec![whole()]);
        assert!(!heads[0].contains("Range"), "{heads:?}");
        let heads = fetch(&[0; 5], vec![answer("206 Partial Content", b" world"), whole()]);
        assert!(heads[0].contains("Range: bytes=5-") && !heads[1].contains("Range"), "{heads:?}");
        assert!(!fetch(&[0; 12], vec![whole()])[0].contains("Range"), "it was too long");
    }

    #[test]
    fn a_bundle_that_does_not_come_is_given_up_where_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let bundle = Bundle { digest: format!("sha256:{}", sha256_hex(b"hello world")), size: 11 };
        let gone = || b"HTTP/1.1 404 Not Found\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_vec();
        let (deployer, server) = serve(vec![gone(), gone()]);
        let error = deployer.download(&bundle, &path, &Token::new("t".into()), Some(2)).unwrap().unwrap_err();
        assert!(error.contains("404"), "{error}");
        server.join().unwrap();
    }
}
