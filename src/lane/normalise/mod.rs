//! From the document to the normalised lane: defaults filled in, names made, references checked. Pure.
//!
//! What always holds: every problem of the document is collected, and a lane is given only when there is none. Paths on
//! the host come out relative to the project's root (or absolute), whatever folder the lane file is in.

mod actions;
mod channels;
mod checkpoints;
mod conditions;
mod deployer;
mod faults;
mod machines;
mod network_boot;
mod networks;
mod ssh;
mod steps;
mod text;

pub use text::{is_address, is_host_name};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::document::{ControlDocument, FailurePatternsDocument, Header, LaneDocument, MarkersDocument, Named};
use super::model::{
    Control, DEFAULT_MARKER_PREFIX, DEFAULT_SEED, FailurePatternRules, LANE_VERSION, Lane, MarkerRules, SecretSource,
    Step, Tier,
};
use super::problem::Problem;
use super::reader::Spanned;
use super::tree::Place;
use super::units::Span;
use crate::marker::built_in_failure_patterns;

/// Bound on a run whose lane file says nothing.
pub const DEFAULT_DEADLINE: Span = Span::from_secs(600);

/// What normalising needs to know beside the document.
pub struct Surroundings<'a> {
    /// The lane file's folder, from the project's root (or absolute).
    pub folder: &'a Path,
    /// Places of entries that lost a part while they were read: their checks would tell what follows from that.
    pub damaged: &'a BTreeSet<(usize, usize)>,
}

/// Checks the document and gives the lane it means, or everything that is wrong with it.
pub fn normalise(document: &LaneDocument, surroundings: &Surroundings<'_>) -> Result<Lane, Vec<Problem>> {
    let mut checker = Checker {
        surroundings,
        problems: Vec::new(),
        secrets: document.secrets.keys().map(|name| name.value.clone()).collect(),
        healed: Vec::new(),
    };
    let header = checker.header(&document.lane);
    let markers = checker.markers(&document.markers);
    let failure_patterns = checker.failure_patterns(&document.failure_patterns);
    let secrets = checker.secrets(&document.secrets);
    let mut images = checker.images(&document.images);
    let mut networks = checker.networks(&document.networks);
    let served = document.deployer.as_ref().and_then(|deployer| deployer.netboot.as_ref());
    let mut machines = checker.machines(&document.machines, served.map(|name| name.as_str()), &mut images);
    checker.attachments(&document.machines, &networks, &mut machines, &header.name);
    checker.reached_by_ssh(&document.machines, &mut machines);
    let deployer = document
        .deployer
        .as_ref()
        .map(|deployer| checker.entry(&deployer.place, |checker| checker.deployer(deployer, &networks, &images)));
    if let Some(deployer) = &deployer {
        checker.deployer_urls(&document.machines, deployer, &networks);
    }
    if let Some(deployer) = &document.deployer {
        checker.systems_can_be_unpacked(deployer, &machines, &images);
    }
    checker.network_boots(&document.machines, &mut networks, &machines, deployer.as_ref());
    let steps = checker
        .steps(document, &faults::Targets { networks: &networks, machines: &machines, deployer: deployer.is_some() });
    checker.heals_fit(&steps);
    faults::mark_fallible(&steps, &mut machines);
    let controls = checker.controls(&document.controls, &steps);
    let qemus = machines.values().filter(|machine| machine.backend.is_virtual()).count();
    let tier = checker.tier(&document.lane, qemus, machines.len());
    let gates = all_steps(&steps).into_iter().filter_map(|step| step.gate.as_ref());
    if let Some(score) = &document.lane.minimum_score
        && gates.clone().all(|gate| gate.hard)
    {
        checker.report(
            Problem::new("a minimum score needs a gate that counts towards it")
                .at(score.place.clone())
                .hint("give a gate `hard = false`, or leave `minimum_score` out"),
        );
    }
    checker.holds_fit(&document.lane, header.deadline, &steps);
    if !checker.problems.is_empty() {
        return Err(checker.problems);
    }
    Ok(Lane {
        version: LANE_VERSION,
        name: header.name,
        profile: header.profile,
        summary: header.summary,
        tier,
        deadline: header.deadline,
        requires: document.requires.clone(),
        budget: document.budget.clone(),
        markers,
        failure_patterns,
        minimum_score: header.minimum_score,
        seed: document.lane.seed.unwrap_or(DEFAULT_SEED),
        secrets,
        images,
        networks,
        machines,
        deployer,
        steps,
        controls,
    })
}

/// The steps and, after each `parallel`, those within it.
pub fn all_steps(steps: &[Step]) -> Vec<&Step> {
    let mut all = Vec::new();
    for step in steps {
        all.push(step);
        if let super::model::Action::Parallel { steps } = &step.action {
            all.extend(all_steps(steps));
        }
    }
    all
}

struct Checker<'a> {
    surroundings: &'a Surroundings<'a>,
    problems: Vec<Problem>,
    secrets: BTreeSet<String>,
    /// What `heal` steps name, to be checked once all steps are known.
    healed: Vec<Spanned<String>>,
}

struct PlainHeader {
    name: String,
    profile: Option<String>,
    summary: String,
    deadline: Span,
    minimum_score: Option<u8>,
}

impl Checker<'_> {
    fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Runs the checks of one entry, and forgets what they find where reading it has found something already.
    fn entry<T>(&mut self, place: &Place, check: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.problems.len();
        let value = check(self);
        if self.surroundings.damaged.contains(&(place.start, place.end)) {
            self.problems.truncate(before);
        }
        value
    }

    fn header(&mut self, header: &Header) -> PlainHeader {
        self.host_name(&header.name, "a lane's name");
        if let Some(profile) = &header.profile {
            self.host_name(profile, "a profile's name");
        }
        if header.summary.trim().is_empty() || header.summary.contains(char::is_control) {
            self.report(
                Problem::new("a summary is one line that says what is proven").at(header.summary.place.clone()),
            );
        }
        if let Some(deadline) = &header.deadline {
            self.not_zero(deadline);
        }
        if let Some(score) = &header.minimum_score
            && score.value > 100
        {
            self.report(Problem::new("a score is a share in percent, at most 100").at(score.place.clone()));
        }
        PlainHeader {
            name: header.name.value.clone(),
            profile: header.profile.as_ref().map(|profile| profile.value.clone()),
            summary: header.summary.trim().to_owned(),
            deadline: header.deadline.as_ref().map_or(DEFAULT_DEADLINE, |deadline| deadline.value),
            minimum_score: header.minimum_score.as_ref().map(|score| score.value),
        }
    }

    fn tier(&mut self, header: &Header, qemus: usize, machines: usize) -> Tier {
        let follows = match (qemus, machines) {
            (0, _) => Tier::Host,
            (1, 1) => Tier::Single,
            _ => Tier::Site,
        };
        let Some(given) = &header.tier else { return follows };
        let wrong = match given.value {
            Tier::Host => qemus > 0,
            Tier::Single => qemus != 1 || machines != 1,
            Tier::Site => machines < 2,
            Tier::Full => false,
        };
        if wrong && machines > 0 {
            let count = if machines == 1 { "one machine".to_owned() } else { format!("{machines} machines") };
            let name = match follows {
                Tier::Host => "host",
                Tier::Single => "single",
                Tier::Site => "site",
                Tier::Full => "full",
            };
            self.report(
                Problem::new(format!("this tier does not fit a lane with {count}"))
                    .at(given.place.clone())
                    .hint(format!("write `{name}`, or leave `tier` out: it follows from the machines")),
            );
        }
        given.value
    }

    fn markers(&mut self, markers: &MarkersDocument) -> MarkerRules {
        if let Some(prefix) = &markers.prefix {
            self.marker_name(prefix, "a marker prefix");
        }
        for (theirs, ours) in &markers.aliases {
            self.marker_name(theirs, "a marker's name");
            self.marker_name(ours, "a marker's name");
        }
        MarkerRules {
            prefix: markers.prefix.as_ref().map_or(DEFAULT_MARKER_PREFIX.into(), |prefix| prefix.value.clone()),
            aliases: plain_map(&markers.aliases),
            require_crc: markers.require_crc,
        }
    }

    fn failure_patterns(&mut self, patterns: &FailurePatternsDocument) -> FailurePatternRules {
        for (name, pattern) in &patterns.add {
            self.plain_name(name, "a failure pattern's name");
            self.regular_expression(&pattern.value, &pattern.place);
            if built_in_failure_patterns().iter().any(|pattern| pattern.name == name.value) {
                self.report(
                    Problem::new(format!("`{}` is a built-in failure pattern", name.value))
                        .at(name.place.clone())
                        .hint("take another name; to replace the built-in one, `silence` it as well"),
                );
            }
        }
        for name in &patterns.silence {
            let mut names = built_in_failure_patterns().iter().map(|pattern| pattern.name);
            if !names.any(|known| known == name.value) {
                self.report(
                    Problem::new(format!("there is no built-in failure pattern `{}`", name.value))
                        .at(name.place.clone())
                        .nearest(name, built_in_failure_patterns().iter().map(|pattern| pattern.name)),
                );
            }
        }
        FailurePatternRules {
            add: plain_map(&patterns.add),
            silence: patterns.silence.iter().map(|name| name.value.clone()).collect(),
        }
    }

    fn secrets(&mut self, secrets: &Named<super::document::SecretDocument>) -> BTreeMap<String, SecretSource> {
        let mut plain = BTreeMap::new();
        for (name, secret) in secrets {
            self.entry(&secret.place, |checker| {
                checker.plain_name(name, "a secret's name");
                let source = match (&secret.environment, &secret.file, &secret.generated) {
                    (Some(variable), None, None) => SecretSource::Environment { variable: variable.value.clone() },
                    (None, Some(path), None) => SecretSource::File { path: checker.host_path(path) },
                    (None, None, Some(Spanned { value: true, .. })) => SecretSource::Generated {},
                    _ => {
                        checker.report(
                            Problem::new(format!("the secret `{}` needs exactly one source", name.value))
                                .at(name.place.clone())
                                .hint("one of `environment = \"VARIABLE\"`, `file = \"path\"` and `generated = true`"),
                        );
                        return;
                    }
                };
                plain.insert(name.value.clone(), source);
            });
        }
        plain
    }

    fn controls(&mut self, controls: &Named<ControlDocument>, steps: &[Step]) -> BTreeMap<String, Control> {
        let all = all_steps(steps);
        let gates = all.iter().filter_map(|step| step.gate.as_ref()).map(|gate| gate.name.as_str());
        let ungated = all.iter().filter(|step| step.gate.is_none()).map(|step| step.name.as_str());
        let names: Vec<&str> = gates.chain(ungated).collect();
        let mut plain = BTreeMap::new();
        for (name, control) in controls {
            self.entry(&control.place, |checker| {
                checker.plain_name(name, "a control's name");
                if control.set.is_empty() {
                    checker.report(
                        Problem::new(format!("the control `{}` changes nothing", name.value))
                            .at(control.set.place.clone())
                            .hint("a control plants a bug: `set = { \"path.in.the.lane\" = value }`"),
                    );
                }
                let fails_at = &control.fails_at;
                if !names.contains(&fails_at.as_str()) {
                    checker.report(
                        Problem::new(format!("the lane has no gate `{}`", fails_at.value))
                            .at(fails_at.place.clone())
                            .label("the control must fail at a gate, or at a step that has none")
                            .nearest(fails_at, names.iter().copied()),
                    );
                }
                plain.insert(
                    name.value.clone(),
                    Control {
                        summary: control.summary.clone(),
                        set: control.set.iter().map(|(path, value)| (path.value.clone(), value.clone())).collect(),
                        fails_at: fails_at.value.clone(),
                    },
                );
            });
        }
        plain
    }

    /// A run cannot end in time when its holds alone take longer.
    fn holds_fit(&mut self, header: &Spanned<Header>, deadline: Span, steps: &[Step]) {
        let holds: std::time::Duration = steps.iter().map(|step| longest_hold(step).duration()).sum();
        if holds >= deadline.duration() && !deadline.duration().is_zero() {
            let place = header.deadline.as_ref().map_or(&header.place, |deadline| &deadline.place);
            self.report(
                Problem::new(format!(
                    "the steps hold for {} in all, and the lane's deadline is {deadline}",
                    Span(holds)
                ))
                .at(place.clone())
                .hint("give the lane a longer `deadline`"),
            );
        }
    }

    /// A path in a lane file is from the lane file's folder; in the lane it is from the project's root.
    fn host_path(&mut self, path: &Spanned<String>) -> PathBuf {
        if path.is_empty() {
            self.report(Problem::new("a path cannot be empty").at(path.place.clone()));
        }
        join(self.surroundings.folder, Path::new(path.as_str()))
    }
}

/// The longest hold that a step takes.
pub fn longest_hold(step: &Step) -> Span {
    match &step.action {
        super::model::Action::Hold { duration } => *duration,
        super::model::Action::Schedule { schedule } => schedule.duration,
        super::model::Action::Parallel { steps } => steps.iter().map(longest_hold).max().unwrap_or_default(),
        _ => Span::default(),
    }
}

/// Joins without asking the file system: `a/b` and `../c` is `a/c`.
pub fn join(folder: &Path, path: &Path) -> PathBuf {
    let mut joined = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match joined.components().next_back() {
                Some(Component::Normal(_)) => {
                    joined.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {}
                Some(Component::ParentDir | Component::CurDir) | None => joined.push(".."),
            },
            other => joined.push(other),
        }
    }
    if joined.as_os_str().is_empty() { PathBuf::from(".") } else { joined }
}

fn plain_map(map: &BTreeMap<Spanned<String>, Spanned<String>>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.value.clone(), value.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_without_the_file_system() {
        for (folder, path, joined) in [
            ("profiles/a/lanes", "../files", "profiles/a/files"),
            ("", "./x", "x"),
            ("a", "../../x", "../x"),
            ("a", "/etc/x", "/etc/x"),
            ("/srv/lane", "../../../x", "/x"),
            ("a", "..", "."),
        ] {
            assert_eq!(join(Path::new(folder), Path::new(path)), Path::new(joined), "{folder} {path}");
        }
    }
}
