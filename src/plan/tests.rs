//! What a plan says of a lane, and what its digest depends on.

use std::collections::BTreeMap;
use std::path::Path;

use super::model::*;
use super::*;
use crate::lane::model::{Image, Lane};
use crate::lane::units::{Size, Span};
use crate::lane::{Format, LaneFile};

const LANE: &str = r#"
version = 1
[lane]
name = "planned"
summary = "a lane to plan"
deadline = "2m"
[requires]
kvm = true
tools = ["jq"]
[secrets.token]
environment = "TOKEN"
[images.node]
nix = ".#node"
debian = { suite = "bookworm", size = "3GiB" }
[images.unused]
nix = ".#unused"
[networks.lan]
[machines.a]
image = "node"
networks = ["lan"]
memory = "1GiB"
disks = [{ name = "data", size = "2GiB", write_cache = "volatile", survives = "10%" }]
kernel_parameters = ["quiet"]
network = { forward = [22], services = { "10.0.2.100:80" = "127.0.0.1:8080" } }
[machines.b]
networks = ["lan"]
console_limit = "8MiB"
[machines.c]
backend = "recorder"
recording = "console.raw"
console_limit = "1MiB"
[[steps]]
expect = [{ marker = "boot", within = "10s" }, { console = 'login:', within = "5s" }]
forbid = ["broken"]
on = ["a"]
gate = "up"
[[steps]]
exec = ["sh", "-c", "echo one\necho two"]
on = ["a", "b"]
within = "20s"
always = true
gate = { name = "talks", hard = false, weight = 3 }
[[steps]]
hold = "30s"
[[steps]]
parallel = [{ exec = ["true"], within = "3s", on = ["b"] }, { hold = "25s", on = ["a"] }]
[[steps]]
name = "cut"
fault = { link = { from = ["a"], to = ["b"], one_way = true, loss = "10%", delay = "5ms" } }
[[steps]]
heal = ["cut"]
[[steps]]
name = "trouble"
schedule = { seed = 7, duration = "30s", every = "8s", faults = [{ on = ["a", "b"], fault = { pause = true } }, { on = ["a"], fault = { power = "reset" } }] }
[controls.silent]
set = { "steps.up.expect" = ["never"] }
fails_at = "up"
"#;

fn lane() -> Lane {
    LaneFile::parse("planned.toml", LANE, Format::Toml, Path::new("")).unwrap().lane(&[]).unwrap()
}

fn image(source: ImageSource, present: bool) -> PlannedImage {
    PlannedImage {
        source,
        recipe_digest: format!("sha256:{}", "1".repeat(64)),
        digest: present.then(|| format!("sha256:{}", "2".repeat(64))),
        lock: if present { LockState::Locked } else { LockState::Unlocked },
        present,
        build_disk: Size::gibibytes(4),
    }
}

fn inputs(factor: f64) -> PlanInputs {
    PlanInputs {
        images: BTreeMap::from([
            ("node".into(), image(ImageSource::Debian, false)),
            ("tiny".into(), image(ImageSource::Tiny, true)),
        ]),
        accelerator: PlannedAccelerator {
            requested: AcceleratorRequest::Auto,
            mode: (factor > 1.0).then_some(Accelerator::Tcg),
            deadline_factor: factor,
        },
        control: None,
    }
}

#[test]
fn the_text_tells_what_would_happen() {
    let mut inputs = inputs(4.0);
    inputs.control = Some("silent".into());
    let plan = resolve(lane(), inputs).unwrap();
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(plan_text(&plan)) });
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(lane_text(&plan.lane)) });
}

#[test]
fn deadlines_are_scaled_and_holds_are_not() {
    let plan = resolve(lane(), inputs(4.0)).unwrap();
    let seconds: Vec<u64> = plan.step_deadlines.iter().map(|span| span.duration().as_secs()).collect();
    // The hold's margin of 5 s is scaled; the parallel holds for 25 s, which is more than four times 3 s.
    // The schedule takes its 30 s; only the minute for healing is scaled.
    assert_eq!(seconds, [60, 80, 30 + 20, 4 * 25, 4 * 60, 4 * 60, 30 + 4 * 60]);
    assert_eq!(plan.deadline, Span::from_secs(480));
    let quick = resolve(lane(), inputs(1.0)).unwrap();
    let seconds: Vec<u64> = quick.step_deadlines.iter().map(|span| span.duration().as_secs()).collect();
    assert_eq!(seconds, [15, 20, 35, 30, 60, 60, 90]);
    assert_eq!(quick.longest(), Span::from_secs(120), "the run's own deadline is shorter than all steps together");
}

#[test]
fn peaks_count_what_can_be_written_and_held() {
    let plan = resolve(lane(), inputs(1.0)).unwrap();
    // To build: 4 GiB. Of `a`: root, disk with its writes logged, console twice. Of `b` and `c`: consoles twice. The
    // network's recording.
    let expected = (4u64 << 30) + (3 << 30) + (8 << 30) + (2 << 30) + (16 << 20) + (2 << 20) + (64 << 20);
    assert_eq!(plan.disk_peak, Size(expected));
    assert_eq!(plan.memory_peak, Size::mebibytes(1024 + 256));
}

#[test]
fn only_images_of_machines_are_needed() {
    let lane = lane();
    assert_eq!(images_needed(&lane).keys().copied().collect::<Vec<_>>(), ["node", "tiny"]);
    let mut inputs = inputs(1.0);
    inputs.images.remove("node");
    assert!(resolve(lane, inputs).unwrap_err().to_string().contains("`node`"));
}

#[test]
fn the_source_is_the_one_asked_for_or_debian_or_what_there_is() {
    let lane = lane();
    let node = &lane.images["node"];
    let tiny = &lane.images["tiny"];
    let unused = &lane.images["unused"];
    assert_eq!(choose_source("node", node, None).unwrap(), ImageSource::Debian);
    assert_eq!(choose_source("node", node, Some(ImageSource::Nix)).unwrap(), ImageSource::Nix);
    assert_eq!(choose_source("tiny", tiny, Some(ImageSource::Nix)).unwrap(), ImageSource::Tiny);
    assert_eq!(choose_source("unused", unused, None).unwrap(), ImageSource::Nix);
    let error = choose_source("unused", unused, Some(ImageSource::Debian)).unwrap_err();
    assert!(error.to_string().contains("no debian recipe") && error.hints()[0].contains("--images nix"));
    assert!(choose_source("none", &Image::default(), None).is_err());
}

#[test]
fn the_digest_changes_with_anything_that_is_planned_and_with_nothing_else() {
    let plan = || resolve(lane(), inputs(1.0)).unwrap();
    let digest = plan().digest();
    assert_eq!(digest, plan().digest());
    assert_eq!(digest.len(), "sha256:".len() + 64);
    let mut drifted = inputs(1.0);
    drifted.images.get_mut("node").unwrap().digest = Some("sha256:3".into());
    assert_ne!(resolve(lane(), drifted).unwrap().digest(), digest);
    let mut other = lane();
    other.machines.get_mut("a").unwrap().cpus = 2;
    let other = resolve(other, inputs(1.0)).unwrap();
    assert_ne!(other.digest(), digest);
    assert_ne!(other.lane_digest, plan().lane_digest);
}

#[test]
fn a_plan_survives_being_kept() {
    let plan = resolve(lane(), inputs(4.0)).unwrap();
    let kept: Plan = serde_json::from_str(&serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    assert_eq!(kept, plan);
    assert_eq!(kept.digest(), plan.digest());
    assert_eq!(serde_json::from_str::<Plan>(&canonical_json(&plan)).unwrap(), plan);
}

#[test]
fn no_factor_is_too_large() {
    let mut long = lane();
    long.deadline = Span(std::time::Duration::MAX);
    assert_eq!(resolve(long, inputs(4.0)).unwrap().deadline, Span(std::time::Duration::MAX));
}
