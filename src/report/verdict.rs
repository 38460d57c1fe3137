//! From what is known of a run to its verdict.
//!
//! Precedence: infrastructure, budget, interrupted, failed, then blocked; a log without its closing event is
//! `incomplete` whatever else it says. Nothing passes by default: what was planned has to have been decided.

use super::view::{StepView, Trouble, TroubleKind, View};
use crate::event::{Outcome, Verdict};

/// The verdict, and why in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: String,
}

/// How a run ended, before a control turns it round.
enum Ending {
    Infrastructure(String),
    Budget(String),
    Interrupted(String),
    /// The product failed; `at` names every gate, or step without one, that this may be put down to.
    Failed {
        at: Vec<String>,
        reason: String,
    },
    Blocked(String),
    Clean,
}

/// The verdict of a run whose log is complete: what the dispatcher writes into the closing event.
pub fn decide(view: &View) -> Decision {
    let control = view.run.as_ref().and_then(|run| Some((run.control.as_deref()?, run.control_fails_at.as_deref())));
    let (verdict, reason) = match ending(view) {
        Ending::Infrastructure(reason) => (Verdict::Infrastructure, reason),
        Ending::Budget(reason) => (Verdict::Budget, reason),
        Ending::Interrupted(reason) => (Verdict::Interrupted, reason),
        Ending::Blocked(reason) => (Verdict::Blocked, reason),
        Ending::Failed { at, reason } => match control {
            None => (Verdict::Failed, reason),
            Some((control, Some(wanted))) if at.iter().any(|place| place == wanted) => {
                (Verdict::Reproduced, format!("control `{control}` failed at `{wanted}`, as it must: {reason}"))
            }
            Some((control, wanted)) => (
                Verdict::Failed,
                format!(
                    "control `{control}` must fail at `{}` and failed elsewhere ({}): {reason}",
                    wanted.unwrap_or("a gate that it does not name"),
                    if at.is_empty() { "at no gate".to_owned() } else { format!("`{}`", at.join("`, `")) },
                ),
            ),
        },
        Ending::Clean => match control {
            None => (Verdict::Passed, passed_reason(view)),
            Some((control, wanted)) => (
                Verdict::Failed,
                format!(
                    "control `{control}` must fail at `{}` and passed: the lane does not notice its planted bug",
                    wanted.unwrap_or("a gate that it does not name")
                ),
            ),
        },
    };
    match verdict {
        // Somebody was at its machines: what came of it is not the lane's doing alone.
        Verdict::Passed | Verdict::Reproduced if view.holds > 0 => Decision {
            verdict: Verdict::Interrupted,
            reason: format!("the run was held for somebody to look, so it proves nothing ({reason})"),
        },
        verdict => Decision { verdict, reason },
    }
}

/// The verdict of a log as it is: `incomplete` unless its last event is the closing one.
pub fn verdict(view: &View) -> Decision {
    if view.closed.is_none() {
        return Decision { verdict: Verdict::Incomplete, reason: "the log has no closing event".into() };
    }
    if view.events_after_closing > 0 {
        return Decision { verdict: Verdict::Incomplete, reason: "the log goes on after its closing event".into() };
    }
    decide(view)
}

/// The trouble that the verdict is put down to.
pub fn decisive_trouble(view: &View) -> Option<&Trouble> {
    // The map is ordered by precedence.
    view.first_troubles.values().next()
}

fn ending(view: &View) -> Ending {
    if let Some(trouble) = decisive_trouble(view) {
        let reason = trouble.message.clone();
        return match trouble.kind {
            TroubleKind::Infrastructure => Ending::Infrastructure(reason),
            TroubleKind::Budget => Ending::Budget(reason),
            TroubleKind::Interrupted => Ending::Interrupted(reason),
            TroubleKind::Failed => Ending::Failed { at: places(view, trouble), reason },
        };
    }
    let blocking: Vec<&str> = view.blocking().map(|finding| finding.message.as_str()).collect();
    if !blocking.is_empty() {
        return Ending::Blocked(blocking.join("; "));
    }
    if let Some(reason) = unproven(view) {
        return Ending::Infrastructure(reason);
    }
    low_score(view).unwrap_or(Ending::Clean)
}

/// The names under which a control's `fails_at` knows where this happened: the gate, or the step where it has none; and
/// the same of the groups that the step is in, which its failure fails.
fn places(view: &View, trouble: &Trouble) -> Vec<String> {
    let own = trouble.step.and_then(|step| view.steps.get(&step));
    let mut places: Vec<String> =
        trouble.gate.clone().or_else(|| own.map(|step| step.name.clone())).into_iter().collect();
    let mut group = own.and_then(|step| step.group);
    // Each group is before its members, so this ends.
    while let Some(step) = group.and_then(|group| view.steps.get(&group)) {
        places.push(step.gate.clone().unwrap_or_else(|| step.name.clone()));
        group = step.group;
    }
    places
}

/// What is missing from a run in which nothing went wrong: it must not pass for want of a look.
fn unproven(view: &View) -> Option<String> {
    if view.run.is_none() {
        return Some("the log does not say which run it is of".into());
    }
    if view.steps.is_empty() || !view.steps_planned {
        return Some("no step was planned, so nothing was proven".into());
    }
    let open = |step: &&StepView| match step.outcome {
        None | Some(Outcome::NotRun) => true,
        Some(Outcome::Passed | Outcome::Failed | Outcome::Skipped) => false,
    };
    if let Some(step) = view.steps.values().find(open) {
        return Some(format!("step `{}` was not run, and nothing says why", step.name));
    }
    let undecided = view.gates.iter().find(|gate| !gate.decided || gate.outcome == Outcome::NotRun)?;
    Some(format!("gate `{}` was not decided, and nothing says why", undecided.name))
}

fn low_score(view: &View) -> Option<Ending> {
    let minimum = view.run.as_ref()?.minimum_score?;
    let reason = match view.score() {
        Some(score) if score.reaches(minimum) => return None,
        Some(score) => format!(
            "the score is {}% ({} of {}), and the lane asks for {minimum}%",
            score.percent, score.earned, score.possible
        ),
        None if minimum == 0 => return None,
        None => format!("the lane asks for a score of {minimum}%, and no weighted gate counted"),
    };
    let failed = view.gates.iter().filter(|gate| gate.outcome == Outcome::Failed);
    Some(Ending::Failed { at: failed.map(|gate| gate.name.clone()).collect(), reason })
}

fn passed_reason(view: &View) -> String {
    let passed = view.gates.iter().filter(|gate| gate.outcome == Outcome::Passed).count();
    let steps = view.steps.values().filter(|step| step.outcome == Some(Outcome::Passed)).count();
    format!("{passed} of {} gates and {steps} of {} steps passed", view.gates.len(), view.steps.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::sample::{self, LogBuilder};
    use crate::event::{Event, Failure, FailureReason, Kind, Severity, StepSummary};

    /// The log of a group with a gate, of whose members one failed.
    fn failed_member(hard: bool) -> Vec<Event> {
        let mut log = LogBuilder::new(Some(("planted", "together")));
        let step = |index, gate: Option<&str>, group| StepSummary {
            index,
            name: format!("step-{index}"),
            action: "exec".into(),
            gate: gate.map(str::to_owned),
            hard: gate.is_none() || hard,
            weight: 1,
            group,
        };
        let steps = vec![step(10, Some("together"), None), step(11, None, Some(10))];
        log.host(Severity::Info, Kind::StepsPlanned { steps });
        for index in [11, 10] {
            let (name, outcome) = (format!("step-{index}"), Outcome::Failed);
            log.host(Severity::Error, Kind::StepFinished { index, name, outcome, failure: None, duration_ms: 1 });
        }
        log.unclosed()
    }

    #[test]
    fn a_member_without_a_gate_fails_at_its_groups() {
        assert_eq!(decide(&View::of(&failed_member(true))).verdict, Verdict::Reproduced);
        let soft = View::of(&failed_member(false));
        assert!(
            decisive_trouble(&soft).is_none(),
            "a weighted gate only counts towards the score, also for its members"
        );
    }

    #[test]
    fn each_way_to_end_has_its_verdict() {
        let told: String = sample::all()
            .iter()
            .map(|(name, events)| {
                let Decision { verdict, reason } = verdict(&View::of(events));
                format!("{name}: {} ({}): {reason}\n", verdict.as_str(), verdict.exit_code())
            })
            .collect();
        crate::report::testing::snapshot("verdicts", &told);
    }

    fn with(base: Vec<Event>, kinds: Vec<Kind>) -> Vec<Event> {
        let mut events = base;
        let closing = events.pop().unwrap();
        for kind in kinds {
            let mut event = closing.clone();
            event.event = kind;
            events.push(event);
        }
        events.push(closing);
        events
    }

    #[test]
    fn precedence_is_infrastructure_budget_interrupted_failed_blocked() {
        let infrastructure = || Kind::InfrastructureFailed { what: "the host".into(), detail: "failed".into() };
        let budget = || Kind::BudgetCrossed { what: "disk".into(), limit: 1, used: 2 };
        let interrupted = || Kind::Interrupted { signal: "SIGTERM".into() };
        let deadline = || Kind::DeadlinePassed { deadline_ms: 1 };
        for (kinds, expected) in [
            (vec![deadline()], Verdict::Failed),
            (vec![deadline(), interrupted()], Verdict::Interrupted),
            (vec![interrupted(), deadline(), budget()], Verdict::Budget),
            (vec![budget(), deadline(), interrupted(), infrastructure()], Verdict::Infrastructure),
            (vec![Kind::ConsoleCapped { limit: 1 }], Verdict::Budget),
        ] {
            // Each holds for a lane, for its control, and for a run that was blocked besides.
            for base in [sample::passed(), sample::blocked()] {
                assert_eq!(verdict(&View::of(&with(base, kinds.clone()))).verdict, expected, "{kinds:?}");
            }
            let control = verdict(&View::of(&with(sample::control_reproduced(), kinds.clone()))).verdict;
            let expected = if expected == Verdict::Failed { Verdict::Reproduced } else { expected };
            assert_eq!(control, expected, "{kinds:?}");
        }
    }

    #[test]
    fn a_reason_says_who_is_to_blame() {
        for (reason, expected) in [
            (FailureReason::Deadline, Verdict::Failed),
            (FailureReason::MachineOff, Verdict::Failed),
            (FailureReason::MachineDied, Verdict::Infrastructure),
            (FailureReason::Harness, Verdict::Infrastructure),
            (FailureReason::ConsoleCapped, Verdict::Budget),
        ] {
            let failure = Failure {
                reason,
                message: "it failed".into(),
                machine: None,
                expected: None,
                last_marker: None,
                waited_ms: 0,
                evidence: None,
            };
            let mut log = LogBuilder::new(None);
            log.preflight();
            // The step of the weighted gate: who is to blame decides even there.
            log.finish(2, "database-speed", Some(failure), 1);
            let decided = verdict(&View::of(&log.close())).verdict;
            if expected == Verdict::Failed {
                assert_eq!(decided, Verdict::Infrastructure, "nothing decisive failed, and steps were never run");
            } else {
                assert_eq!(decided, expected);
            }
        }
    }

    #[test]
    fn a_run_that_was_held_never_passes_and_what_failed_stays_failed() {
        let held = || Kind::RunHeld { index: 1, name: "kv".into(), reason: "asked for".into() };
        let released = || Kind::RunReleased { how: crate::event::Release::GoOn, held_ms: 1000 };
        for (base, expected) in [
            (sample::passed(), Verdict::Interrupted),
            (sample::control_reproduced(), Verdict::Interrupted),
            (sample::failed_gate(), Verdict::Failed),
        ] {
            let view = View::of(&with(base, vec![held(), released()]));
            assert_eq!(verdict(&view).verdict, expected);
            assert!(view.held.is_none());
        }
    }

    #[test]
    fn what_was_never_decided_does_not_pass() {
        let without = |wanted: &dyn Fn(&Kind) -> bool| -> Vec<Event> {
            sample::passed().into_iter().filter(|event| !wanted(&event.event)).collect()
        };
        let decided = |events: &[Event]| verdict(&View::of(events));
        let no_gate = decided(&without(&|kind| matches!(kind, Kind::GateDecided { gate, .. } if gate == "kv-healthy")));
        assert_eq!(no_gate.verdict, Verdict::Infrastructure);
        assert_eq!(no_gate.reason, "gate `kv-healthy` was not decided, and nothing says why");
        let no_step = decided(&without(&|kind| matches!(kind, Kind::StepFinished { index: 3, .. })));
        assert_eq!(no_step.reason, "step `off` was not run, and nothing says why");
        let no_plan = decided(&without(&|kind| matches!(kind, Kind::StepsPlanned { .. })));
        assert_eq!(no_plan.verdict, Verdict::Infrastructure);
        let nothing = [sample::passed().pop().unwrap()];
        assert_eq!(decided(&nothing).verdict, Verdict::Infrastructure);
    }

    #[test]
    fn nothing_comes_after_the_closing_event() {
        let mut events = sample::passed();
        let mut late = events.last().unwrap().clone();
        late.event = Kind::Note { text: "late".into() };
        events.push(late);
        assert_eq!(verdict(&View::of(&events)).verdict, Verdict::Incomplete);
    }

    #[test]
    fn what_was_cancelled_does_not_hide_its_cause_from_a_control() {
        let failure = |reason, message: &str| {
            Some(Failure {
                reason,
                message: message.into(),
                machine: None,
                expected: None,
                last_marker: None,
                waited_ms: 0,
                evidence: None,
            })
        };
        let mut log = LogBuilder::new(Some(("kv-down", "kv-healthy")));
        log.preflight();
        log.finish(0, "expect", failure(FailureReason::Cancelled, "cancelled: kv failed"), 1);
        log.finish(1, "kv", failure(FailureReason::ExitStatus, "kv failed"), 1);
        assert_eq!(verdict(&View::of(&log.close())).verdict, Verdict::Reproduced);
    }

    #[test]
    fn a_gate_that_failed_stays_failed() {
        let mut log = LogBuilder::new(None);
        log.boot();
        log.gate("kv-healthy", true, 1, crate::event::Outcome::Failed, Some("it was down"));
        log.gate("kv-healthy", true, 1, crate::event::Outcome::Passed, None);
        log.host(Severity::Info, Kind::Note { text: "again".into() });
        let decision = verdict(&View::of(&log.close()));
        assert_eq!((decision.verdict, decision.reason.as_str()), (Verdict::Failed, "it was down"));
    }
}
