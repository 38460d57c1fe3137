//! The conversation: what is to be told is told, what is desired is asked for, and waited for where nothing is new.

use std::path::Path;
use std::time::{Duration, Instant};

use super::engine::{self, Engine};
use super::enrol;
use super::host::{Host, ThisHost};
use super::journal::shortened;
use super::places::Places;
use crate::agent::configuration::AgentConfiguration;
use crate::agent::deployer::{Deployer, Pause, Refusal, Token, Trouble, first_pause};
use crate::agent::http::{Client, Trust, Url};
use crate::agent::marker::MarkerJournal;
use crate::agent::{say, serve};
use crate::provisioning::{Bundle, DesiredSystemAnswer, NodeEvent};

/// How long the deployer may take to say that nothing is new.
const WAIT: Duration = Duration::from_secs(60);
/// An answer that tells nothing new sooner than this did not wait.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// After a refusal: somebody has to do something about it.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);
/// The exit status of a machine that the deployer does not take in: `EX_NOPERM` of sysexits. The units do not start what ended
/// with it again; somebody who has done something about it does, or boots the machine.
pub const REFUSED: u8 = 77;
/// How often a download may bring nothing before it is looked whether it still is desired.
const DOWNLOAD_TRIES: u32 = 4;

/// Converges for as long as the machine is up; ends when it goes down, or when it cannot go on.
pub fn run() -> Result<u8, String> {
    let markers = MarkerJournal::of_this_boot();
    let configuration = match enrol::configuration() {
        Ok(configuration) => configuration,
        Err(enrol::Unconfigured::Refused(refusal)) => {
            say(&format!("the machine is not enrolled: {refusal}"));
            let (code, status) = (refusal.code.as_str(), refusal.status.to_string());
            ThisHost { markers }.mark("enrolment.refused", &[("code", code), ("status", &status)]);
            return Ok(REFUSED);
        }
        Err(enrol::Unconfigured::Failed(reason)) => {
            let host = ThisHost { markers };
            host.mark("convergence.failed", &[("during", "configuration"), ("reason", &reason)]);
            return Err(reason);
        }
    };
    let host = ThisHost { markers: markers.or_node(&configuration.node) };
    if let Err(error) = host.markers.emit_once("post-install.boot") {
        say(&format!("failed to emit the marker `post-install.boot`: {error}"));
    }
    let mut engine = Engine::open(Places::below(Path::new("/")), &host)?;
    engine.binary_cache.clone_from(&configuration.binary_cache);
    let boot = serve::boot_id();
    if engine.journal().boot != boot {
        engine.change("booted", |journal| {
            journal.boot = boot;
            journal.report(NodeEvent::Booted);
        })?;
    }
    let mut service = Service::new(&configuration)?;
    // What was begun does not wait for the deployer.
    if let Err(trouble) = engine.recover() {
        return service.end(trouble);
    }
    loop {
        if let Err(trouble) = service.once(&mut engine) {
            return service.end(trouble);
        }
    }
}

struct Service {
    deployer: Deployer,
    credential: Token,
    pause: Pause,
    /// What was said last of what does not work, so that it is not said each time.
    said: String,
    /// Of a desired system that could not be taken up: its generation, what was being done, and how long to wait.
    hindered: Option<(u64, &'static str, Pause)>,
}

impl Service {
    fn new(configuration: &AgentConfiguration) -> Result<Self, String> {
        let trust = match &configuration.ca_certificate {
            Some(pem) => {
                Trust::of_kept_ca(pem).map_err(|reason| format!("the deployer's CA cannot be used: {reason}"))?
            }
            None => Trust::of_system(),
        };
        let url = Url::parse(&configuration.deployer_url)?;
        Ok(Self {
            deployer: Deployer { client: Client::new(trust, say), url, say },
            credential: enrol::credential(configuration),
            pause: first_pause(),
            said: String::new(),
            hindered: None,
        })
    }

    /// The machine goes down: that is no failure of ours.
    fn end(&self, trouble: engine::Trouble) -> Result<u8, String> {
        match trouble {
            engine::Trouble::Later(during, reason) => Err(format!("{during}: {reason}")),
            engine::Trouble::Books(reason) => Err(reason),
            engine::Trouble::Stopping(reason) => {
                say(&reason);
                Ok(0)
            }
        }
    }

    /// Tells, asks, and does what is desired.
    fn once(&mut self, engine: &mut Engine<'_>) -> Result<(), engine::Trouble> {
        if let Err(trouble) = tell(&self.deployer, &self.credential, engine)? {
            self.wait_after(trouble);
            return Ok(());
        }
        let known = match &self.hindered {
            Some((generation, ..)) => Some(*generation),
            None => engine.journal().generation,
        };
        let wait = match &mut self.hindered {
            // Another desired system ends the pause.
            Some((.., pause)) => pause.draw().max(SHORTEST_WAIT),
            None => WAIT,
        };
        let asked = Instant::now();
        let answer = match self.deployer.desired_system(known, wait, &self.credential) {
            Ok(answer) => answer,
            Err(trouble) => {
                self.wait_after(trouble);
                return Ok(());
            }
        };
        self.said.clear();
        let nothing_new = Some(answer.generation) == known;
        if nothing_new && asked.elapsed() < SHORTEST_WAIT {
            self.pause.wait();
        } else {
            self.pause = first_pause();
        }
        if nothing_new && self.hindered.is_none() {
            return Ok(());
        }
        self.take(engine, &answer)
    }

    fn take(&mut self, engine: &mut Engine<'_>, answer: &DesiredSystemAnswer) -> Result<(), engine::Trouble> {
        let (deployer, credential) = (&self.deployer, &self.credential);
        let fetch = |bundle: &Bundle, into: &Path| -> Result<(), String> {
            deployer
                .download(bundle, into, credential, Some(DOWNLOAD_TRIES))
                .map_err(|refusal| refusal.to_string())
                .and_then(|ours| ours)
        };
        let mut told = |engine: &mut Engine<'_>| {
            // Once: whether it can be told is nothing that an activation waits for.
            let _ = tell(deployer, credential, engine);
        };
        match engine.take(answer, &fetch, &mut told) {
            Ok(()) => self.hindered = None,
            Err(engine::Trouble::Later(during, reason)) => {
                say(&format!("the desired system is not taken up: {during}: {reason}"));
                let again = matches!(&self.hindered, Some((generation, before, _))
                    if (*generation, *before) == (answer.generation, during));
                if !again {
                    let event = NodeEvent::Failed { during: during.into(), reason: shortened(&reason) };
                    engine.change("hindered", |journal| journal.report(event)).map_err(engine::Trouble::Books)?;
                    self.hindered = Some((answer.generation, during, first_pause()));
                }
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn wait_after(&mut self, trouble: Trouble) {
        let (reason, after) = match trouble {
            Trouble::Final(refusal) => (refusal.to_string(), Some(AFTER_REFUSAL)),
            Trouble::Again(reason, after) => (reason, after),
        };
        if reason != self.said {
            say(&format!("{reason}; trying again"));
            self.said = reason;
        }
        // Nobody tells us when a server is back.
        std::thread::sleep(after.unwrap_or_else(|| self.pause.draw()));
    }
}

/// Tells the deployer what it has not heard yet, in order. What it says can never have been is not told again.
fn tell(
    deployer: &Deployer,
    credential: &Token,
    engine: &mut Engine<'_>,
) -> Result<Result<(), Trouble>, engine::Trouble> {
    while let Some(report) = engine.journal().outbox.first().cloned() {
        match deployer.report_once(&report, credential) {
            Ok(()) => {}
            Err(Trouble::Final(Refusal { status: 409, code, detail })) => {
                say(&format!("the deployer does not take the report of `{:?}`: {code}: {detail}", report.report));
            }
            Err(trouble) => return Ok(Err(trouble)),
        }
        engine
            .change("told", |journal| journal.outbox.retain(|told| told.id != report.id))
            .map_err(engine::Trouble::Books)?;
    }
    Ok(Ok(()))
}
