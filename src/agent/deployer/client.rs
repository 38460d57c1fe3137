//! The conversation with the deployer: phoning home, reporting, asking what is desired.
//!
//! Waiting for it is waiting for somebody who cannot notify us, perhaps because he is not there yet: a request that fails is
//! sent again after a time that grows and varies, for as long as it takes. Only a refusal ends it.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::http::{Client, Failure, Request, Response, Url};
use crate::provisioning::{
    Assignment, DESIRED_SYSTEM, DesiredSystemAnswer, NODE_EVENTS, NodeEvent, NodeEventReport, PHONE_HOME, PhoneHome,
    PhoneHomeAnswer, Problem, VERSION,
};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What an answer may have at most, in bytes.
const ANSWER_LIMIT: u64 = 4 << 20;
/// Silence in a download that counts as a network that is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(..)")
    }
}

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
#[derive(Debug)]
pub enum Trouble {
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
    /// How long to wait next, and longer the next time.
    pub fn draw(&mut self) -> Duration {
        self.next(chance())
    }

    /// Nobody tells us when a server is back.
    pub fn wait(&mut self) {
        std::thread::sleep(self.draw());
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

    /// Reports, once.
    pub fn report_once(&self, report: &NodeEventReport, credential: &Token) -> Result<(), Trouble> {
        self.post_only(NODE_EVENTS, report, Some(credential.expose())).map(drop)
    }

    /// Asks, once, what this machine shall run; with a generation that is known, waits that long for another.
    pub fn desired_system(
        &self,
        known: Option<u64>,
        wait: Duration,
        credential: &Token,
    ) -> Result<DesiredSystemAnswer, Trouble> {
        let path = match known {
            Some(known) => format!("{DESIRED_SYSTEM}?known={known}&wait={}", wait.as_secs()),
            None => DESIRED_SYSTEM.to_owned(),
        };
        let url = self.url.with_path(&path);
        let patience = wait + SILENCE;
        let mut response =
            self.checked(&Request { bearer: Some(credential.expose()), patience, ..Request::get(&url) })?;
        let answer: DesiredSystemAnswer = read(&mut response)?;
        if answer.version != VERSION {
            let version = answer.version;
            return Err(Trouble::Again(
                format!("the deployer speaks version {version}, and this agent {VERSION}"),
                None,
            ));
        }
        Ok(answer)
    }

    /// Does it again until it is done or refused. What went wrong is said once, not each time.
    pub(super) fn until_done<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Refusal> {
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
        read(&mut response)
    }

    fn post_only(&self, path: &str, body: &impl Serialize, bearer: Option<&str>) -> Result<Response, Trouble> {
        let url = self.url.with_path(path);
        let body = serde_json::to_vec(body).map_err(|error| Trouble::Again(error.to_string(), None))?;
        self.checked(&Request { method: "POST", bearer, body: Some(&body), ..Request::get(&url) })
    }

    pub(super) fn checked(&self, request: &Request<'_>) -> Result<Response, Trouble> {
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

fn read<T: DeserializeOwned>(response: &mut Response) -> Result<T, Trouble> {
    let bytes = response.text(ANSWER_LIMIT).map_err(|error| Trouble::Again(error.to_string(), None))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Trouble::Again(format!("failed to read the deployer's answer: {error}"), None))
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
    use super::super::testing::{answer, serve};
    use super::*;

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
