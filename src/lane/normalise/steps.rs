//! Steps: exactly one action each, names made where the file gives none, bounds filled in.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use super::actions::program;
use super::channels::agents_alone;
use super::faults::Targets;
use crate::lane::document::{GateForm, LaneDocument, StepDocument, Terse};
use crate::lane::model::{Action, Backend, Gate, Machine, PowerAction, Step};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::Span;

/// Bounds for steps whose lane file gives none, before scaling. `StepDocument::within` tells them to the reader.
pub(super) mod default_bound {
    use crate::lane::units::Span;

    pub const EXPECTATION: Span = Span::from_secs(60);
    pub const AWAIT: Span = Span::from_secs(60);
    pub const COMMAND: Span = Span::from_secs(60);
    pub const COPY: Span = Span::from_secs(60);
    pub const POWER: Span = Span::from_secs(60);
    pub const FAULT: Span = Span::from_secs(60);
    pub const REQUEST: Span = Span::from_secs(30);
    pub const REBOOT: Span = Span::from_secs(120);
    pub const CHECKPOINT: Span = Span::from_secs(120);
    pub const SCRIPT: Span = Span::from_secs(300);
}

const ACTIONS: &str = "`expect`, `await`, `exec`, `host`, `http`, `tcp`, `copy`, `power`, `reboot`, `checkpoint`, `restore`, `hold`, `fault`, `heal`, `schedule`, `deployer`, `script` or `parallel`";

/// Names that are taken, with where the file gave them.
#[derive(Default)]
struct Names {
    steps: BTreeMap<String, Place>,
    gates: BTreeMap<String, Place>,
    /// Made for steps without a name, with how often each was wanted.
    made: BTreeMap<String, u32>,
}

impl Checker<'_> {
    pub(super) fn steps(&mut self, document: &LaneDocument, targets: &Targets<'_>) -> Vec<Step> {
        if document.steps.is_empty() {
            self.report(
                Problem::new("the lane has no steps, so it would prove nothing")
                    .at(document.lane.place.clone())
                    .hint("add one: `[[steps]]` with `expect = [\"boot\"]`"),
            );
        }
        // Given names first, so that a made one never takes them.
        let mut names = Names::default();
        for step in &document.steps {
            self.given_names(step, &mut names);
        }
        let steps: Vec<Step> = document
            .steps
            .iter()
            .map(|step| self.entry(&step.place, |checker| checker.step(step, targets, &mut names, false)))
            .collect();
        self.checkpoints(&document.steps, &steps);
        steps
    }

    fn given_names(&mut self, step: &StepDocument, names: &mut Names) {
        if let Some(name) = &step.name {
            self.plain_name(name, "a step's name");
            if let Some(first) = names.steps.insert(name.value.clone(), name.place.clone()) {
                self.report(
                    Problem::new(format!("two steps are called `{}`", name.value))
                        .at(name.place.clone())
                        .also(first, "the first one"),
                );
            }
        }
        if let Some(gate) = &step.gate {
            let name = gate_name(gate);
            self.plain_name(&name, "a gate's name");
            if let Some(first) = names.gates.insert(name.value.clone(), name.place.clone()) {
                self.report(
                    Problem::new(format!("two gates are called `{}`", name.value))
                        .at(name.place)
                        .also(first, "the first one"),
                );
            }
        }
        for inner in step.parallel.iter().flat_map(|inner| inner.iter()) {
            self.given_names(inner, names);
        }
    }

    fn step(&mut self, step: &Spanned<StepDocument>, targets: &Targets<'_>, names: &mut Names, inner: bool) -> Step {
        self.shape(step, inner);
        let bound = step.within.as_ref().map(|within| within.value);
        if let Some(within) = &step.within {
            self.not_zero(within);
        }
        let (action, within, made) = self.action(step, bound, targets, names);
        let on = self.on(step, &action, targets.machines);
        if let Some(what) = agents_alone(&action) {
            let place = given_actions(step).first().map_or(&step.place, |(_, place)| *place);
            let machines = on.iter().filter_map(|name| Some((name, &targets.machines.get(name)?.channel)));
            self.channel_fits(what, place, machines);
        }
        if let (Action::Fault { fault }, Some(given)) = (&action, &step.fault) {
            self.fault_fits(fault, &given.place, &on, targets);
        }
        Step {
            name: match &step.name {
                Some(name) => name.value.clone(),
                None => names.make(&made),
            },
            on,
            within,
            gate: step.gate.as_ref().map(|gate| self.gate(gate)),
            always: step.always,
            action,
        }
    }

    /// Exactly one action, and nothing beside it that belongs to another.
    fn shape(&mut self, step: &Spanned<StepDocument>, inner: bool) {
        let mut actions: Vec<(&str, &Place)> = given_actions(step);
        actions.sort_by_key(|(_, place)| place.start);
        match actions.as_slice() {
            [] => self.report(
                Problem::new("this step does nothing").at(step.place.clone()).hint(format!("give it one of {ACTIONS}")),
            ),
            [_] => {}
            [(first, first_place), (second, second_place), ..] => self.report(
                Problem::new(format!("this step has two actions, `{first}` and `{second}`"))
                    .at((*second_place).clone())
                    .also((*first_place).clone(), "the first one")
                    .hint("make it two steps, or put both into one `parallel`"),
            ),
        }
        if let Some(forbid) = &step.forbid
            && step.expect.is_none()
        {
            self.report(
                Problem::new("`forbid` belongs to an `expect`")
                    .at(forbid.place.clone())
                    .hint("say in the same step what is expected"),
            );
        }
        if let Some(across) = &step.across_reboot
            && step.expect.is_none()
        {
            self.report(Problem::new("`across_reboot` belongs to an `expect`").at(across.place.clone()));
        }
        if inner && step.always {
            self.report(
                Problem::new("`always` belongs to the `parallel` step as a whole")
                    .at(step.place.clone())
                    .hint("move it to the outer step"),
            );
        }
    }

    /// The action, its bound, and a name for it.
    fn action(
        &mut self,
        step: &Spanned<StepDocument>,
        bound: Option<Span>,
        targets: &Targets<'_>,
        names: &mut Names,
    ) -> (Action, Span, String) {
        if let Some(expect) = &step.expect {
            return self.expect(step, expect, bound);
        }
        if let Some(document) = &step.r#await {
            let (action, name) = self.awaited(document);
            return (action, bound.unwrap_or(default_bound::AWAIT), name);
        }
        if let Some(form) = &step.exec {
            let command = self.command(form, false);
            let name = format!("exec-{}", program(&command));
            return (Action::Exec { command }, bound.unwrap_or(default_bound::COMMAND), name);
        }
        if let Some(form) = &step.host {
            let command = self.command(form, true);
            let name = format!("host-{}", program(&command));
            return (Action::Host { command }, bound.unwrap_or(default_bound::COMMAND), name);
        }
        if let Some(form) = &step.script {
            let command = self.command(form, true);
            let name = format!("script-{}", program(&command));
            return (Action::Script { command }, bound.unwrap_or(default_bound::SCRIPT), name);
        }
        if let Some(form) = &step.http {
            return (self.http(form, targets), bound.unwrap_or(default_bound::REQUEST), "http".into());
        }
        if let Some(form) = &step.tcp {
            return (self.tcp(form, targets), bound.unwrap_or(default_bound::REQUEST), "tcp".into());
        }
        if let Some(copy) = &step.copy {
            let (action, name) = self.copy(copy);
            return (action, bound.unwrap_or(default_bound::COPY), name);
        }
        if let Some(power) = &step.power {
            let name = match power.value {
                PowerAction::Shutdown => "power-shutdown",
                PowerAction::AwaitOff => "power-await-off",
                PowerAction::Cut => "power-cut",
                PowerAction::Reset => "power-reset",
                PowerAction::On => "power-on",
                PowerAction::OnMedium => "power-on-medium",
            };
            return (Action::Power { action: power.value }, bound.unwrap_or(default_bound::POWER), name.into());
        }
        if let Some(name) = &step.checkpoint {
            self.plain_name(name, "a checkpoint's name");
            let action = Action::Checkpoint { name: name.value.clone() };
            return (action, bound.unwrap_or(default_bound::CHECKPOINT), format!("checkpoint-{}", name.value));
        }
        if let Some(name) = &step.restore {
            let action = Action::Restore { name: name.value.clone() };
            return (action, bound.unwrap_or(default_bound::CHECKPOINT), format!("restore-{}", name.value));
        }
        if let Some(hold) = &step.hold {
            self.not_zero(hold);
            if let Some(within) = &step.within {
                self.report(
                    Problem::new("a hold's bound is its own length")
                        .at(within.place.clone())
                        .hint("leave `within` out"),
                );
            }
            return (Action::Hold { duration: hold.value }, hold.value, "hold".into());
        }
        if let Some(parallel) = &step.parallel {
            return self.parallel(step, parallel, bound, targets, names);
        }
        if let Some(fault) = &step.fault {
            let (fault, name) = self.fault(fault, targets);
            return (Action::Fault { fault }, bound.unwrap_or(default_bound::FAULT), name);
        }
        if let Some(heal) = &step.heal {
            return (self.heal(heal), bound.unwrap_or(default_bound::FAULT), "heal".into());
        }
        if let Some(form) = &step.deployer {
            let (action, name) = self.deployer_step(form, targets.deployer);
            return (Action::Deployer { action }, bound.unwrap_or(default_bound::COMMAND), name);
        }
        if let Some(schedule) = &step.schedule {
            if let Some(within) = &step.within {
                self.report(
                    Problem::new("a schedule's bound follows from its `duration`")
                        .at(within.place.clone())
                        .hint("leave `within` out"),
                );
            }
            return self.schedule(schedule, targets);
        }
        if let Some(reboot) = &step.reboot
            && !reboot.value
        {
            self.report(
                Problem::new("`reboot = false` does nothing")
                    .at(reboot.place.clone())
                    .hint("leave the step out, or write `true`"),
            );
        }
        // Also what stands in for a step that has no action: `shape` has reported it.
        (Action::Reboot {}, bound.unwrap_or(default_bound::REBOOT), "reboot".into())
    }

    fn parallel(
        &mut self,
        step: &Spanned<StepDocument>,
        parallel: &Spanned<Vec<Spanned<StepDocument>>>,
        bound: Option<Span>,
        targets: &Targets<'_>,
        names: &mut Names,
    ) -> (Action, Span, String) {
        if parallel.is_empty() {
            self.report(
                Problem::new("nothing happens at the same time here")
                    .at(parallel.place.clone())
                    .hint("list steps: `parallel = [{ exec = [...] }, { exec = [...] }]`"),
            );
        }
        let steps: Vec<Step> = parallel.iter().map(|inner| self.step(inner, targets, names, true)).collect();
        let hold = steps.iter().map(super::longest_hold).max().unwrap_or_default();
        if let Some(within) = &step.within
            && within.value <= hold
        {
            self.report(
                Problem::new(format!("a step in here holds for {hold}, and this bound is no longer"))
                    .at(within.place.clone())
                    .hint("give it more time, or leave `within` out"),
            );
        }
        let longest = steps.iter().map(|step| step.within).max().unwrap_or_default();
        (Action::Parallel { steps }, bound.unwrap_or(longest), "parallel".into())
    }

    fn on(
        &mut self,
        step: &Spanned<StepDocument>,
        action: &Action,
        machines: &BTreeMap<String, Machine>,
    ) -> Vec<String> {
        // These happen on the host, or have steps of their own that say where.
        let (elsewhere, why) = match action {
            Action::Host { .. } | Action::Script { .. } => (true, "this step happens on the host"),
            Action::Parallel { .. } => (true, "the steps in here say it, each for itself"),
            Action::Http { network: Some(_), .. } | Action::Tcp { network: Some(_), .. } => {
                (true, "this is asked from the host's place in the network")
            }
            Action::Heal { .. } => (true, "a fault is healed where it was begun"),
            Action::Deployer { .. } => (true, "the deployer is the lane's; a step names its node itself"),
            Action::Schedule { .. } => (true, "the faults in here say it, each for itself"),
            Action::Fault { fault } if !fault.is_on_machines() => (true, "a link names its ends itself"),
            _ => (false, ""),
        };
        if elsewhere {
            if let Some(on) = &step.on {
                self.report(Problem::new(why).at(on.place.clone()).hint("leave `on` out"));
            }
            let Action::Parallel { steps } = action else { return Vec::new() };
            let all: BTreeSet<String> = steps.iter().flat_map(|step| step.on.iter().cloned()).collect();
            return all.into_iter().collect();
        }
        let on = match &step.on {
            None => machines.keys().cloned().collect(),
            Some(given) => self.named_machines(given, machines),
        };
        if machines.is_empty() && step.on.is_none() && !given_actions(step).is_empty() {
            self.report(
                Problem::new("this step needs a machine, and the lane has none")
                    .at(step.place.clone())
                    .hint("add one: `[machines.node01]`"),
            );
        }
        let needs_guest = matches!(
            action,
            Action::Exec { .. }
                | Action::Await { .. }
                | Action::Http { .. }
                | Action::Tcp { .. }
                | Action::CopyIn { .. }
                | Action::CopyProgram { .. }
                | Action::CopyOut { .. }
                | Action::Reboot {}
                | Action::Checkpoint { .. }
                | Action::Restore { .. }
        );
        let recorder =
            on.iter().find(|name| machines.get(*name).is_some_and(|machine| machine.backend == Backend::Recorder));
        if let Some(name) = recorder
            && needs_guest
            && !given_actions(step).is_empty()
        {
            self.report(
                Problem::new(format!("`{name}` only plays a recording: there is no guest to do this in"))
                    .at(step.place.clone())
                    .hint("say `on` which machine, or only `expect` and `hold` on this one"),
            );
        }
        on
    }

    /// Machines of the lane, each once.
    pub(super) fn named_machines(
        &mut self,
        given: &Spanned<Vec<Spanned<String>>>,
        machines: &BTreeMap<String, Machine>,
    ) -> Vec<String> {
        if given.is_empty() {
            self.report(
                Problem::new("this step happens nowhere")
                    .at(given.place.clone())
                    .hint("name a machine, or leave `on` out for every machine"),
            );
        }
        let mut on: Vec<String> = Vec::new();
        for name in given.iter() {
            if on.contains(&name.value) {
                self.report(Problem::new(format!("`{}` is named twice", name.value)).at(name.place.clone()));
            } else if !machines.contains_key(&name.value) {
                self.report(
                    Problem::new(format!("the lane has no machine `{}`", name.value))
                        .at(name.place.clone())
                        .nearest(name, machines.keys().map(String::as_str)),
                );
            } else {
                on.push(name.value.clone());
            }
        }
        on
    }

    fn gate(&mut self, gate: &Spanned<GateForm>) -> Gate {
        match &gate.value {
            Terse::Short(name) => Gate { name: name.clone(), hard: true, weight: 1 },
            Terse::Full(full) => {
                if let Some(weight) = &full.weight
                    && weight.value == 0
                {
                    self.report(
                        Problem::new("a gate without weight decides nothing")
                            .at(weight.place.clone())
                            .hint("leave the gate out, or give it a weight of 1 or more"),
                    );
                }
                Gate {
                    name: full.name.value.clone(),
                    hard: full.hard.unwrap_or(true),
                    weight: full.weight.as_ref().map_or(1, |weight| weight.value),
                }
            }
        }
    }
}

impl Names {
    /// The wanted name, with a number where it is taken.
    fn make(&mut self, wanted: &str) -> String {
        let wanted = wanted.trim_end_matches('-');
        loop {
            // Counted for each name, so that a file of many equal steps takes no longer than one of different ones.
            let count = self.made.entry(wanted.to_owned()).or_default();
            *count += 1;
            let name = if *count == 1 { wanted.to_owned() } else { format!("{wanted}-{count}") };
            let made_otherwise = name != wanted && self.made.contains_key(&name);
            if !made_otherwise && !self.steps.contains_key(&name) {
                self.made.entry(name.clone()).or_insert(1);
                return name;
            }
        }
    }
}

fn gate_name(gate: &Spanned<GateForm>) -> Spanned<String> {
    match &gate.value {
        Terse::Short(name) => Spanned { value: name.clone(), place: gate.place.clone() },
        Terse::Full(full) => full.name.clone(),
    }
}

fn given_actions(step: &StepDocument) -> Vec<(&'static str, &Place)> {
    fn given<'a, T>(name: &'static str, part: &'a Option<Spanned<T>>) -> Option<(&'static str, &'a Place)> {
        part.as_ref().map(|part| (name, &part.place))
    }
    [
        given("expect", &step.expect),
        given("await", &step.r#await),
        given("exec", &step.exec),
        given("host", &step.host),
        given("http", &step.http),
        given("tcp", &step.tcp),
        given("copy", &step.copy),
        given("power", &step.power),
        given("reboot", &step.reboot),
        given("checkpoint", &step.checkpoint),
        given("restore", &step.restore),
        given("hold", &step.hold),
        given("script", &step.script),
        given("parallel", &step.parallel),
        given("fault", &step.fault),
        given("heal", &step.heal),
        given("deployer", &step.deployer),
        given("schedule", &step.schedule),
    ]
    .into_iter()
    .flatten()
    .collect()
}
