//! Logs for tests: one of each way in which a run can end, and generators of logs that make no sense.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Builds a log the way the dispatcher does: numbered, with both clocks.
pub struct LogBuilder {
    events: Vec<Event>,
    at_ms: u64,
}

impl LogBuilder {
    pub fn new(control: Option<(&str, &str)>) -> Self {
        let mut log = Self { events: Vec::new(), at_ms: 0 };
        log.host(
            Severity::Info,
            Kind::RunStarted {
                log_version: LOG_VERSION,
                run: "20261121T101756+0000-3fa9c17e".into(),
                lane: "quickstart".into(),
                profile: Some("single-node".into()),
                summary: "one node comes up with its services healthy".into(),
                control: control.map(|(name, _)| name.into()),
                control_fails_at: control.map(|(_, gate)| gate.into()),
                plan_digest: format!("sha256:{}", "ab".repeat(32)),
                tool_version: "0.1.0".into(),
                minimum_score: Some(50),
            },
        );
        let step = |index, name: &str, action: &str, gate: Option<(&str, bool, u32)>| StepSummary {
            index,
            name: name.into(),
            action: action.into(),
            gate: gate.map(|(gate, _, _)| gate.into()),
            hard: gate.is_some_and(|(_, hard, _)| hard),
            weight: gate.map_or(0, |(_, _, weight)| weight),
            group: None,
        };
        log.host(
            Severity::Info,
            Kind::StepsPlanned {
                steps: vec![
                    step(0, "expect", "expect", None),
                    step(1, "kv", "exec", Some(("kv-healthy", true, 1))),
                    step(2, "database-speed", "exec", Some(("database-fast", false, 3))),
                    step(3, "off", "power", None),
                ],
            },
        );
        log
    }

    pub fn push(&mut self, machine: Option<(&str, u32)>, severity: Severity, correlation: Option<&str>, event: Kind) {
        let seconds = 37 + self.at_ms / 1000;
        self.events.push(Event {
            sequence: self.events.len() as u64 + 1,
            wall: format!("2026-11-21T10:{:02}:{:02}.{:03}+00:00", 17 + seconds / 60, seconds % 60, self.at_ms % 1000),
            monotonic_ns: self.at_ms * 1_000_000,
            machine: machine.map(|(name, _)| name.into()),
            epoch: machine.map(|(_, epoch)| epoch),
            severity,
            correlation: correlation.map(str::to_owned),
            event,
        });
    }

    pub fn host(&mut self, severity: Severity, event: Kind) {
        self.push(None, severity, None, event);
    }

    pub fn guest(&mut self, event: Kind) {
        self.push(Some(("node01", 1)), Severity::Info, None, event);
    }

    pub fn after(&mut self, milliseconds: u64) -> &mut Self {
        self.at_ms += milliseconds;
        self
    }

    pub fn preflight(&mut self) {
        self.after(40).host(Severity::Info, Kind::PreflightFinished { findings: vec![] });
        self.after(1).host(
            Severity::Warning,
            Kind::AcceleratorChosen {
                mode: "tcg".into(),
                proven_by: "cached-probe".into(),
                detail: "KVM hung a probe guest".into(),
                deadline_factor: 4.0,
            },
        );
        self.after(2).host(
            Severity::Info,
            Kind::ImageReady {
                image: "node".into(),
                source: "debian".into(),
                digest: format!("sha256:{}", "cd".repeat(32)),
                lock: "locked".into(),
                built: false,
                duration_ms: 2,
            },
        );
        self.after(120).guest(Kind::MachineStarted {
            pid: 4711,
            firmware: "bios".into(),
            command_line_file: "machines/node01/cmdline.txt".into(),
        });
        self.guest(Kind::EpochBegan { origin: "power-on".into() });
    }

    pub fn start(&mut self, index: usize, name: &str, action: &str) {
        self.after(1).host(
            Severity::Info,
            Kind::StepStarted {
                index,
                name: name.into(),
                action: action.into(),
                on: vec!["node01".into()],
                deadline_ms: 240_000,
            },
        );
    }

    pub fn marker(&mut self, name: &str, offset: u64) {
        let evidence = Self::console(offset, 30);
        self.guest(Kind::MarkerSeen {
            name: name.into(),
            node: None,
            arguments: BTreeMap::from([("port".into(), "2379".into())]),
            marker_sequence: Some(offset),
            standing: MarkerStanding::Counted,
            evidence,
        });
    }

    pub fn console(offset: u64, length: u64) -> Evidence {
        Evidence { file: "machines/node01/console.raw".into(), offset, length }
    }

    pub fn met(&mut self, expectation: usize, wanted: &str, after_ms: u64, offset: u64) {
        self.guest(Kind::ExpectationMet {
            index: 0,
            expectation,
            wanted: wanted.into(),
            after_ms,
            evidence: Self::console(offset, 30),
        });
    }

    pub fn finish(&mut self, index: usize, name: &str, failure: Option<Failure>, duration_ms: u64) {
        let (severity, outcome) =
            if failure.is_some() { (Severity::Error, Outcome::Failed) } else { (Severity::Info, Outcome::Passed) };
        self.host(severity, Kind::StepFinished { index, name: name.into(), outcome, failure, duration_ms });
    }

    pub fn command(&mut self, index: usize, argv: &[&str], status: i32) {
        self.after(310).guest(Kind::CommandFinished {
            index,
            argv: argv.iter().map(|&word| word.into()).collect(),
            status: Some(status),
            duration_ms: 310,
            stdout: None,
            stderr: None,
        });
    }

    pub fn gate(&mut self, gate: &str, hard: bool, weight: u32, outcome: Outcome, reason: Option<&str>) {
        let severity = if outcome == Outcome::Failed { Severity::Error } else { Severity::Info };
        let reason = reason.map(str::to_owned);
        self.host(severity, Kind::GateDecided { gate: gate.into(), hard, weight, outcome, reason });
    }

    pub fn boot(&mut self) {
        self.preflight();
        self.start(0, "expect", "expect");
        self.after(6_100).marker("boot", 400);
        self.met(0, "marker boot", 6_100, 400);
        self.after(2_450).marker("services.ready", 900);
        self.met(1, "marker services.ready", 2_450, 900);
        self.finish(0, "expect", None, 8_551);
    }

    pub fn stop(&mut self) {
        self.after(50).guest(Kind::MachineStopped { cause: StopCause::RunEnded, detail: String::new() });
    }

    /// The closing event with the verdict that follows from the rest.
    pub fn close(mut self) -> Vec<Event> {
        let verdict = crate::report::decide(&crate::report::View::of(&self.events)).verdict;
        self.after(5).host(Severity::Info, Kind::RunClosed { verdict });
        self.events
    }

    pub fn unclosed(self) -> Vec<Event> {
        self.events
    }
}

fn run(control: Option<(&str, &str)>, kv: bool, fast: bool) -> Vec<Event> {
    let mut log = LogBuilder::new(control);
    log.boot();
    log.start(1, "kv", "exec");
    log.command(1, &["etcdctl", "endpoint", "health"], i32::from(!kv));
    let reason = "`etcdctl endpoint health` gave exit status 1, and 0 was expected";
    let failure = |message: &str| Failure {
        reason: FailureReason::ExitStatus,
        message: message.into(),
        machine: Some("node01".into()),
        expected: Some("exit status 0".into()),
        last_marker: Some("services.ready port=2379".into()),
        waited_ms: 310,
        evidence: Some(LogBuilder::console(900, 120)),
    };
    if !kv {
        log.finish(1, "kv", Some(failure(reason)), 311);
        log.gate("kv-healthy", true, 1, Outcome::Failed, Some(reason));
        log.stop();
        return log.close();
    }
    log.finish(1, "kv", None, 311);
    log.gate("kv-healthy", true, 1, Outcome::Passed, None);
    log.start(2, "database-speed", "exec");
    log.command(2, &["pgbench", "-T", "5"], i32::from(!fast));
    let slow = (!fast).then(|| failure("`pgbench -T 5` gave exit status 1, and 0 was expected"));
    let outcome = if fast { Outcome::Passed } else { Outcome::Failed };
    log.finish(2, "database-speed", slow, 312);
    log.gate("database-fast", false, 3, outcome, None);
    log.start(3, "off", "power");
    log.after(900).guest(Kind::MachineStopped { cause: StopCause::GuestShutdown, detail: String::new() });
    log.finish(3, "off", None, 900);
    log.host(
        Severity::Info,
        Kind::ArtifactSaved { file: "artifacts/node01/etcd.log".into(), bytes: 2048, sha256: "ef".repeat(32) },
    );
    log.close()
}

pub fn passed() -> Vec<Event> {
    run(None, true, true)
}

pub fn failed_gate() -> Vec<Event> {
    run(None, false, true)
}

/// Only a weighted gate fails, and takes the score below the lane's minimum.
pub fn failed_score() -> Vec<Event> {
    run(None, true, false)
}

pub fn control_reproduced() -> Vec<Event> {
    run(Some(("kv-down", "kv-healthy")), false, true)
}

pub fn control_passed() -> Vec<Event> {
    run(Some(("kv-down", "kv-healthy")), true, true)
}

pub fn control_elsewhere() -> Vec<Event> {
    run(Some(("slow-disk", "expect")), false, true)
}

pub fn failed_deadline() -> Vec<Event> {
    let mut log = LogBuilder::new(None);
    log.preflight();
    log.start(0, "expect", "expect");
    log.after(6_100).marker("boot", 400);
    log.met(0, "marker boot", 6_100, 400);
    log.after(120_000).finish(
        0,
        "expect",
        Some(Failure {
            reason: FailureReason::Deadline,
            message: "marker `services.ready` did not come within 2m on node01".into(),
            machine: Some("node01".into()),
            expected: Some("marker services.ready".into()),
            last_marker: Some("boot port=2379".into()),
            waited_ms: 120_000,
            evidence: Some(LogBuilder::console(430, 470)),
        }),
        126_101,
    );
    log.stop();
    log.close()
}

pub fn blocked() -> Vec<Event> {
    let mut log = LogBuilder::new(None);
    let finding = |check: &str, blocking, message: &str, remedy: Option<&str>| Finding {
        check: check.into(),
        blocking,
        message: message.into(),
        remedy: remedy.map(str::to_owned),
    };
    log.after(30).host(
        Severity::Error,
        Kind::PreflightFinished {
            findings: vec![
                finding("mmdebstrap", true, "`mmdebstrap` is not installed", Some("apt-get install mmdebstrap")),
                finding("memory", true, "1.0 GiB is free and the lane takes 2.0 GiB", None),
                finding("accelerator", false, "KVM hung a probe guest: TCG is used", None),
            ],
        },
    );
    log.close()
}

pub fn interrupted() -> Vec<Event> {
    let mut log = LogBuilder::new(None);
    log.preflight();
    log.start(0, "expect", "expect");
    log.after(3_000).host(Severity::Warning, Kind::Interrupted { signal: "SIGINT".into() });
    log.after(10).finish(
        0,
        "expect",
        Some(Failure {
            reason: FailureReason::Cancelled,
            message: "cancelled: SIGINT".into(),
            machine: None,
            expected: Some("marker boot".into()),
            last_marker: None,
            waited_ms: 3_010,
            evidence: None,
        }),
        3_010,
    );
    log.stop();
    log.close()
}

pub fn infrastructure() -> Vec<Event> {
    let mut log = LogBuilder::new(None);
    log.preflight();
    log.start(0, "expect", "expect");
    log.after(1_200).push(
        Some(("node01", 1)),
        Severity::Error,
        None,
        Kind::MachineStopped { cause: StopCause::Died, detail: "signal 6; see machines/node01/qemu.stderr".into() },
    );
    log.finish(
        0,
        "expect",
        Some(Failure {
            reason: FailureReason::MachineDied,
            message: "QEMU of node01 ended by itself (signal 6)".into(),
            machine: Some("node01".into()),
            expected: Some("marker boot".into()),
            last_marker: None,
            waited_ms: 1_200,
            evidence: Some(Evidence { file: "machines/node01/qemu.stderr".into(), offset: 0, length: 60 }),
        }),
        1_200,
    );
    log.close()
}

/// One of each way to end, by name.
pub fn all() -> Vec<(&'static str, Vec<Event>)> {
    vec![
        ("passed", passed()),
        ("failed_gate", failed_gate()),
        ("failed_score", failed_score()),
        ("failed_deadline", failed_deadline()),
        ("blocked", blocked()),
        ("interrupted", interrupted()),
        ("infrastructure", infrastructure()),
        ("control_reproduced", control_reproduced()),
        ("control_passed", control_passed()),
        ("control_elsewhere", control_elsewhere()),
    ]
}

/// Text as a guest may print it: escape sequences, markup, controls, nothing at all.
pub fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z.]{1,12}",
        any::<String>(),
        Just("\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\u{0}".to_owned()),
        Just("<script>alert(1)</script> | `x` ]]> & \" ' \\ **b** [a](http://b) \u{fffe}\u{ffff}\u{202e}".to_owned()),
        Just("```\n# heading\n| a | b |\n<!--".to_owned()),
    ]
}

fn evidence() -> impl Strategy<Value = Evidence> {
    (prop_oneof![Just("machines/node01/console.raw".to_owned()), hostile_text()], any::<u64>(), any::<u64>())
        .prop_map(|(file, offset, length)| Evidence { file, offset, length })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Passed), Just(Outcome::Failed), Just(Outcome::Skipped), Just(Outcome::NotRun)]
}

fn failure() -> impl Strategy<Value = Failure> {
    let reason = prop::sample::select(vec![
        FailureReason::Deadline,
        FailureReason::ForbiddenMarker,
        FailureReason::FailurePattern,
        FailureReason::MachineDied,
        FailureReason::ConsoleCapped,
        FailureReason::Cancelled,
        FailureReason::Harness,
        FailureReason::ExitStatus,
    ]);
    (reason, hostile_text(), name(), prop::option::of(hostile_text()), any::<u64>(), prop::option::of(evidence()))
        .prop_map(|(reason, message, machine, expected, waited_ms, evidence)| Failure {
            reason,
            message,
            machine: Some(machine),
            last_marker: expected.clone(),
            expected,
            waited_ms,
            evidence,
        })
}

/// Few names, so that events of a generated log meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(vec!["a".to_owned(), "b".to_owned()]), 1 => hostile_text()]
}

fn index() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..4, 1 => any::<usize>()]
}

/// Any event at all.
pub fn kind() -> impl Strategy<Value = Kind> {
    let verdict = prop::sample::select(vec![Verdict::Passed, Verdict::Failed, Verdict::Reproduced]);
    let cause = prop::sample::select(vec![StopCause::Died, StopCause::Requested, StopCause::GuestShutdown]);
    let standing =
        prop::sample::select(vec![MarkerStanding::Counted, MarkerStanding::Duplicate, MarkerStanding::Damaged]);
    prop_oneof![
        (name(), hostile_text(), prop::option::of(name()), prop::option::of(name()), prop::option::of(0u8..=100))
            .prop_map(|(lane, summary, control, control_fails_at, minimum_score)| Kind::RunStarted {
                log_version: LOG_VERSION,
                run: "r".into(),
                lane,
                profile: None,
                summary,
                control,
                control_fails_at,
                plan_digest: "sha256:00".into(),
                tool_version: "0".into(),
                minimum_score,
            }),
        prop::collection::vec((index(), name(), prop::option::of(name()), any::<bool>(), any::<u32>()), 0..4).prop_map(
            |steps| Kind::StepsPlanned {
                steps: steps
                    .into_iter()
                    .map(|(index, name, gate, hard, weight)| StepSummary {
                        index,
                        name,
                        action: "exec".into(),
                        gate,
                        hard,
                        weight,
                        group: (weight % 3 == 0).then_some(index / 2),
                    })
                    .collect()
            }
        ),
        prop::collection::vec((any::<bool>(), hostile_text()), 0..3).prop_map(|findings| Kind::PreflightFinished {
            findings: findings
                .into_iter()
                .map(|(blocking, message)| Finding { check: "c".into(), blocking, message, remedy: None })
                .collect()
        }),
        hostile_text().prop_map(|detail| Kind::AcceleratorChosen {
            mode: "tcg".into(),
            proven_by: "requested".into(),
            detail,
            deadline_factor: 4.0
        }),
        any::<u32>().prop_map(|pid| Kind::MachineStarted {
            pid,
            firmware: "bios".into(),
            command_line_file: "x".into()
        }),
        hostile_text().prop_map(|origin| Kind::EpochBegan { origin }),
        hostile_text().prop_map(|reason| Kind::ChannelLost { reason }),
        (hostile_text(), prop::option::of(hostile_text()), hostile_text(), standing, evidence()).prop_map(
            |(name, node, value, standing, evidence)| Kind::MarkerSeen {
                name,
                node,
                arguments: BTreeMap::from([("k".into(), value)]),
                marker_sequence: None,
                standing,
                evidence
            }
        ),
        (hostile_text(), evidence()).prop_map(|(line, evidence)| Kind::FailurePatternSeen {
            pattern: "kernel-panic".into(),
            line,
            evidence
        }),
        any::<u64>().prop_map(|limit| Kind::ConsoleCapped { limit }),
        (cause, hostile_text()).prop_map(|(cause, detail)| Kind::MachineStopped { cause, detail }),
        (index(), name(), any::<u64>()).prop_map(|(index, name, deadline_ms)| Kind::StepStarted {
            index,
            name,
            action: "exec".into(),
            on: vec!["a".into()],
            deadline_ms
        }),
        (index(), any::<usize>(), hostile_text(), any::<u64>(), evidence()).prop_map(
            |(index, expectation, wanted, after_ms, evidence)| Kind::ExpectationMet {
                index,
                expectation,
                wanted,
                after_ms,
                evidence
            }
        ),
        (index(), hostile_text(), prop::option::of(any::<i32>()), prop::option::of(evidence())).prop_map(
            |(index, word, status, stdout)| Kind::CommandFinished {
                index,
                argv: vec![word],
                status,
                duration_ms: 1,
                stdout,
                stderr: None
            }
        ),
        (index(), name(), any::<bool>(), any::<u64>()).prop_map(|(index, word, held, looks)| Kind::AwaitEnded {
            index,
            condition: format!("file /{word}"),
            held,
            last_seen: word,
            notified: held,
            told_by: "inotify".into(),
            looks,
            duration_ms: looks,
        }),
        (index(), name(), outcome(), prop::option::of(failure()), any::<u64>()).prop_map(
            |(index, name, outcome, failure, duration_ms)| Kind::StepFinished {
                index,
                name,
                outcome,
                failure,
                duration_ms
            }
        ),
        (name(), any::<bool>(), any::<u32>(), outcome(), prop::option::of(hostile_text())).prop_map(
            |(gate, hard, weight, outcome, reason)| Kind::GateDecided { gate, hard, weight, outcome, reason }
        ),
        (hostile_text(), any::<u64>()).prop_map(|(file, bytes)| Kind::ArtifactSaved {
            file,
            bytes,
            sha256: "00".into()
        }),
        Just(Kind::Interrupted { signal: "SIGTERM".into() }),
        any::<u64>().prop_map(|deadline_ms| Kind::DeadlinePassed { deadline_ms }),
        (hostile_text(), any::<u64>(), any::<u64>()).prop_map(|(what, limit, used)| Kind::BudgetCrossed {
            what,
            limit,
            used
        }),
        (prop::collection::vec(hostile_text(), 0..3), prop::collection::vec(name(), 0..3))
            .prop_map(|(reasons, runs)| Kind::AdmissionWaiting { reasons, runs }),
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(memory, processors, disk, waited_ms)| {
            Kind::Admitted { memory, processors, disk, waited_ms }
        }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(memory_peak, disk_peak)| Kind::ResourcesUsed { memory_peak, disk_peak }),
        (hostile_text(), hostile_text()).prop_map(|(what, detail)| Kind::InfrastructureFailed { what, detail }),
        (name(), hostile_text(), prop::collection::vec(name(), 0..3)).prop_map(|(fault, description, targets)| {
            Kind::FaultBegan { fault, description, targets, lasts: true }
        }),
        (name(), hostile_text(), any::<u64>()).prop_map(|(fault, effect, count)| Kind::FaultEnded {
            fault,
            cause: FaultEnd::Healed,
            duration_ms: count,
            effects: BTreeMap::from([(effect, count)])
        }),
        (name(), hostile_text()).prop_map(|(network, host)| Kind::NetworkOpened { network, subnet: "s".into(), host }),
        (name(), name(), any::<u64>()).prop_map(|(network, port, received)| Kind::NetworkClosed {
            network,
            ports: BTreeMap::from([(port, PortTraffic { received, ..PortTraffic::default() })])
        }),
        (name(), any::<u64>(), any::<u64>()).prop_map(|(node, requests, took)| Kind::DeployerEnded {
            nodes: BTreeMap::from([(
                node,
                Answering { requests, answering_us: took, longest_us: took, waiting_us: requests }
            )]),
            others: Answering { requests, ..Answering::default() },
            telling: Telling { changes: requests, telling_us: took, longest_us: took },
        }),
        name().prop_map(|name| Kind::MachineKept { pid: 1, name }),
        hostile_text().prop_map(|text| Kind::Note { text }),
        verdict.prop_map(|verdict| Kind::RunClosed { verdict }),
    ]
}

/// A log of any events in any order, with clocks that jump.
pub fn any_log() -> impl Strategy<Value = Vec<Event>> {
    let severity = prop::sample::select(vec![Severity::Debug, Severity::Info, Severity::Warning, Severity::Error]);
    let event = (any::<u64>(), hostile_text(), any::<u64>(), prop::option::of(name()), prop::option::of(any::<u32>()));
    prop::collection::vec((event, severity, kind()), 0..40).prop_map(|events| {
        events
            .into_iter()
            .map(|((sequence, wall, monotonic_ns, machine, epoch), severity, event)| Event {
                sequence,
                wall,
                monotonic_ns,
                machine,
                epoch,
                severity,
                correlation: None,
                event,
            })
            .collect()
    })
}
