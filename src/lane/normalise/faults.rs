//! Faults, heals and schedules: exactly one disturbance each, on what the lane has.

use std::collections::{BTreeMap, BTreeSet};

use super::steps::default_bound;
use super::{Checker, all_steps};
use crate::lane::disturbance_document::{DiskFaultDocument, FaultDocument, LinkDocument, ScheduleDocument};
use crate::lane::document::Terse;
use crate::lane::model::{
    Action, Backend, DiskEffect, DiskOperations, Fault, HOST, LinkEffects, Machine, ProcessSignal, Schedule,
    ScheduledFault, Step, SwitchedNetwork,
};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::{Share, Span};

/// By which `heal` means all faults.
const ALL: &str = "all";
/// The disk that an image brings along.
const ROOT_DISK: &str = "root";
/// Program names are cut off here by the kernel that is asked for them.
const PROGRAM_NAME_LIMIT: usize = 15;

/// A frame that is held longer is of no use to anybody.
const LONGEST_DELAY: std::time::Duration = std::time::Duration::from_secs(3600);

/// What faults may refer to.
pub(super) struct Targets<'a> {
    pub networks: &'a BTreeMap<String, SwitchedNetwork>,
    pub machines: &'a BTreeMap<String, Machine>,
    /// Whether the lane has one.
    pub deployer: bool,
}

impl Checker<'_> {
    /// The action and a name for it.
    pub(super) fn fault(&mut self, fault: &Spanned<FaultDocument>, targets: &Targets<'_>) -> (Fault, String) {
        let given: Vec<(&str, &Place)> = given_kinds(fault);
        match given.as_slice() {
            [] => self.report(
                Problem::new("nothing is disturbed here")
                    .at(fault.place.clone())
                    .hint("give it one of `link`, `disk`, `full`, `power`, `pause`, `process`, `clock` and `memory`"),
            ),
            [_] => {}
            [(first, first_place), (second, place), ..] => self.report(
                Problem::new(format!("this fault is two, `{first}` and `{second}`"))
                    .at((*place).clone())
                    .also((*first_place).clone(), "the first one")
                    .hint("make it two steps"),
            ),
        }
        if let Some(link) = &fault.link {
            return (self.link(link, targets), "fault-link".into());
        }
        if let Some(disk) = &fault.disk {
            return (self.disk_fault(disk), format!("fault-disk-{}", disk.name.value));
        }
        if let Some(full) = &fault.full {
            if !full.starts_with('/') || full.contains('\0') {
                self.report(
                    Problem::new("a folder in the guest is named by its whole path")
                        .at(full.place.clone())
                        .hint("write it like `/var/lib`"),
                );
            }
            return (Fault::Full { path: full.value.clone() }, "fault-full".into());
        }
        if let Some(power) = &fault.power {
            return (Fault::Power { action: power.value }, "fault-power".into());
        }
        if let Some(process) = &fault.process {
            let (name, signal) = match &process.value {
                Terse::Short(name) => {
                    (Spanned { value: name.clone(), place: process.place.clone() }, ProcessSignal::default())
                }
                Terse::Full(full) => (full.name.clone(), full.signal),
            };
            if name.is_empty() || name.len() > PROGRAM_NAME_LIMIT || name.contains(['/', '\0']) {
                self.report(
                    Problem::new(format!("`{}` is not a program's name", name.value))
                        .at(name.place.clone())
                        .label(format!("without its folder, at most {PROGRAM_NAME_LIMIT} characters"))
                        .hint("`cat /proc/PID/comm` in the guest gives it"),
                );
            }
            return (Fault::Process { name: name.value.clone(), signal }, format!("fault-process-{}", name.value));
        }
        if let Some(clock) = &fault.clock {
            if clock.value.0 == 0 {
                self.report(Problem::new("this clock does not jump").at(clock.place.clone()));
            }
            return (Fault::Clock { shift: clock.value }, "fault-clock".into());
        }
        if let Some(memory) = &fault.memory {
            if memory.value.bytes() == 0 {
                self.report(Problem::new("no memory is taken here").at(memory.place.clone()));
            }
            return (Fault::Memory { amount: memory.value }, "fault-memory".into());
        }
        if let Some(pause) = &fault.pause
            && !pause.value
        {
            self.report(
                Problem::new("`pause = false` does nothing")
                    .at(pause.place.clone())
                    .hint("a `heal` step lets the machine go on"),
            );
        }
        // Also what stands in for a fault that is none: that has been reported.
        (Fault::Pause {}, "fault-pause".into())
    }

    fn link(&mut self, link: &Spanned<LinkDocument>, targets: &Targets<'_>) -> Fault {
        let names = || targets.networks.keys().map(String::as_str);
        let network = match &link.network {
            Some(name) if targets.networks.contains_key(&name.value) => name.value.clone(),
            Some(name) => {
                let problem = Problem::new(format!("the lane has no network `{}`", name.value)).at(name.place.clone());
                self.report(problem.nearest(name, names()));
                String::new()
            }
            None => match (names().next(), names().nth(1)) {
                (Some(only), None) => only.to_owned(),
                (None, _) => {
                    self.report(
                        Problem::new("the lane has no network, so there is no link")
                            .at(link.place.clone())
                            .hint("add `[networks.lan]`, and `networks = [\"lan\"]` to the machines"),
                    );
                    String::new()
                }
                (Some(_), Some(_)) => {
                    self.report(
                        Problem::new("the lane has several networks")
                            .at(link.place.clone())
                            .hint("say which one: `network = \"...\"`"),
                    );
                    String::new()
                }
            },
        };
        let members: BTreeSet<&str> = targets
            .machines
            .iter()
            .filter(|(_, machine)| machine.networks.contains_key(&network))
            .map(|(name, _)| name.as_str())
            .collect();
        let from = self.ends(&link.from, &network, &members, targets);
        let to = match &link.to {
            Some(to) => self.ends(to, &network, &members, targets),
            None => members.iter().map(|name| name.to_string()).filter(|name| !from.contains(name)).collect(),
        };
        if let (Some(both), Some(given)) = (from.iter().find(|name| to.contains(name)), &link.to) {
            self.report(
                Problem::new(format!("`{both}` is on both sides of this link"))
                    .at(given.place.clone())
                    .also(link.from.place.clone(), "the other side"),
            );
        }
        if to.is_empty() && link.to.is_none() && !network.is_empty() {
            self.report(
                Problem::new("nobody is left on the other side of this link")
                    .at(link.from.place.clone())
                    .hint("name both sides: `from = [\"node01\"], to = [\"node02\"]`"),
            );
        }
        let effects = self.effects(link);
        Fault::Link { network, from, to, both_ways: !link.one_way, effects }
    }

    fn ends(
        &mut self,
        ends: &Spanned<Vec<Spanned<String>>>,
        network: &str,
        members: &BTreeSet<&str>,
        targets: &Targets<'_>,
    ) -> Vec<String> {
        if ends.is_empty() {
            self.report(
                Problem::new("this side of the link names no machine").at(ends.place.clone()).hint("name one or more"),
            );
        }
        let mut plain: Vec<String> = Vec::new();
        for end in ends.iter() {
            if plain.contains(&end.value) {
                self.report(Problem::new(format!("`{}` is named twice", end.value)).at(end.place.clone()));
            } else if end.value != HOST && !targets.machines.contains_key(&end.value) {
                let known = targets.machines.keys().map(String::as_str).chain([HOST]);
                self.report(
                    Problem::new(format!("the lane has no machine `{}`", end.value))
                        .at(end.place.clone())
                        .nearest(end, known),
                );
            } else if end.value != HOST && !members.contains(end.as_str()) && !network.is_empty() {
                self.report(
                    Problem::new(format!("`{}` is not in the network `{network}`", end.value))
                        .at(end.place.clone())
                        .hint(format!("add `networks = [\"{network}\"]` to that machine")),
                );
            }
            plain.push(end.value.clone());
        }
        plain
    }

    fn effects(&mut self, link: &Spanned<LinkDocument>) -> LinkEffects {
        let mut share = |share: &Option<Spanned<Share>>| {
            if let Some(share) = share
                && share.value.millionths == 0
            {
                self.report(Problem::new("a share of nothing changes nothing").at(share.place.clone()));
            }
            share.as_ref().map(|share| share.value)
        };
        let (loss, duplicate) = (share(&link.loss), share(&link.duplicate));
        let (reorder, corrupt) = (share(&link.reorder), share(&link.corrupt));
        if let Some(rate) = &link.rate
            && rate.value.bytes() == 0
        {
            self.report(
                Problem::new("a rate of nothing is a partition")
                    .at(rate.place.clone())
                    .hint("write `partition = true`"),
            );
        }
        let span = |span: &Option<Spanned<Span>>| span.as_ref().map(|span| span.value);
        let (delay, jitter) = (span(&link.delay), span(&link.jitter));
        if let Some(too_long) =
            [&link.delay, &link.jitter].into_iter().flatten().find(|span| span.value.duration() > LONGEST_DELAY)
        {
            self.report(Problem::new("a frame is held for an hour at most").at(too_long.place.clone()));
        }
        if let (Some(jitter), None) = (&link.jitter, &link.delay) {
            self.report(
                Problem::new("jitter belongs to a delay").at(jitter.place.clone()).hint("add `delay = \"...\"`"),
            );
        }
        let effects = LinkEffects {
            partition: link.partition,
            loss,
            delay,
            jitter,
            duplicate,
            reorder,
            rate: link.rate.as_ref().map(|rate| rate.value),
            corrupt,
        };
        if effects == LinkEffects::default() {
            self.report(Problem::new("nothing is wrong with this link").at(link.place.clone()).hint(
                "give it one or more of `partition`, `loss`, `delay`, `duplicate`, `reorder`, `rate` and `corrupt`",
            ));
        }
        effects
    }

    fn disk_fault(&mut self, disk: &Spanned<DiskFaultDocument>) -> Fault {
        let effect = match (&disk.errors, &disk.slow) {
            (Some(on), None) => DiskEffect::Errors { on: on.value },
            (None, Some(rate)) => {
                if rate.value.bytes() == 0 {
                    self.report(
                        Problem::new("a disk that moves nothing has failed")
                            .at(rate.place.clone())
                            .hint("write `errors = \"all\"`"),
                    );
                }
                DiskEffect::Slow { rate: rate.value }
            }
            _ => {
                self.report(
                    Problem::new("exactly one thing is wrong with a disk")
                        .at(disk.place.clone())
                        .hint("either `errors = \"all\"` or `slow = \"1MiB\"`"),
                );
                DiskEffect::Errors { on: DiskOperations::All }
            }
        };
        Fault::Disk { disk: disk.name.value.clone(), effect }
    }

    /// That each of the machines can have this fault.
    pub(super) fn fault_fits(&mut self, fault: &Fault, place: &Place, on: &[String], targets: &Targets<'_>) {
        let machines = on.iter().filter_map(|name| Some((name, targets.machines.get(name)?)));
        for (name, machine) in machines {
            if machine.backend == Backend::Recorder {
                self.report(
                    Problem::new(format!("`{name}` only plays a recording: it cannot be disturbed"))
                        .at(place.clone())
                        .hint("say `on` which machine"),
                );
                continue;
            }
            let Fault::Disk { disk, effect } = fault else { continue };
            if disk == ROOT_DISK {
                if !matches!(effect, DiskEffect::Slow { .. }) {
                    self.report(
                        Problem::new("the image's own disk can only be slow")
                            .at(place.clone())
                            .hint("put the data that the fault is for on one of the machine's `disks`"),
                    );
                }
            } else if !machine.disks.iter().any(|known| known.name == *disk) {
                self.report(
                    Problem::new(format!("`{name}` has no disk `{disk}`"))
                        .at(place.clone())
                        .nearest(disk, machine.disks.iter().map(|disk| disk.name.as_str()).chain([ROOT_DISK])),
                );
            }
        }
    }

    pub(super) fn heal(&mut self, heal: &Spanned<Vec<Spanned<String>>>) -> Action {
        if heal.is_empty() {
            self.report(
                Problem::new("nothing is healed here")
                    .at(heal.place.clone())
                    .hint("name the steps that began the faults, or write `heal = [\"all\"]`"),
            );
        }
        if heal.iter().any(|name| name.value == ALL) {
            return Action::Heal { faults: Vec::new() };
        }
        self.healed.extend(heal.iter().cloned());
        Action::Heal { faults: heal.iter().map(|name| name.value.clone()).collect() }
    }

    /// That what is healed was begun, by a step before.
    pub(super) fn heals_fit(&mut self, steps: &[Step]) {
        let mut begun: Vec<&str> = Vec::new();
        let mut early: BTreeSet<&str> = BTreeSet::new();
        for step in all_steps(steps) {
            match &step.action {
                Action::Fault { fault } if fault.lasts() => begun.push(&step.name),
                Action::Heal { faults } => {
                    early.extend(faults.iter().map(String::as_str).filter(|name| !begun.contains(name)))
                }
                _ => {}
            }
        }
        for name in std::mem::take(&mut self.healed) {
            if !begun.contains(&name.as_str()) {
                self.report(
                    Problem::new(format!("no step `{}` begins a fault that lasts", name.value))
                        .at(name.place.clone())
                        .nearest(&name, begun.iter().copied()),
                );
            } else if early.contains(name.as_str()) {
                self.report(
                    Problem::new(format!("the fault `{}` is healed before it has begun", name.value))
                        .at(name.place.clone())
                        .hint("put the `heal` after the `fault`"),
                );
            }
        }
    }

    pub(super) fn schedule(
        &mut self,
        schedule: &Spanned<ScheduleDocument>,
        targets: &Targets<'_>,
    ) -> (Action, Span, String) {
        let spans =
            [Some(&schedule.duration), Some(&schedule.every), schedule.shortest.as_ref(), schedule.longest.as_ref()];
        spans.into_iter().flatten().for_each(|span| self.not_zero(span));
        let every = schedule.every.value;
        let longest = schedule.longest.as_ref().map_or(every, |span| span.value);
        let shortest =
            schedule.shortest.as_ref().map_or(Span(longest.duration().min(every.duration() / 2)), |span| span.value);
        if shortest > longest {
            self.report(
                Problem::new(format!("the shortest time, {shortest}, is longer than the longest, {longest}"))
                    .at(schedule.place.clone()),
            );
        }
        if let Some(overlap) = &schedule.overlap
            && overlap.value == 0
        {
            self.report(Problem::new("a schedule of no faults at a time has none").at(overlap.place.clone()));
        }
        if schedule.faults.is_empty() {
            self.report(Problem::new("this schedule has no faults to draw").at(schedule.faults.place.clone()));
        }
        let mut faults: Vec<ScheduledFault> = Vec::new();
        for scheduled in schedule.faults.iter() {
            let (fault, made) = self.fault(&scheduled.fault, targets);
            let name = scheduled.name.as_ref().map_or_else(
                || made.trim_start_matches("fault-").to_owned(),
                |name| {
                    self.plain_name(name, "a fault's name");
                    name.value.clone()
                },
            );
            let taken = |name: &str| faults.iter().any(|other| other.name == name);
            let name = match &scheduled.name {
                Some(given) if taken(&name) => {
                    self.report(
                        Problem::new(format!("the schedule has two faults called `{name}`")).at(given.place.clone()),
                    );
                    name
                }
                Some(_) => name,
                None => std::iter::once(name.clone())
                    .chain((2..).map(|number| format!("{name}-{number}")))
                    .find(|name| !taken(name))
                    .unwrap_or(name),
            };
            let on = match (&scheduled.on, fault.is_on_machines()) {
                (Some(on), false) => {
                    self.report(
                        Problem::new("a link names its ends itself").at(on.place.clone()).hint("leave `on` out"),
                    );
                    Vec::new()
                }
                (None, false) => Vec::new(),
                (Some(on), true) => self.named_machines(on, targets.machines),
                (None, true) => targets.machines.keys().cloned().collect(),
            };
            self.fault_fits(&fault, &scheduled.fault.place, &on, targets);
            if fault.needs_guest() {
                let machines = on.iter().filter_map(|name| Some((name, &targets.machines.get(name)?.channel)));
                self.channel_fits("this fault is done by the agent", &scheduled.fault.place, machines);
            }
            faults.push(ScheduledFault { name, on, fault });
        }
        let schedule = Schedule {
            seed: schedule.seed.value,
            duration: schedule.duration.value,
            every,
            shortest,
            longest,
            overlap: schedule.overlap.as_ref().map_or(1, |overlap| overlap.value),
            faults,
        };
        let within = Span(schedule.duration.duration().saturating_add(default_bound::FAULT.duration()));
        (Action::Schedule { schedule }, within, "schedule".into())
    }
}

/// Marks the disks whose requests some fault makes fail.
pub(super) fn mark_fallible(steps: &[Step], machines: &mut BTreeMap<String, Machine>) {
    let mut mark = |disk: &str, effect: &DiskEffect, on: &[String]| {
        if matches!(effect, DiskEffect::Slow { .. }) {
            return;
        }
        for name in on {
            let disks = machines.get_mut(name).into_iter().flat_map(|machine| &mut machine.disks);
            disks.filter(|known| known.name == disk).for_each(|known| known.fallible = true);
        }
    };
    for step in all_steps(steps) {
        match &step.action {
            Action::Fault { fault: Fault::Disk { disk, effect } } => mark(disk, effect, &step.on),
            Action::Schedule { schedule } => {
                for scheduled in &schedule.faults {
                    if let Fault::Disk { disk, effect } = &scheduled.fault {
                        mark(disk, effect, &scheduled.on);
                    }
                }
            }
            _ => {}
        }
    }
}

fn given_kinds(fault: &FaultDocument) -> Vec<(&'static str, &Place)> {
    fn given<'a, T>(name: &'static str, part: &'a Option<Spanned<T>>) -> Option<(&'static str, &'a Place)> {
        part.as_ref().map(|part| (name, &part.place))
    }
    let mut given: Vec<_> = [
        given("link", &fault.link),
        given("disk", &fault.disk),
        given("full", &fault.full),
        given("power", &fault.power),
        given("pause", &fault.pause),
        given("process", &fault.process),
        given("clock", &fault.clock),
        given("memory", &fault.memory),
    ]
    .into_iter()
    .flatten()
    .collect();
    given.sort_by_key(|(_, place)| place.start);
    given
}
