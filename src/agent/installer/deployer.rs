//! The conversation with the deployer: phoning home, reporting, fetching the bundle.
//!
//! Waiting for it is waiting for somebody who cannot notify us, perhaps because he is not there yet: a request that fails is
//! sent again after a time that grows and varies, for as long as it takes. Only a refusal ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::parameters::Token;
use crate::agent::http::{Client, Failure, Request, Response, Url};
use crate::provisioning::{
    Assignment, BUNDLES, Bundle, NODE_EVENTS, NodeEvent, NodeEventReport, PHONE_HOME, PhoneHome, PhoneHomeAnswer,
    Problem, VERSION,
};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What an answer may have at most, in bytes.
const ANSWER_LIMIT: u64 = 4 << 20;
/// Silence in a download that counts as a network that is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// The deployer, as this machine speaks to it.
pub struct Deployer {
    pub client: Client,
    pub url: Url,
    pub say: fn(&str),
}

/// A final no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// The deployer's word for it, for programs.
    pub code: String,
    pub detail: String,
}

/// Why a single request came to nothing.
enum Trouble {
    Final(Refusal),
    /// What happened, and after how long to ask again, where the deployer said so.
    Again(String, Option<Duration>),
}

/// A pause that doubles, and half of which is chance: machines that were switched on at once do not ask at once for ever.
pub struct Pause(Duration);

pub fn first_pause() -> Pause {
    Pause(FIRST_PAUSE)
}

impl Pause {
    /// Nobody tells us when a server is back.
    pub fn wait(&mut self) {
        std::thread::sleep(self.next(chance()));
    }

    fn next(&mut self, chance: u8) -> Duration {
        let half = self.0 / 2;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        half + half * u32::from(chance) / 255
    }
}

fn chance() -> u8 {
    let mut byte = [0];
    // Without entropy there is no chance, and nothing worse.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::INSECURE);
    byte[0]
}

impl Deployer {
    /// Asks until there is an assignment.
    pub fn phone_home(&self, message: &PhoneHome, token: Option<&Token>) -> Result<(String, Assignment), Refusal> {
        self.until_done(|| {
            let answer: PhoneHomeAnswer = self.post(PHONE_HOME, message, token.map(Token::expose))?;
            match answer.assignment {
                Some(assignment) => Ok((answer.node, assignment)),
                None => {
                    let text =
                        format!("the deployer knows this machine as `{}` and has no work for it yet", answer.node);
                    let after = answer.retry_after.map(Duration::from_secs);
                    Err(Trouble::Again(text, Some(after.unwrap_or(LONGEST_PAUSE))))
                }
            }
        })
    }

    /// Reports; comes back once the deployer has it.
    pub fn report(&self, report: &NodeEventReport, credential: &Token) -> Result<(), Refusal> {
        self.until_done(|| self.post_only(NODE_EVENTS, report, Some(credential.expose())).map(drop))
    }

    /// Reports what is the last that can be done: tried a few times only.
    pub fn report_last(&self, report: &NodeEventReport, credential: &Token) -> Result<(), String> {
        let mut pause = Pause(FIRST_PAUSE);
        let mut last = String::new();
        for _ in 0..5 {
            match self.post_only(NODE_EVENTS, report, Some(credential.expose())) {
                Ok(_) => return Ok(()),
                Err(Trouble::Final(refusal)) => return Err(refusal.to_string()),
                Err(Trouble::Again(reason, after)) => {
                    last = reason;
                    std::thread::sleep(after.unwrap_or_else(|| pause.next(chance())).min(Duration::from_secs(5)));
                }
            }
        }
        Err(last)
    }

    /// Fetches a bundle into a file, going on where a cut left off, and checks it. An error of the first kind is the
    /// deployer's refusal, one of the second ours: the bytes are not those that the plan means, or have no place.
    pub fn download(&self, bundle: &Bundle, into: &Path, credential: &Token) -> Result<Result<(), String>, Refusal> {
        let wanted = bundle.digest.strip_prefix("sha256:").unwrap_or_default().to_owned();
        if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Err(format!("`{}` is no digest", bundle.digest)));
        }
        let mut file = match File::create(into) {
            Ok(file) => file,
            Err(error) => return Ok(Err(format!("failed to make `{}`: {error}", into.display()))),
        };
        let url = self.url.with_path(&format!("{BUNDLES}/{}", bundle.digest));
        let mut hasher = Sha256::new();
        let mut have = 0;
        let outcome = self.until_done(|| {
            let request = Request {
                bearer: Some(credential.expose()),
                from: Some(have),
                patience: SILENCE,
                ..Request::get(&url)
            };
            let mut response = self.checked(&request)?;
            if have > 0 && response.status != 206 {
                // A server that knows no ranges: from the beginning, then.
                if let Err(error) = file.set_len(0).and_then(|()| std::io::Seek::rewind(&mut file)) {
                    return Ok(Err(format!("failed to write `{}`: {error}", into.display())));
                }
                hasher = Sha256::new();
                have = 0;
            }
            let mut chunk = vec![0; 256 << 10];
            loop {
                let count = match response.body().read(&mut chunk) {
                    Ok(0) if have == bundle.size => return Ok(Ok(())),
                    Ok(0) => {
                        return Err(Trouble::Again(
                            format!("the bundle ended at {have} of {} bytes", bundle.size),
                            None,
                        ));
                    }
                    Ok(count) => count,
                    Err(error) => {
                        return Err(Trouble::Again(format!("the bundle broke off at {have} bytes: {error}"), None));
                    }
                };
                have += count as u64;
                if have > bundle.size {
                    return Ok(Err(format!("the bundle is longer than the plan's {} bytes", bundle.size)));
                }
                hasher.update(&chunk[..count]);
                if let Err(error) = file.write_all(&chunk[..count]) {
                    return Ok(Err(format!("failed to keep the bundle in memory: {error}")));
                }
            }
        })?;
        if let Err(reason) = outcome {
            return Ok(Err(reason));
        }
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(&wanted) {
            return Ok(Ok(()));
        }
        let _ = std::fs::remove_file(into);
        Ok(Err(format!("the bundle's digest is sha256:{found}, and the plan says {}", bundle.digest)))
    }

    /// Does it again until it is done or refused. What went wrong is said once, not each time.
    fn until_done<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Refusal> {
        let mut pause = Pause(FIRST_PAUSE);
        let mut said = String::new();
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Trouble::Final(refusal)) => return Err(refusal),
                Err(Trouble::Again(reason, after)) => {
                    if reason != said {
                        (self.say)(&format!("{reason}; trying again"));
                        said = reason;
                    }
                    // Nobody tells us when a server is back.
                    std::thread::sleep(after.unwrap_or_else(|| pause.next(chance())));
                }
            }
        }
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, bearer: Option<&str>) -> Result<T, Trouble> {
        let mut response = self.post_only(path, body, bearer)?;
        let bytes = response.text(ANSWER_LIMIT).map_err(|error| Trouble::Again(error.to_string(), None))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::Again(format!("failed to read the deployer's answer: {error}"), None))
    }

    fn post_only(&self, path: &str, body: &impl Serialize, bearer: Option<&str>) -> Result<Response, Trouble> {
        let url = self.url.with_path(path);
        let body = serde_json::to_vec(body).map_err(|error| Trouble::Again(error.to_string(), None))?;
        self.checked(&Request { method: "POST", bearer, body: Some(&body), ..Request::get(&url) })
    }

    fn checked(&self, request: &Request<'_>) -> Result<Response, Trouble> {
        let mut response = self.client.send(request).map_err(|Failure(reason)| Trouble::Again(reason, None))?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        let after = response.header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let bytes = response.text(64 << 10).unwrap_or_default();
        let problem: Option<Problem> = serde_json::from_slice(&bytes).ok();
        let code = problem.as_ref().map_or_else(|| "unknown".to_owned(), |problem| problem.code.clone());
        let detail = problem.map(|problem| problem.detail.unwrap_or(problem.title)).unwrap_or_default();
        let refusal = Refusal { status: response.status, code, detail };
        if matches!(refusal.status, 401 | 403 | 409) {
            return Err(Trouble::Final(refusal));
        }
        Err(Trouble::Again(refusal.to_string(), after))
    }
}

/// The same for every way there.
pub fn report(id: &str, event: NodeEvent) -> NodeEventReport {
    NodeEventReport { version: VERSION, id: id.into(), report: event }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the deployer answered {} ({})", self.status, self.code)?;
        if self.detail.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;
    use crate::agent::http::{Trust, sha256_hex};

    #[test]
    fn pauses_grow_to_a_bound_and_vary() {
        let mut pause = Pause(FIRST_PAUSE);
        assert_eq!(pause.next(0), FIRST_PAUSE / 2);
        assert_eq!(pause.next(255), FIRST_PAUSE * 2);
        for _ in 0..20 {
            pause.next(7);
        }
        assert_eq!(pause.next(255), LONGEST_PAUSE);
    }

    /// Answers connection after connection with these bytes; gives the requests' heads back.
    fn serve(answers: Vec<Vec<u8>>) -> (Deployer, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let server = std::thread::spawn(move || {
            let mut heads = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                    head.push_str(&line);
                }
                reader.read_exact(&mut vec![0; length]).unwrap();
                reader.into_inner().write_all(&answer).unwrap();
                heads.push(head);
            }
            heads
        });
        (Deployer { client: Client::new(Trust::of_system(), |_| {}), url, say: |_| {} }, server)
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    }

    #[test]
    fn a_download_that_breaks_off_goes_on_where_it_was_and_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let bundle = Bundle { digest: format!("sha256:{}", sha256_hex(b"hello world")), size: 11 };
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello".to_vec();
        let (deployer, server) = serve(vec![half.clone(), answer("206 Partial Content", b" world")]);
        let token = Token::new("t".into());
        deployer.download(&bundle, &path, &token).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        let heads = server.join().unwrap();
        assert!(!heads[0].contains("Range") && heads[1].contains("Range: bytes=5-"), "{heads:?}");
        assert!(heads[0].contains("Authorization: Bearer t"));

        let (deployer, server) = serve(vec![half, answer("200 OK", b"hello world")]);
        deployer.download(&bundle, &path, &token).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world", "a server without ranges");
        server.join().unwrap();

        let (deployer, server) = serve(vec![answer("200 OK", b"hello_world")]);
        let error = deployer.download(&bundle, &path, &token).unwrap().unwrap_err();
        assert!(error.contains("digest") && !path.exists(), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_busy_deployer_is_asked_again_and_a_refusal_is_final() {
        let busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_vec();
        let (deployer, server) = serve(vec![busy, answer("204 No Content", b"")]);
        let message = report("1", NodeEvent::Booted);
        deployer.report(&message, &Token::new("t".into())).unwrap();
        server.join().unwrap();

        let problem = br#"{"title":"no","status":401,"detail":"it was used","code":"token-used"}"#;
        let (deployer, server) = serve(vec![answer("401 Unauthorized", problem)]);
        let refusal = deployer.report(&message, &Token::new("hunter2".into())).unwrap_err();
        assert_eq!((refusal.status, refusal.code.as_str()), (401, "token-used"));
        assert!(!refusal.to_string().contains("hunter2"));
        server.join().unwrap();
    }
}
