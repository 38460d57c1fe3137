//! From what is desired to what runs: trying, judging, going back.
//!
//! What always holds, at every instant at which the power may go:
//! - The journal says what is being tried before anything is changed for it, and what came of it once that is so.
//! - A trial that was broken off is begun once more, and then rejected: what takes the machine down is not good.
//! - A trial that was found bad is never judged anew: the way back is gone to its end.

use super::activate::{check_health, start_again, switch_to, undo};
use super::host::{Host, Invocation};
use super::journal::{Journal, Store, Trial, shortened};
use super::places::Places;
use super::trees::{self, Fetch, Unusable};
use super::{activate, nixos};
use crate::provisioning::{Bundle, DesiredSystem, DesiredSystemAnswer, DesiredTarget, NodeEvent};

/// How often the activation of one system is begun at most.
const MOST_ATTEMPTS: u32 = 2;

pub struct Engine<'h> {
    places: Places,
    host: &'h dyn Host,
    store: Store,
    /// Where NixOS systems come from.
    pub binary_cache: Option<String>,
}

/// Why a desired system was not taken up.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may go better later; what was being done, and why it failed.
    Later(&'static str, String),
    /// The machine goes down meanwhile.
    Stopping(String),
    /// The journal cannot be written, and without it nothing may be changed.
    Books(String),
}

impl<'h> Engine<'h> {
    pub fn open(places: Places, host: &'h dyn Host) -> Result<Self, String> {
        std::fs::create_dir_all(places.state())
            .map_err(|error| format!("failed to make `{}`: {error}", places.state().display()))?;
        let (mut store, damage) = Store::open(&places.journal())?;
        if let Some(reason) = damage {
            host.say(&reason);
            let event = NodeEvent::Failed { during: "journal".into(), reason };
            store.change(host, "damage", |journal| journal.report(event))?;
        }
        Ok(Self { places, host, store, binary_cache: None })
    }

    pub fn journal(&self) -> &Journal {
        &self.store.journal
    }

    pub fn change(&mut self, step: &str, change: impl FnOnce(&mut Journal)) -> Result<(), String> {
        self.store.change(self.host, step, change)
    }

    /// To be done first: ends what was begun before, or starts what was good.
    pub fn recover(&mut self) -> Result<(), Trouble> {
        match self.journal().trying.clone() {
            None => self.start_good()?,
            Some(Trial { failure: Some(_), .. }) => self.roll_back()?,
            Some(Trial { attempts: MOST_ATTEMPTS.., .. }) => {
                let reason = format!("its activation was broken off {MOST_ATTEMPTS} times: the machine went down");
                self.condemn(&reason)?;
            }
            Some(trial) => {
                self.host.say(&format!("the activation of `{}` was broken off: once more", trial.system.name));
                self.record("again", |journal| {
                    if let Some(trial) = &mut journal.trying {
                        trial.attempts += 1;
                    }
                })?;
                self.attempt()?;
            }
        }
        self.collect_garbage(true);
        Ok(())
    }

    /// Takes up what the deployer desires. `told` is called once it is written down that an activation begins.
    pub fn take(
        &mut self,
        answer: &DesiredSystemAnswer,
        fetch: &Fetch<'_>,
        told: &mut dyn FnMut(&mut Self),
    ) -> Result<(), Trouble> {
        let generation = Some(answer.generation);
        let Some(system) = &answer.system else {
            return self.record("generation", |journal| journal.generation = generation);
        };
        let is_good = self.journal().good.as_ref().is_some_and(|good| is_same(good, system));
        if is_good {
            let name = system.name.clone();
            self.record("named", |journal| {
                journal.generation = generation;
                journal.good = Some(system.clone());
                journal.report(NodeEvent::Active { system: name });
            })?;
            self.host.mark("desired-system-active", &[("system", &system.name)]);
            return Ok(());
        }
        if let Some(reason) = self.journal().rejection(system) {
            let reason = format!("it was rejected before, and is still the same: {reason}");
            self.host.say(&format!("`{}` is not tried: {reason}", system.name));
            let (name, active) = (system.name.clone(), self.active_name());
            return self.record("refused", |journal| {
                journal.generation = generation;
                journal.report(NodeEvent::RolledBack { system: name, active, reason });
            });
        }
        match self.prepare(system, fetch) {
            Ok(()) => {}
            Err(Unusable::Now(during, reason)) => return Err(Trouble::Later(during, reason)),
            Err(Unusable::Ever(reason)) => {
                self.host.say(&format!("`{}` is rejected: {reason}", system.name));
                self.record("unusable", |journal| {
                    journal.generation = generation;
                    journal.reject(system, &reason);
                    let reason = shortened(&reason);
                    journal.report(NodeEvent::Failed { during: "unpack".into(), reason });
                })?;
                self.host.mark("convergence.failed", &[("during", "unpack"), ("reason", &reason)]);
                return Ok(());
            }
        }
        let before = match &system.target {
            DesiredTarget::Nixos { .. } => nixos::active(&self.places),
            DesiredTarget::Tree { .. } => None,
        };
        let trial = Trial { system: system.clone(), attempts: 1, failure: None, before };
        self.record("trying", |journal| {
            journal.generation = generation;
            journal.trying = Some(trial);
            journal.report(NodeEvent::Activating { system: system.name.clone() });
        })?;
        told(self);
        self.attempt()?;
        self.collect_garbage(false);
        Ok(())
    }

    fn record(&mut self, step: &str, change: impl FnOnce(&mut Journal)) -> Result<(), Trouble> {
        self.change(step, change).map_err(Trouble::Books)
    }

    fn active_name(&self) -> Option<String> {
        self.journal().good.as_ref().map(|good| good.name.clone())
    }

    fn prepare(&self, system: &DesiredSystem, fetch: &Fetch<'_>) -> Result<(), Unusable> {
        match &system.target {
            DesiredTarget::Tree { bundle } => trees::prepare(&self.places, self.host, bundle, fetch).map(drop),
            DesiredTarget::Nixos { store_path } => nixos::fetch(self.host, store_path, self.binary_cache.as_deref())
                .map_err(|reason| Unusable::Now("download", reason)),
        }
    }

    /// What was good is so after a boot, too, or that is told: there is nothing better to go back to.
    fn start_good(&mut self) -> Result<(), Trouble> {
        let Some(good) = self.journal().good.clone() else { return Ok(()) };
        let started = start_again(&self.places, self.host, &good)
            .map_err(|reason| ("start", reason))
            .and_then(|()| check_health(&self.places, self.host, &good).map_err(|reason| ("health-check", reason)));
        match started {
            Ok(()) => {
                self.record("started", |journal| journal.report(NodeEvent::Active { system: good.name.clone() }))?;
                self.host.mark("desired-system-active", &[("system", &good.name)]);
            }
            Err((during, reason)) => {
                self.end_if_stopping(&reason)?;
                self.host.say(&format!("`{}` was good before, and is not now: {during}: {reason}", good.name));
                let event = NodeEvent::Failed { during: during.into(), reason: shortened(&reason) };
                self.record("not-started", |journal| journal.report(event))?;
                self.host.mark("convergence.failed", &[("during", during), ("reason", &reason)]);
            }
        }
        Ok(())
    }

    /// Activates what is being tried, and judges it.
    fn attempt(&mut self) -> Result<(), Trouble> {
        let Some(Trial { system, .. }) = self.journal().trying.clone() else { return Ok(()) };
        let judged = switch_to(&self.places, self.host, &system, self.journal().good.as_ref())
            .and_then(|()| check_health(&self.places, self.host, &system));
        match judged {
            Ok(()) => {
                self.record("good", |journal| {
                    journal.trying = None;
                    let before = journal.good.replace(system.clone());
                    // With another health check the same tree is not something to go back to.
                    if before.as_ref().is_some_and(|before| before.target != system.target) {
                        journal.previous = before;
                    }
                    journal.report(NodeEvent::Active { system: system.name.clone() });
                })?;
                self.host.mark("desired-system-active", &[("system", &system.name)]);
                Ok(())
            }
            Err(reason) => {
                self.end_if_stopping(&reason)?;
                self.condemn(&reason)
            }
        }
    }

    /// Units fail, and systemd refuses to start any, when the machine is going down. That says nothing about a system.
    fn end_if_stopping(&self, reason: &str) -> Result<(), Trouble> {
        let asked = Invocation::new("systemctl", &["is-system-running"], activate::ACTIVATION_BOUND);
        // Its status is another than 0 for every state but one.
        let state = match self.host.run(&asked) {
            Ok(said) | Err(said) => said,
        };
        if state.lines().any(|line| line.split([' ', ':']).any(|word| word == "stopping")) {
            return Err(Trouble::Stopping(format!("the machine is going down; not judged: {reason}")));
        }
        Ok(())
    }

    fn condemn(&mut self, reason: &str) -> Result<(), Trouble> {
        self.record("bad", |journal| {
            if let Some(trial) = &mut journal.trying {
                trial.failure = Some(shortened(reason));
            }
        })?;
        self.roll_back()
    }

    fn roll_back(&mut self) -> Result<(), Trouble> {
        let Some(trial) = self.journal().trying.clone() else { return Ok(()) };
        let good = self.journal().good.clone();
        let reason = trial.failure.clone().unwrap_or_default();
        let name = trial.system.name.clone();
        self.host.say(&format!("`{name}` is rejected: {reason}"));
        let active = self.active_name();
        let undone = undo(&self.places, self.host, &trial, good.as_ref());
        if let Err(reason) = &undone {
            self.end_if_stopping(reason)?;
        }
        let (marker, event) = match &undone {
            Ok(()) => {
                let active = active.as_deref().unwrap_or("none");
                let arguments = vec![("system", name.as_str()), ("active", active), ("reason", &reason)];
                (
                    ("rolled-back", arguments),
                    NodeEvent::RolledBack { system: name.clone(), active: self.active_name(), reason: reason.clone() },
                )
            }
            Err(failure) => {
                let arguments = vec![("during", "roll-back"), ("reason", failure.as_str())];
                let reason = shortened(&format!("{failure}; going back because: {reason}"));
                (("convergence.failed", arguments), NodeEvent::Failed { during: "roll-back".into(), reason })
            }
        };
        // It has happened. Told before it is written down, so that a power cut in between has it told twice, not never.
        self.host.mark(marker.0, &marker.1);
        self.record("rejected", |journal| {
            journal.trying = None;
            journal.reject(&trial.system, &reason);
            journal.report(event);
        })
    }

    fn collect_garbage(&self, fetching: bool) {
        let journal = self.journal();
        let trying = journal.trying.as_ref().map(|trial| &trial.system);
        let systems = [journal.good.as_ref(), journal.previous.as_ref(), trying];
        let kept: Vec<&Bundle> = systems
            .into_iter()
            .flatten()
            .filter_map(|system| match &system.target {
                DesiredTarget::Tree { bundle } => Some(bundle),
                DesiredTarget::Nixos { .. } => None,
            })
            .collect();
        trees::collect_garbage(&self.places, self.host, &kept, fetching);
    }
}

/// Whether nothing but the name may differ.
fn is_same(one: &DesiredSystem, other: &DesiredSystem) -> bool {
    one.target == other.target && one.health_check == other.health_check
}
