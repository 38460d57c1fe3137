//! `junit.xml`: a test case for the run, for each gate and for each step.
//!
//! What always holds: failures and errors are there if and only if the run's exit code is not 0. So a control that was
//! reproduced shows what failed as it must, and a weighted gate that failed in a run that passed is `skipped`, with the
//! reason in its message.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::describe;
use super::result::{GateResult, RunResult, StepResult};
use super::story::Story;
use super::text::one_line;
use super::view::TroubleKind;
use crate::error::{Context, Result};
use crate::event::{Failure, FailureReason, Outcome, Verdict};

/// The story as JUnit XML. Every text in it is legal XML 1.0, whatever a guest printed.
pub fn junit(story: &Story) -> Result<String> {
    let result = &story.result;
    let lane = one_line(result.lane.as_deref().unwrap_or("unknown lane"));
    let name = match &result.control {
        Some(control) => format!("{lane}/{}", one_line(&control.name)),
        None => lane,
    };
    let mut report = Report::new(&name);
    report.set_time(Duration::from_millis(result.duration_ms));
    report.timestamp = result.started_at.as_ref().and_then(|started| started.parse().ok());
    let timestamp = report.timestamp;
    let mut add = |kind: &str, cases: Vec<TestCase>| {
        let mut suite = TestSuite::new(format!("{name}.{kind}"));
        suite.timestamp = timestamp;
        suite.set_time(cases.iter().filter_map(|case| case.time).sum());
        suite.add_test_cases(cases);
        report.add_test_suite(suite);
    };
    add("run", vec![run_case(story, &name)]);
    let gates = result.gates.iter().map(|gate| gate_case(result, gate, &name));
    add("gates", gates.collect());
    add("steps", result.steps.iter().map(|step| step_case(story, step, &name)).collect());
    report.to_string().infrastructure(|| "failed to express the result as JUnit XML".into())
}

fn case(class: String, name: &str, status: TestCaseStatus, milliseconds: Option<u64>) -> TestCase {
    let name = one_line(name);
    let mut case = TestCase::new(if name.trim().is_empty() { "(no name)" } else { &name }, status);
    case.set_classname(class);
    case.set_time(Duration::from_millis(milliseconds.unwrap_or(0)));
    case
}

fn with_message(mut status: TestCaseStatus, message: &str) -> TestCaseStatus {
    status.set_message(one_line(message));
    status
}

fn non_success(kind: NonSuccessKind, ty: &str, message: &str) -> TestCaseStatus {
    let mut status = with_message(TestCaseStatus::non_success(kind), message);
    status.set_type(ty);
    status
}

fn run_case(story: &Story, name: &str) -> TestCase {
    let result = &story.result;
    let bad = |kind| non_success(kind, result.verdict.as_str(), &result.reason);
    let mut status = match result.verdict {
        Verdict::Passed | Verdict::Reproduced => TestCaseStatus::success(),
        Verdict::Failed => bad(NonSuccessKind::Failure),
        Verdict::Blocked | Verdict::Infrastructure | Verdict::Budget | Verdict::Interrupted | Verdict::Incomplete => {
            bad(NonSuccessKind::Error)
        }
    };
    if let TestCaseStatus::NonSuccess { .. } = status {
        status.set_description(story_text(story));
    }
    let mut case = case(format!("{name}.run"), "verdict", status, Some(result.duration_ms));
    case.set_system_out(format!("{}: {}", result.verdict.as_str(), one_line(&result.reason)));
    case
}

/// What failed, and the lines around it; one line each.
fn story_text(story: &Story) -> String {
    let mut lines: Vec<String> = story
        .result
        .findings
        .iter()
        .filter(|finding| finding.blocking)
        .map(|finding| {
            let remedy = finding.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
            one_line(&format!("{}: {}{remedy}", finding.check, finding.message))
        })
        .collect();
    if let Some(failure) = &story.result.failure {
        lines.push(one_line(&failure.message));
        let mut add = |label: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("{label}: {}", one_line(&value))))
        };
        add("expected", failure.expected.clone());
        add("last marker", failure.last_marker.clone());
        add("waited", failure.waited_ms.map(super::text::duration));
        add("evidence", failure.evidence.as_ref().map(super::document::place));
    }
    lines.extend(excerpt_text(story));
    lines.join("\n")
}

fn excerpt_text(story: &Story) -> Option<String> {
    let excerpt = story.excerpt.as_ref()?;
    let lines: Vec<String> = excerpt.lines.iter().map(|line| format!("| {}", one_line(line))).collect();
    Some(format!("{}:\n{}", one_line(&excerpt.file), lines.join("\n")))
}

/// What a failure means here: in a run whose exit code is 0 it is one that had to be, or one that does not decide.
fn failed(result: &RunResult, place: Option<&str>, kind: NonSuccessKind, ty: &str, message: &str) -> TestCaseStatus {
    let wanted = result.control.as_ref().and_then(|control| control.fails_at.as_deref());
    match result.verdict {
        Verdict::Reproduced if place.is_some() && place == wanted => TestCaseStatus::success(),
        Verdict::Reproduced => {
            with_message(TestCaseStatus::skipped(), &format!("failed in a control that was reproduced: {message}"))
        }
        Verdict::Passed => {
            with_message(TestCaseStatus::skipped(), &format!("failed, and only its weight counts: {message}"))
        }
        Verdict::Failed
        | Verdict::Blocked
        | Verdict::Infrastructure
        | Verdict::Budget
        | Verdict::Interrupted
        | Verdict::Incomplete => non_success(kind, ty, message),
    }
}

fn not_failed(outcome: Outcome, reason: Option<&str>) -> TestCaseStatus {
    match outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Failed | Outcome::Skipped | Outcome::NotRun => {
            with_message(TestCaseStatus::skipped(), reason.unwrap_or(describe::outcome(outcome)))
        }
    }
}

fn gate_case(result: &RunResult, gate: &GateResult, name: &str) -> TestCase {
    let status = match gate.outcome {
        Outcome::Failed => {
            let message = gate.reason.as_deref().unwrap_or("the gate failed");
            let ty = if gate.hard { "hard-gate" } else { "weighted-gate" };
            failed(result, Some(&gate.name), NonSuccessKind::Failure, ty, message)
        }
        Outcome::Passed | Outcome::Skipped | Outcome::NotRun => not_failed(gate.outcome, gate.reason.as_deref()),
    };
    case(format!("{name}.gates"), &gate.name, status, gate.duration_ms)
}

fn step_case(story: &Story, step: &StepResult, name: &str) -> TestCase {
    let result = &story.result;
    let message = step.failure.as_ref().map(|failure| failure.message.as_str());
    let status = match step.outcome {
        Outcome::Failed => {
            let (kind, ty) = blame(step.failure.as_ref());
            let place = step.gate.as_deref().unwrap_or(&step.name);
            failed(result, Some(place), kind, ty, message.unwrap_or("the step failed"))
        }
        Outcome::Passed | Outcome::Skipped | Outcome::NotRun => not_failed(step.outcome, message),
    };
    let mut case = case(format!("{name}.steps"), &step.name, status, step.duration_ms);
    let told = result.failure.as_ref().and_then(|failure| failure.step.as_ref());
    if step.outcome == Outcome::Failed
        && told == Some(&step.name)
        && let Some(text) = excerpt_text(story)
    {
        case.set_system_out(text);
    }
    case
}

/// A product's failure is a `failure`, everything else an `error`.
fn blame(failure: Option<&Failure>) -> (NonSuccessKind, &'static str) {
    let Some(failure) = failure else { return (NonSuccessKind::Failure, "failed") };
    match TroubleKind::of(failure.reason) {
        TroubleKind::Failed => (NonSuccessKind::Failure, reason(failure.reason)),
        TroubleKind::Infrastructure => (NonSuccessKind::Error, reason(failure.reason)),
        TroubleKind::Budget => (NonSuccessKind::Error, reason(failure.reason)),
        TroubleKind::Interrupted => (NonSuccessKind::Error, reason(failure.reason)),
    }
}

/// As in the log.
fn reason(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Deadline => "deadline",
        FailureReason::ForbiddenMarker => "forbidden-marker",
        FailureReason::OutOfOrder => "out-of-order",
        FailureReason::FailurePattern => "failure-pattern",
        FailureReason::MachineOff => "machine-off",
        FailureReason::UnexpectedReboot => "unexpected-reboot",
        FailureReason::ExitStatus => "exit-status",
        FailureReason::OutputMismatch => "output-mismatch",
        FailureReason::Refused => "refused",
        FailureReason::MachineDied => "machine-died",
        FailureReason::ConsoleCapped => "console-capped",
        FailureReason::Cancelled => "cancelled",
        FailureReason::Harness => "harness",
    }
}
