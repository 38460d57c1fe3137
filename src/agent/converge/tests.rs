//! The whole of convergence below a root of a test's own: real files, real archives; systemd is played, and the power goes
//! wherever it can.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use super::engine::{Engine, Trouble};
use super::host::{self, Host, Invocation};
use super::journal::Journal;
use super::places::Places;
use super::trees::name_of;
use crate::agent::http::sha256_hex;
use crate::provisioning::{Bundle, DesiredSystem, DesiredSystemAnswer, DesiredTarget, HealthCheck, NodeEvent};

/// What the power takes along.
struct PowerCut;

struct Machine {
    root: tempfile::TempDir,
    bundles: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Units that run, and what their files said when they were started.
    running: RefCell<BTreeMap<String, String>>,
    /// What was done, in order.
    calls: RefCell<Vec<String>>,
    markers: RefCell<Vec<String>>,
    /// How many steps are left before the power goes.
    steps_left: Cell<Option<u32>>,
    stopping: Cell<bool>,
    /// Beginnings of calls that fail.
    failing: RefCell<Vec<String>>,
}

impl Machine {
    fn new() -> Self {
        Self {
            // Hundreds of machines flush what they write, and nobody needs that to survive.
            root: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
            bundles: RefCell::default(),
            running: RefCell::default(),
            calls: RefCell::default(),
            markers: RefCell::default(),
            steps_left: Cell::new(None),
            stopping: Cell::new(false),
            failing: RefCell::default(),
        }
    }

    fn places(&self) -> Places {
        Places::below(self.root.path())
    }

    fn step(&self) {
        match self.steps_left.get() {
            Some(0) => resume_unwind(Box::new(PowerCut)),
            Some(left) => self.steps_left.set(Some(left - 1)),
            None => {}
        }
    }

    /// Where a path of the running system is below our root.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    /// As systemd finds a unit's file.
    fn unit(&self, name: &str) -> Option<String> {
        let link = fs::read_link(self.places().units().join(name)).ok()?;
        fs::read_to_string(self.inside(&link)).ok()
    }

    fn systemctl(&self, words: &[&str]) -> Result<String, String> {
        let mut running = self.running.borrow_mut();
        let (verb, names) = words.split_first().unwrap();
        match *verb {
            "is-system-running" if self.stopping.get() => return Err("`systemctl` ended with 1: stopping".into()),
            "is-system-running" => return Ok("running".into()),
            "stop" => names.iter().for_each(|name| drop(running.remove(*name))),
            "start" | "restart" => {
                for name in names {
                    let text = self.unit(name).ok_or(format!("Unit {name} not found."))?;
                    if text.contains("broken") {
                        return Err(format!("Job for {name} failed."));
                    }
                    running.insert((*name).to_owned(), text);
                }
            }
            _ => {}
        }
        Ok(String::new())
    }

    fn bundle(&self, members: &[(&str, &str)]) -> Bundle {
        let members: Vec<Member> = members.iter().map(|(path, text)| Member::File(path, text)).collect();
        self.archive(&members)
    }

    fn archive(&self, members: &[Member<'_>]) -> Bundle {
        let bytes = zstd::encode_all(&pack(members)[..], 1).unwrap();
        let bundle = Bundle { digest: format!("sha256:{}", sha256_hex(&bytes)), size: bytes.len() as u64 };
        self.bundles.borrow_mut().insert(bundle.digest.clone(), bytes);
        bundle
    }

    /// A tree whose unit says its name, and whose health check passes or fails.
    fn system(&self, name: &str, healthy: bool) -> DesiredSystem {
        let (own, shared) = (format!("units/{name}.service"), format!("[Unit]\nDescription={name}\n"));
        let health = if healthy { "healthy" } else { "fails" };
        let members = [
            ("activate", name),
            ("check", health),
            ("units/shared.service", shared.as_str()),
            (own.as_str(), "[Service]\n"),
        ];
        named(name, self.bundle(&members))
    }

    fn fetch(&self, bundle: &Bundle, into: &Path) -> Result<(), String> {
        let bundles = self.bundles.borrow();
        let bytes = bundles.get(&bundle.digest).ok_or("the deployer answered 404")?;
        fs::write(into, bytes).map_err(|error| error.to_string())
    }

    /// One start of the service, which takes up that.
    fn run(&self, desired: &DesiredSystemAnswer) -> Result<Journal, Trouble> {
        let mut engine = Engine::open(self.places(), self).map_err(Trouble::Books)?;
        engine.recover()?;
        if engine.journal().generation != Some(desired.generation) {
            engine.take(desired, &|bundle, into| self.fetch(bundle, into), &mut |_| {})?;
        }
        Ok(engine.journal().clone())
    }

    /// As `run`, with the power going after so many steps; whether it went.
    fn run_until_cut(&self, desired: &DesiredSystemAnswer, steps: u32) -> bool {
        self.steps_left.set(Some(steps));
        let ended = catch_unwind(AssertUnwindSafe(|| self.run(desired)));
        self.steps_left.set(None);
        match ended {
            Ok(journal) => {
                journal.unwrap();
                false
            }
            Err(cause) => {
                cause.downcast::<PowerCut>().expect("a panic of its own");
                self.running.borrow_mut().clear();
                true
            }
        }
    }

    fn active_tree(&self) -> Option<String> {
        let link = fs::read_link(self.places().current()).ok()?;
        assert!(self.places().state().join(&link).is_dir(), "`current` leads nowhere");
        Some(link.file_name().unwrap().to_string_lossy().into_owned())
    }

    fn running(&self) -> Vec<String> {
        self.running.borrow().keys().cloned().collect()
    }

    /// Everything says the same: the journal, the link, the units' links, what runs.
    #[track_caller]
    fn expect_active(&self, journal: &Journal, name: Option<&str>) {
        assert_eq!(journal.trying, None);
        assert_eq!(journal.good.as_ref().map(|good| good.name.as_str()), name);
        let digest = journal.good.as_ref().map(|good| name_of(bundle_of(good)).unwrap().to_owned());
        assert_eq!(self.active_tree(), digest);
        let units: BTreeSet<String> =
            name.map(|name| [format!("{name}.service"), "shared.service".into()].into()).unwrap_or_default();
        assert_eq!(super::units::linked(&self.places()).unwrap(), units);
        assert_eq!(self.running().into_iter().collect::<BTreeSet<_>>(), units);
        if let Some(name) = name {
            let shared = &self.running.borrow()["shared.service"];
            assert!(shared.contains(&format!("={name}\n")), "an old unit runs on: {shared}");
        }
        let trees: BTreeSet<String> = names(&self.places().generations());
        let kept = [journal.good.as_ref(), journal.previous.as_ref()].into_iter().flatten();
        let kept: BTreeSet<String> = kept.map(|good| name_of(bundle_of(good)).unwrap().to_owned()).collect();
        assert!(trees.is_subset(&kept), "{trees:?} is more than {kept:?}");
        assert!(names(&self.places().scratch()).is_empty());
        assert!(!self.places().state().join("current.new").exists());
    }
}

impl Host for Machine {
    fn run(&self, invocation: &Invocation) -> Result<String, String> {
        self.step();
        let words: Vec<&str> = invocation.arguments.iter().map(String::as_str).collect();
        let program = invocation.program.to_string_lossy().into_owned();
        let call = std::iter::once(program.as_str()).chain(words.iter().copied()).collect::<Vec<_>>().join(" ");
        self.calls.borrow_mut().push(call.clone());
        if self.failing.borrow().iter().any(|start| call.starts_with(start)) {
            return Err(format!("`{program}` fails"));
        }
        let done = match program.as_str() {
            "systemctl" => self.systemctl(&words),
            "tar" => host::run(invocation),
            "nix" | "nix-env" | "nix-store" => Ok(String::new()),
            nixos if nixos.starts_with("/nix/store/") => Ok(String::new()),
            _ => match fs::read_to_string(&invocation.program).unwrap() {
                text if text.contains("fails") => Err("it is ill".into()),
                text => Ok(text),
            },
        };
        self.step();
        done
    }

    fn mark(&self, name: &str, arguments: &[(&str, &str)]) {
        let arguments: Vec<String> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.markers.borrow_mut().push(format!("{name} {}", arguments.join(" ")));
    }

    fn say(&self, _text: &str) {}

    fn durable(&self, _step: &str) {
        self.step();
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

enum Member<'m> {
    File(&'m str, &'m str),
    Mode(&'m str, u32),
    Link(&'m str, &'m str),
    HardLink(&'m str, &'m str),
    Device(&'m str),
    Fifo(&'m str),
}

fn pack(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for member in members {
        let (path, kind, text, target, mode) = match *member {
            Member::File(path, text) => (path, tar::EntryType::Regular, text, None, 0o755),
            Member::Mode(path, mode) => (path, tar::EntryType::Regular, "", None, mode),
            Member::Link(path, target) => (path, tar::EntryType::Symlink, "", Some(target), 0o777),
            Member::HardLink(path, target) => (path, tar::EntryType::Link, "", Some(target), 0o644),
            Member::Device(path) => (path, tar::EntryType::Char, "", None, 0o666),
            Member::Fifo(path) => (path, tar::EntryType::Fifo, "", None, 0o666),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(text.len() as u64);
        if kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        // Past what the library would refuse.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        archive.append(&header, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn named(name: &str, bundle: Bundle) -> DesiredSystem {
    let health_check = HealthCheck { argv: vec!["check".into()], within: 5 };
    DesiredSystem { name: name.into(), target: DesiredTarget::Tree { bundle }, health_check }
}

fn bundle_of(system: &DesiredSystem) -> &Bundle {
    match &system.target {
        DesiredTarget::Tree { bundle } => bundle,
        DesiredTarget::Nixos { .. } => panic!("{system:?}"),
    }
}

fn desired(generation: u64, system: &DesiredSystem) -> DesiredSystemAnswer {
    DesiredSystemAnswer { version: 1, generation, system: Some(system.clone()) }
}

fn reported(journal: &Journal) -> Vec<NodeEvent> {
    journal.outbox.iter().map(|report| report.report.clone()).collect()
}

fn rolled_back(system: &str, active: Option<&str>, journal: &Journal) -> usize {
    let is_it = |event: &&NodeEvent| {
        matches!(event, NodeEvent::RolledBack { system: one, active: other, .. }
        if one == system && other.as_deref() == active)
    };
    reported(journal).iter().filter(is_it).count()
}

#[test]
fn a_good_system_becomes_active_and_the_next_takes_its_place() {
    let machine = Machine::new();
    let (one, two, three) = (machine.system("one", true), machine.system("two", true), machine.system("three", true));
    let journal = machine.run(&desired(1, &one)).unwrap();
    machine.expect_active(&journal, Some("one"));
    let (name, active) = ("one".to_owned(), NodeEvent::Active { system: "one".into() });
    assert_eq!(reported(&journal), [NodeEvent::Activating { system: name }, active.clone()]);
    assert_eq!(*machine.markers.borrow(), ["desired-system-active system=one"]);
    machine.run(&desired(2, &two)).unwrap();
    let journal = machine.run(&desired(3, &three)).unwrap();
    machine.expect_active(&journal, Some("three"));
    assert_eq!(journal.previous, Some(two));
    assert_eq!(names(&machine.places().generations()).len(), 2, "the good one and the one before");
    // Another boot: what is good is started, and nothing else happens.
    machine.running.borrow_mut().clear();
    machine.calls.borrow_mut().clear();
    let journal = machine.run(&desired(3, &three)).unwrap();
    machine.expect_active(&journal, Some("three"));
    assert!(!machine.calls.borrow().iter().any(|call| call.ends_with("/activate")), "it is active already");
    assert_eq!(machine.markers.borrow().last().unwrap(), "desired-system-active system=three");
    // The same under another name is only called so.
    machine.calls.borrow_mut().clear();
    let renamed = DesiredSystem { name: "third".into(), ..three };
    let journal = machine.run(&desired(4, &renamed)).unwrap();
    assert_eq!(journal.good, Some(renamed));
    assert!(!machine.calls.borrow().iter().any(|call| call.contains(" stop ")));
}

#[test]
fn a_system_that_is_not_healthy_is_taken_back_and_not_tried_again() {
    let machine = Machine::new();
    let (good, bad) = (machine.system("good", true), machine.system("bad", false));
    machine.run(&desired(1, &good)).unwrap();
    let journal = machine.run(&desired(2, &bad)).unwrap();
    machine.expect_active(&journal, Some("good"));
    assert_eq!(rolled_back("bad", Some("good"), &journal), 1);
    let expected = "rolled-back system=bad active=good reason=the health check failed: it is ill";
    assert_eq!(machine.markers.borrow().last().unwrap(), expected);
    // In another generation, and under another name.
    machine.calls.borrow_mut().clear();
    let journal = machine.run(&desired(3, &DesiredSystem { name: "worse".into(), ..bad.clone() })).unwrap();
    machine.expect_active(&journal, Some("good"));
    assert_eq!(rolled_back("worse", Some("good"), &journal), 1, "it is told, whose generation it is");
    assert!(!machine.calls.borrow().iter().any(|call| call.starts_with("tar") || call.contains(" stop ")));
    // Judged in another way the same tree may be good.
    let lenient = DesiredSystem { health_check: HealthCheck::default(), ..bad };
    let journal = machine.run(&desired(4, &lenient)).unwrap();
    machine.expect_active(&journal, Some("bad"));
}

#[test]
fn a_first_system_that_is_not_good_leaves_nothing() {
    for (members, reason) in [
        (&[("units/a.service", "broken")][..], "Job for a.service failed."),
        (&[("activate", "fails"), ("units/a.service", "")], "it is ill"),
        (&[("units/a.service", "")], "health check's program `sub/check` is not in the tree"),
    ] {
        let machine = Machine::new();
        let mut system = named("bad", machine.bundle(members));
        if reason.contains("sub/") {
            system.health_check.argv = vec!["sub/check".into()];
        }
        let journal = machine.run(&desired(1, &system)).unwrap();
        machine.expect_active(&journal, None);
        assert_eq!(rolled_back("bad", None, &journal), 1);
        assert!(journal.rejected[0].reason.contains(reason), "{:?}", journal.rejected);
        assert!(machine.markers.borrow()[0].starts_with("rolled-back system=bad active=none"));
    }
}

/// The power goes at every point of it, once; whatever that was, the next boot brings it to the same end.
#[test]
fn a_power_cut_anywhere_is_survived() {
    for (first, healthy, end) in
        [(true, true, Some("two")), (true, false, Some("one")), (false, true, Some("two")), (false, false, None)]
    {
        for steps in 0.. {
            let machine = Machine::new();
            if first {
                machine.run(&desired(1, &machine.system("one", true))).unwrap();
            }
            let two = desired(2, &machine.system("two", healthy));
            let cut = machine.run_until_cut(&two, steps);
            let journal = machine.run(&two).unwrap();
            machine.expect_active(&journal, end);
            let active = reported(&journal).contains(&NodeEvent::Active { system: "two".into() });
            assert_eq!(active, healthy, "cut after {steps} steps: {:?}", reported(&journal));
            assert_eq!(rolled_back("two", end, &journal), usize::from(!healthy), "cut after {steps} steps");
            let marker = if healthy { "desired-system-active system=two" } else { "rolled-back system=two" };
            assert!(machine.markers.borrow().iter().any(|said| said.starts_with(marker)), "{steps}");
            if !cut {
                assert!(steps > 15, "there were only {steps} steps");
                break;
            }
        }
    }
}

/// Two power cuts: a good system is active or, where both came while it was being activated, rejected; nothing in between.
#[test]
fn two_power_cuts_anywhere_leave_nothing_half_done() {
    let mut rejected = 0;
    for first in 0.. {
        let mut more = false;
        for second in (0..60).step_by(3) {
            let machine = Machine::new();
            machine.run(&desired(1, &machine.system("one", true))).unwrap();
            let two = desired(2, &machine.system("two", true));
            more = machine.run_until_cut(&two, first);
            let again = machine.run_until_cut(&two, second);
            let journal = machine.run(&two).unwrap();
            let is_rejected = !journal.rejected.is_empty();
            rejected += u32::from(is_rejected);
            machine.expect_active(&journal, Some(if is_rejected { "one" } else { "two" }));
            assert_eq!(rolled_back("two", Some("one"), &journal), usize::from(is_rejected));
            if !again {
                break;
            }
        }
        if !more {
            break;
        }
    }
    assert!(rejected > 10, "what takes the machine down twice is rejected: {rejected}");
}

#[test]
fn a_machine_that_goes_down_judges_nothing() {
    let machine = Machine::new();
    machine.run(&desired(1, &machine.system("one", true))).unwrap();
    let two = desired(2, &machine.system("two", true));
    machine.failing.borrow_mut().push("systemctl restart".into());
    machine.stopping.set(true);
    assert!(matches!(machine.run(&two), Err(Trouble::Stopping(_))));
    machine.stopping.set(false);
    machine.failing.borrow_mut().clear();
    machine.running.borrow_mut().clear();
    let journal = machine.run(&two).unwrap();
    machine.expect_active(&journal, Some("two"));
}

#[test]
fn a_way_back_that_is_barred_is_told_as_such() {
    let machine = Machine::new();
    machine.run(&desired(1, &machine.system("one", true))).unwrap();
    machine.failing.borrow_mut().push("systemctl daemon-reload".into());
    let journal = machine.run(&desired(2, &machine.system("two", true))).unwrap();
    assert_eq!(rolled_back("two", Some("one"), &journal), 0);
    let during = |event: &NodeEvent| matches!(event, NodeEvent::Failed { during, .. } if during == "roll-back");
    assert!(reported(&journal).iter().any(during), "{:?}", reported(&journal));
    assert!(!machine.markers.borrow().iter().any(|marker| marker.starts_with("rolled-back")));
    // The next boot starts what was good.
    machine.failing.borrow_mut().clear();
    machine.running.borrow_mut().clear();
    let journal = machine.run(&desired(2, &machine.system("two", true))).unwrap();
    machine.expect_active(&journal, Some("one"));
}

#[test]
fn a_good_system_that_is_ill_after_a_boot_is_told() {
    let machine = Machine::new();
    let one = desired(1, &machine.system("one", true));
    machine.run(&one).unwrap();
    let check = machine.places().current().join("check");
    fs::write(check, "fails").unwrap();
    let journal = machine.run(&one).unwrap();
    let during = |event: &NodeEvent| matches!(event, NodeEvent::Failed { during, .. } if during == "health-check");
    assert!(reported(&journal).iter().any(during));
    assert_eq!(journal.good.unwrap().name, "one");
}

/// Nothing of them is ever activated, and nothing outside of the tree is touched.
#[test]
fn hostile_archives_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let (folder, file) = (outside.path().to_str().unwrap(), secret.to_str().unwrap());
    let through = [Member::Link("door", folder), Member::File("door/new", "x")];
    let hard = [Member::HardLink("hard", file)];
    let back_and_forth = [Member::File("a/b/x", ""), Member::Link("a/b/up", "../.."), Member::Link("out", "a/b/up/..")];
    let cases: &[(&str, &[Member<'_>])] = &[
        ("upwards", &[Member::File("../escaped", "x")]),
        ("upwards inside", &[Member::File("a/../../escaped", "x")]),
        ("absolute link", &[Member::Link("link", "/etc/passwd")]),
        ("link upwards", &[Member::Link("link", "../../converge.json")]),
        ("links that lead out together", &back_and_forth),
        ("through a link", &through),
        ("hard link", &hard),
        ("device", &[Member::Device("null")]),
        ("pipe", &[Member::Fifo("pipe")]),
        ("set-user-id", &[Member::File("x", ""), Member::Mode("root", 0o4755)]),
        ("unit that is a link", &[Member::File("x", ""), Member::Link("units/x.service", "../x")]),
        ("no unit", &[Member::File("units/x.mount", "")]),
    ];
    for (case, members) in cases {
        let machine = Machine::new();
        let mut hostile = named("hostile", machine.archive(members));
        hostile.health_check = HealthCheck::default();
        let journal = machine.run(&desired(1, &hostile)).unwrap();
        if *case == "set-user-id" {
            // Taken off when it is unpacked.
            assert_eq!(journal.rejected, []);
            let metadata = fs::metadata(machine.places().current().join("root")).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777, 0o755);
            continue;
        }
        machine.expect_active(&journal, None);
        let during = |event: &NodeEvent| matches!(event, NodeEvent::Failed { during, .. } if during == "unpack");
        assert!(reported(&journal).iter().any(during), "{case}: {:?}", reported(&journal));
        assert_eq!(journal.rejected.len(), 1, "{case}");
        assert_eq!(names(outside.path()).len(), 1, "{case}");
        assert!(!machine.places().state().join("escaped").exists(), "{case}");
        assert!(!machine.places().scratch().join("escaped").exists(), "{case}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

#[test]
fn what_cannot_be_had_now_is_not_rejected_and_what_is_no_digest_is() {
    let machine = Machine::new();
    let absent = Bundle { digest: format!("sha256:{}", "0".repeat(64)), size: 1 };
    let error = machine.run(&desired(1, &named("absent", absent))).unwrap_err();
    assert_eq!(error, Trouble::Later("download", "the deployer answered 404".into()));
    // No space: it may be there later.
    let system = machine.system("one", true);
    machine.failing.borrow_mut().push("tar".into());
    let full = machine.run(&desired(1, &system));
    assert!(matches!(full, Ok(_) | Err(Trouble::Later("unpack", _))));
    machine.failing.borrow_mut().clear();
    for digest in ["sha256:../../../../etc", "sha512:00", "", &format!("sha256:{}", "A".repeat(64))] {
        let machine = Machine::new();
        let system = named("odd", Bundle { digest: digest.into(), size: 1 });
        let journal = machine.run(&desired(1, &system)).unwrap();
        assert!(journal.rejected[0].reason.contains("is no digest"), "{:?}", journal.rejected);
    }
}

#[test]
fn nixos_systems_are_switched_by_their_profile_and_back() {
    let machine = Machine::new();
    let path = |name: &str| format!("/nix/store/{}-{name}", "0".repeat(32));
    let profile = machine.places().nixos_profile();
    // As it was installed; the test has no store.
    fs::create_dir_all(profile.parent().unwrap()).unwrap();
    fs::create_dir_all(machine.root.path().join("before")).unwrap();
    std::os::unix::fs::symlink(machine.root.path().join("before"), &profile).unwrap();
    let system = |name: &str| DesiredSystem {
        name: name.into(),
        target: DesiredTarget::Nixos { store_path: path(name) },
        health_check: HealthCheck::default(),
    };
    let journal = machine.run(&desired(1, &system("one"))).unwrap();
    assert_eq!(journal.good, Some(system("one")));
    machine.failing.borrow_mut().push(format!("{}/bin", path("two")));
    let journal = machine.run(&desired(2, &system("two"))).unwrap();
    assert_eq!(journal.good, Some(system("one")));
    assert_eq!(rolled_back("two", Some("one"), &journal), 1);
    let calls: Vec<String> = machine.calls.borrow().iter().filter(|call| call.contains("nix")).cloned().collect();
    let set = |name: &str| format!("nix-env --profile /nix/var/nix/profiles/system --set {}", path(name));
    let switch = |name: &str| format!("{}/bin/switch-to-configuration switch", path(name));
    let fetch = |name: &str| format!("nix-store --realise {}", path(name));
    let expected =
        [fetch("one"), set("one"), switch("one"), fetch("two"), set("two"), switch("two"), set("one"), switch("one")];
    assert_eq!(calls, expected);
    let wrong = DesiredSystem { target: DesiredTarget::Nixos { store_path: "/etc".into() }, ..system("odd") };
    assert!(matches!(machine.run(&desired(3, &wrong)), Err(Trouble::Later("download", _))));
}
