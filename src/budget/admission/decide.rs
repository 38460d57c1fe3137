//! Whether what a run wants fits beside what others hold. Pure.

use crate::lane::units::Size;

/// Guests' processors for each of the host's: they are idle most of the time, and deadlines have room.
pub const SHARED_BY: u64 = 4;

/// What a run wants, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// Bytes of guest memory.
    pub memory: u64,
    pub processors: u64,
    /// Bytes below the work root.
    pub disk: u64,
}

/// What the host has.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub memory: u64,
    /// What could be used now without swapping.
    pub memory_available: u64,
    pub processors: u64,
    /// Free on the work root's file system.
    pub disk_free: u64,
    /// Stays free, for the proof.
    pub disk_kept: u64,
    /// What the work root may take in all, and takes now.
    pub total: Option<(u64, u64)>,
}

/// Another run.
#[derive(Clone, Debug)]
pub struct Holder {
    pub demand: Demand,
    /// It came before: what it wants is not for others, whether it has it yet or waits.
    pub ahead: bool,
    /// It has what it wants, and gives it back at its end.
    pub admitted: bool,
    /// Its work root is on the same file system.
    pub same_disk: bool,
    pub same_work_root: bool,
    /// What it has written so far.
    pub disk_used: u64,
}

impl Holder {
    fn outstanding(&self) -> u64 {
        self.demand.disk.saturating_sub(self.disk_used)
    }
}

/// Why a run cannot start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub check: &'static str,
    pub message: String,
    pub remedy: &'static str,
    /// Others' ends can change it.
    passes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Admit,
    Wait(Vec<Lack>),
    /// Waiting would not help.
    Block(Vec<Lack>),
}

/// First come, first served; who comes later may go before only where that takes nothing from those ahead.
pub fn decide(wanted: &Demand, host: &Host, holders: &[Holder]) -> Decision {
    let lacks: Vec<Lack> =
        [memory(wanted, host, holders), processors(wanted, host, holders), disk(wanted, host, holders)]
            .into_iter()
            .chain([total(wanted, host, holders)])
            .flatten()
            .collect();
    if lacks.is_empty() {
        Decision::Admit
    } else if lacks.iter().all(|lack| lack.passes) {
        Decision::Wait(lacks)
    } else {
        Decision::Block(lacks)
    }
}

fn sum<'a>(holders: impl Iterator<Item = &'a Holder>, what: impl Fn(&Holder) -> u64) -> u64 {
    holders.fold(0, |sum, holder| sum.saturating_add(what(holder)))
}

fn memory(wanted: &Demand, host: &Host, holders: &[Holder]) -> Option<Lack> {
    const REMEDY: &str = "stop something, or give the machines less (`--set machines.NAME.memory=...`)";
    let lack = |message, passes| Some(Lack { check: "memory", message, remedy: REMEDY, passes });
    let (want, own) = (Size(wanted.memory), mebibytes(host.memory));
    if wanted.memory > host.memory {
        return lack(format!("the machines need {want}, and the host has {own}"), false);
    }
    let held = sum(holders.iter().filter(|holder| holder.ahead), |holder| holder.demand.memory);
    if wanted.memory == 0 {
        return None;
    }
    if held.saturating_add(wanted.memory) > host.memory {
        let held = mebibytes(held);
        return lack(format!("the machines need {want}, and other runs hold {held} of the host's {own}"), true);
    }
    if wanted.memory > host.memory_available {
        let available = mebibytes(host.memory_available);
        let others = holders.iter().any(|holder| holder.admitted && holder.demand.memory > 0);
        return lack(format!("the machines need {want}, and {available} are available"), others);
    }
    None
}

fn processors(wanted: &Demand, host: &Host, holders: &[Holder]) -> Option<Lack> {
    let all = host.processors.max(1) * SHARED_BY;
    let held = sum(holders.iter().filter(|holder| holder.ahead), |holder| holder.demand.processors.min(all));
    // Who wants more than there are takes all, and is alone: slow is not impossible.
    let want = wanted.processors.min(all);
    (held > 0 && want > 0 && held.saturating_add(want) > all).then(|| Lack {
        check: "processors",
        message: format!("the machines need {want} processors, and other runs hold {held} of {all}"),
        remedy: "let the others end first",
        passes: true,
    })
}

fn disk(wanted: &Demand, host: &Host, holders: &[Holder]) -> Option<Lack> {
    let there = || holders.iter().filter(|holder| holder.same_disk);
    let held = sum(there().filter(|holder| holder.ahead || holder.admitted), Holder::outstanding);
    let usable = host.disk_free.saturating_sub(host.disk_kept);
    (wanted.disk > usable.saturating_sub(held)).then(|| Lack {
        check: "disk",
        message: format!(
            "the run may take {}, and {} are free, of which other runs will take {} and {} stay free",
            Size(wanted.disk),
            mebibytes(host.disk_free),
            mebibytes(held),
            mebibytes(host.disk_kept)
        ),
        remedy: "free some space (`bootproof budget status`), or point `--work-root` to where there is more",
        passes: there().any(|holder| holder.admitted || holder.ahead)
            && wanted.disk <= usable.saturating_add(sum(there(), |holder| holder.disk_used)),
    })
}

fn total(wanted: &Demand, host: &Host, holders: &[Holder]) -> Option<Lack> {
    let (limit, used) = host.total?;
    let there = || holders.iter().filter(|holder| holder.same_work_root && (holder.ahead || holder.admitted));
    let held = sum(there(), Holder::outstanding);
    let wanted_in_all = used.saturating_add(held).saturating_add(wanted.disk);
    (wanted_in_all > limit).then(|| Lack {
        check: "work-root-budget",
        message: format!(
            "the run may take {}, the work root has {}, other runs will take {}, and `hard.total` in `budget.toml` is {}",
            Size(wanted.disk),
            mebibytes(used),
            mebibytes(held),
            Size(limit)
        ),
        remedy: "delete something (`bootproof budget status`), or raise `hard.total`",
        passes: there().next().is_some() && wanted.disk <= limit,
    })
}

fn mebibytes(bytes: u64) -> Size {
    Size(bytes >> 20 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host() -> Host {
        Host {
            memory: 16 * GIB,
            memory_available: 12 * GIB,
            processors: 2,
            disk_free: 50 * GIB,
            disk_kept: GIB,
            total: None,
        }
    }

    fn demand(memory: u64, processors: u64, disk: u64) -> Demand {
        Demand { memory: memory * GIB, processors, disk: disk * GIB }
    }

    fn holder(demand: Demand, ahead: bool, admitted: bool) -> Holder {
        let (same_disk, same_work_root) = (true, true);
        Holder { demand, ahead, admitted, same_disk, same_work_root, disk_used: 0 }
    }

    fn checks(decision: &Decision) -> (&'static str, Vec<&'static str>) {
        let names = |lacks: &[Lack]| lacks.iter().map(|lack| lack.check).collect();
        match decision {
            Decision::Admit => ("admit", Vec::new()),
            Decision::Wait(lacks) => ("wait", names(lacks)),
            Decision::Block(lacks) => ("block", names(lacks)),
        }
    }

    #[test]
    fn what_can_never_fit_is_blocked_at_once_with_figures() {
        let busy = [holder(demand(4, 1, 1), true, true)];
        let decision = decide(&demand(17, 1, 1), &host(), &busy);
        assert_eq!(checks(&decision), ("block", vec!["memory"]));
        let Decision::Block(lacks) = decision else { unreachable!() };
        assert_eq!(lacks[0].message, "the machines need 17GiB, and the host has 16GiB");
        assert_eq!(checks(&decide(&demand(1, 1, 60), &host(), &busy)), ("block", vec!["disk"]));
    }

    #[test]
    fn what_others_hold_is_waited_for() {
        let wanted = demand(8, 4, 30);
        assert_eq!(decide(&wanted, &host(), &[]), Decision::Admit);
        assert_eq!(checks(&decide(&wanted, &host(), &[holder(demand(9, 1, 1), true, true)])), ("wait", vec!["memory"]));
        assert_eq!(
            checks(&decide(&wanted, &host(), &[holder(demand(1, 5, 1), true, true)])),
            ("wait", vec!["processors"])
        );
        let mut writing = holder(demand(1, 1, 30), true, true);
        writing.disk_used = 5 * GIB;
        assert_eq!(checks(&decide(&wanted, &host(), &[writing.clone()])), ("wait", vec!["disk"]));
        writing.disk_used = 20 * GIB;
        assert_eq!(decide(&wanted, &host(), &[writing.clone()]), Decision::Admit, "it has most of it already");
        writing.disk_used = 0;
        writing.same_disk = false;
        assert_eq!(decide(&wanted, &host(), &[writing]), Decision::Admit);
    }

    #[test]
    fn memory_that_strangers_use_is_waited_for_only_where_a_run_can_give_some_back() {
        let wanted = demand(13, 1, 1);
        assert_eq!(checks(&decide(&wanted, &host(), &[])), ("block", vec!["memory"]));
        assert_eq!(checks(&decide(&wanted, &host(), &[holder(demand(2, 1, 1), true, true)])), ("wait", vec!["memory"]));
        // Two who wait for each other would wait for ever.
        assert_eq!(
            checks(&decide(&wanted, &host(), &[holder(demand(2, 1, 1), false, false)])),
            ("block", vec!["memory"])
        );
    }

    #[test]
    fn the_small_do_not_starve_the_large() {
        let large_waits = holder(demand(15, 1, 1), true, false);
        let decision = decide(&demand(2, 1, 1), &host(), std::slice::from_ref(&large_waits));
        assert_eq!(checks(&decision), ("wait", vec!["memory"]), "the small one came later");
        assert_eq!(decide(&demand(1, 1, 1), &host(), &[large_waits]), Decision::Admit, "there is room for both");
        let small_waits = holder(demand(2, 1, 1), false, false);
        assert_eq!(decide(&demand(12, 1, 1), &host(), &[small_waits.clone(), small_waits]), Decision::Admit);
    }

    #[test]
    fn more_processors_than_there_are_is_slow_and_not_impossible() {
        assert_eq!(decide(&demand(1, 64, 1), &host(), &[]), Decision::Admit);
        let decision = decide(&demand(1, 64, 1), &host(), &[holder(demand(1, 1, 1), true, true)]);
        assert_eq!(checks(&decision), ("wait", vec!["processors"]));
    }

    #[test]
    fn the_work_roots_own_bound_holds() {
        let host = Host { total: Some((20 * GIB, 10 * GIB)), ..host() };
        assert_eq!(decide(&demand(1, 1, 9), &host, &[]), Decision::Admit);
        assert_eq!(checks(&decide(&demand(1, 1, 11), &host, &[])), ("block", vec!["work-root-budget"]));
        let other = holder(demand(1, 1, 5), true, true);
        assert_eq!(checks(&decide(&demand(1, 1, 9), &host, &[other])), ("wait", vec!["work-root-budget"]));
    }
}
