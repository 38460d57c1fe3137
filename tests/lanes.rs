//! What lane files mean: the shipped lanes, their controls, overrides, and properties that hold for any lane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bootproof::lane::model::{Action, Expected, Lane, Step, Tier};
use bootproof::lane::units::{Size, Span};
use bootproof::lane::{Catalog, Component, Format, LaneFile, all_steps, open};
use proptest::prelude::*;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(name: &str) -> LaneFile {
    let catalog = Catalog::scan(&root()).unwrap();
    open(&catalog.find(name).unwrap().path, &root()).unwrap()
}

fn lane_of(text: &str, overrides: &[&str]) -> Lane {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    LaneFile::parse("test.toml", text, Format::Toml, Path::new("folder"))
        .and_then(|file| file.lane(&overrides))
        .unwrap_or_else(|error| panic!("{}", error.rendered_excerpt(false).unwrap_or_default()))
}

fn pretty(lane: &Lane) -> String {
    serde_json::to_string_pretty(lane).unwrap()
}

macro_rules! assert_lane {
    ($text:expr) => {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!($text) })
    };
}

#[test]
fn the_smoke_lane_is_what_it_says() {
    assert_lane!(pretty(&shipped("smoke").lane(&[]).unwrap()));
}

#[test]
fn the_quickstart_lane_is_what_it_says() {
    assert_lane!(pretty(&shipped("quickstart").lane(&[]).unwrap()));
}

#[test]
fn every_shipped_lane_and_profile_fits_the_others() {
    let (lanes, errors) = Catalog::scan(&root()).unwrap().check();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(lanes.len() >= 2);
}

#[test]
fn every_gate_of_a_shipped_lane_has_a_control_that_fails_at_it() {
    let (lanes, _) = Catalog::scan(&root()).unwrap().check();
    for lane in lanes {
        for step in all_steps(&lane.steps) {
            let Some(gate) = &step.gate else { continue };
            let proven = lane.controls.values().any(|control| control.fails_at == gate.name);
            assert!(proven, "{}: no control fails at `{}`", lane.name, gate.name);
        }
    }
}

/// What the guest is told about the product has to be what the profile says of it.
#[test]
fn the_product_surface_in_an_image_is_its_profile() {
    let catalog = Catalog::scan(&root()).unwrap();
    let mut compared = 0;
    for folder in &catalog.profiles {
        let path = root().join("profiles").join(folder).join("files/etc/bootproof/product-surface.json");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let surface: serde_json::Value = serde_json::from_str(&text).unwrap();
        let components: Vec<(String, Component)> = surface["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| {
                let mut component = component.clone();
                let name = component.as_object_mut().unwrap().remove("name").unwrap();
                (name.as_str().unwrap().to_owned(), serde_json::from_value(component).unwrap())
            })
            .collect();
        let mut said = catalog.profile(folder).unwrap().components;
        said.values_mut().for_each(|component| component.summary = None);
        assert_eq!(components.into_iter().collect::<BTreeMap<_, _>>(), said, "{}", path.display());
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn a_control_changes_what_it_sets_and_nothing_else() {
    let file = shipped("quickstart");
    let lane = file.lane(&[]).unwrap();
    let mut planted = file.with_control("kv-down", &[]).unwrap();
    let node = planted.machines.get_mut("node01").unwrap();
    assert_eq!(node.kernel_parameters, ["systemd.mask=etcd.service"]);
    node.kernel_parameters.clear();
    assert_eq!(planted, lane);
}

#[test]
fn overrides_hold_for_controls_as_well() {
    let set = ["machines.node01.memory=2GiB".to_owned()];
    let planted = shipped("quickstart").with_control("kv-down", &set).unwrap();
    assert_eq!(planted.machines["node01"].memory, Size::gibibytes(2));
}

const TERSE: &str = r#"
version = 1
[lane]
name = "terse"
summary = "everything that may be left out is"
[secrets]
token = { environment = "TOKEN" }
made = { generated = true }
kept = { file = "token.txt" }
[images.d.disk]
path = "../d.qcow2"
[machines.b]
[machines.a]
image = "d"
disks = [{ name = "data", size = "1GiB" }]
network.forward = [22]
[[steps]]
expect = ["boot", { console = 'login:', within = "2s" }]
within = "5s"
on = ["a"]
[[steps]]
exec = ["/usr/bin/true", "${secret:token}"]
gate = "g"
[[steps]]
exec = ["true"]
[[steps]]
host = ["./check.sh"]
[[steps]]
script = { argv = ["jq", "./x"], environment = { A = "${secret:made}" } }
[[steps]]
http = "http://127.0.0.1:8080/health"
[[steps]]
tcp = "127.0.0.1:6379"
[[steps]]
await = { file = "/run/ready" }
[[steps]]
await = { unit = "ssh.service" }
[[steps]]
await = { port = 22, address = "::1" }
[[steps]]
copy = { from = "in.txt", to = "guest:/in.txt" }
[[steps]]
copy = { from = "guest:/out.txt", to = "out/./out.txt" }
[[steps]]
power = "reset"
[[steps]]
reboot = true
[[steps]]
hold = "3s"
[[steps]]
parallel = [{ exec = ["true"], on = ["a"] }, { hold = "1m", on = ["b"] }]
[controls.c]
set = { "steps.g.exec" = ["false"], "steps.0.within" = "1s", "machines.a.network.internet" = true }
fails_at = "g"
"#;

#[test]
fn a_terse_lane_comes_out_whole() {
    assert_lane!(pretty(&lane_of(TERSE, &[])));
}

#[test]
fn values_are_toml_where_they_can_be_and_strings_where_not() {
    let lane = lane_of(
        TERSE,
        &[
            "machines.a.memory=2GiB",
            "machines.b.memory = \"3GiB\"",
            "machines.a.cpus=4",
            "machines.b.kernel_parameters=[\"quiet\"]",
            "machines.b.network.internet=true",
            "machines.c={ image = \"tiny\" }",
            "steps.1.exec=[\"false\"]",
            "steps.g.within=7s",
            "lane.deadline=1h 30m",
            "images.tiny={ tiny = { kernel = \"/boot/vmlinuz\" } }",
        ],
    );
    assert_eq!(lane.machines["a"].memory, Size::gibibytes(2));
    assert_eq!(lane.machines["b"].memory, Size::gibibytes(3));
    assert_eq!(lane.machines["a"].cpus, 4);
    assert_eq!(lane.machines["b"].kernel_parameters, ["quiet"]);
    assert!(lane.machines["b"].network.internet);
    assert_eq!(lane.machines["c"].image, "tiny");
    assert!(matches!(&lane.steps[1].action, Action::Exec { command } if command.argv == ["false"]));
    assert_eq!(lane.steps[1].within, Span::from_secs(7));
    assert_eq!(lane.deadline, Span::from_secs(5400));
    assert_eq!(lane.tier, Tier::Site);
}

#[test]
fn made_names_avoid_given_ones_and_each_other() {
    let steps: String = ["\"true\"", "\"true-2\"", "\"true\"", "\"true\"", "\"true-3\""]
        .map(|program| format!("[[steps]]\nexec = [{program}]\n"))
        .concat();
    let text = format!(
        "version = 1\n[lane]\nname = \"n\"\nsummary = \"n\"\n[machines.a]\n{steps}[[steps]]\nname = \"exec-true\"\nhold = \"1s\"\n"
    );
    let lane = lane_of(&text, &[]);
    assert!(unique_names(&lane.steps));
    assert_eq!(lane.steps[5].name, "exec-true");
    assert_eq!(lane.steps[0].name, "exec-true-2");
}

/// The same document as JSON: what Nix writes.
fn as_json(text: &str) -> String {
    let value: toml::Value = toml::from_str(text).unwrap();
    serde_json::to_string(&value).unwrap()
}

#[test]
fn json_means_the_same() {
    let json = as_json(TERSE);
    let lane = LaneFile::parse("test.json", &json, Format::Json, Path::new("folder")).unwrap().lane(&[]).unwrap();
    assert_eq!(lane, lane_of(TERSE, &[]));
}

#[test]
fn a_lane_survives_being_kept() {
    for lane in [lane_of(TERSE, &[]), shipped("smoke").lane(&[]).unwrap(), shipped("quickstart").lane(&[]).unwrap()] {
        let kept: Lane = serde_json::from_str(&pretty(&lane)).unwrap();
        assert_eq!(kept, lane);
        assert_eq!(kept.digest(), lane.digest());
    }
}

/// Lane files that are right, in many shapes.
fn valid_lane() -> impl Strategy<Value = String> {
    let span = (1u32..10_000).prop_map(|seconds| format!("\"{seconds}s\""));
    let machine = (1u32..9, 32u32..4096, any::<bool>(), proptest::collection::vec("[a-z]{1,8}(=[a-z0-9.]{1,8})?", 0..3))
        .prop_map(|(cpus, memory, uefi, parameters)| {
            let firmware = if uefi { "uefi" } else { "bios" };
            format!("cpus = {cpus}\nmemory = \"{memory}MiB\"\nfirmware = \"{firmware}\"\nkernel_parameters = {parameters:?}\n")
        });
    let text = "[ -~äß→]{0,12}".prop_map(|text| toml::Value::String(text).to_string());
    let step = prop_oneof![
        (proptest::collection::vec("[a-z]{1,6}(\\.[a-z]{1,6})?", 1..4), span.clone())
            .prop_map(|(markers, within)| format!("expect = {markers:?}\nwithin = {within}\n")),
        (text.clone(), text.clone(), 0i32..256).prop_map(|(word, stdin, status)| format!(
            "exec = {{ argv = [\"echo\", {word}], stdin = {stdin}, status = {status}, stdout = {{ contains = {word} }} }}\n"
        )),
        (1u32..100).prop_map(|hold| format!("hold = \"{hold}ms\"\n")),
        (1u16..u16::MAX).prop_map(|port| format!("tcp = {{ address = \"127.0.0.1:{port}\", send = \"x\" }}\n")),
        Just("power = \"cut\"\n".to_owned()),
        Just("parallel = [{ exec = [\"true\"] }, { reboot = true }]\n".to_owned()),
    ];
    (proptest::collection::vec(machine, 1..4), proptest::collection::vec(step, 1..6), span).prop_map(
        |(machines, steps, deadline)| {
            let mut lane = format!("version = 1\n[lane]\nname = \"any\"\nsummary = \"any\"\ndeadline = {deadline}\n");
            for (index, machine) in machines.iter().enumerate() {
                lane.push_str(&format!("[machines.node{index}]\n{machine}"));
            }
            for (index, step) in steps.iter().enumerate() {
                lane.push_str(&format!("[[steps]]\ngate = \"gate{index}\"\n{step}"));
            }
            lane
        },
    )
}

fn unique_names(steps: &[Step]) -> bool {
    let all = all_steps(steps);
    let names: std::collections::BTreeSet<&str> = all.iter().map(|step| step.name.as_str()).collect();
    names.len() == all.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}|[\\[\\]{}=\"'.,\\n a-z0-9#]{0,200}", json in any::<bool>()) {
        let format = if json { Format::Json } else { Format::Toml };
        if let Ok(file) = LaneFile::parse("any", &text, format, Path::new("")) {
            let _ = file.lane(&[]);
        }
    }

    #[test]
    fn no_change_to_a_lane_makes_the_reader_panic(
        at in 0usize..2000, remove in 0usize..40, insert in "[\\[\\]{}=\"'.,\\n a-z0-9#-]{0,12}", json in any::<bool>(),
    ) {
        let (mut text, format) = if json { (as_json(TERSE), Format::Json) } else { (TERSE.to_owned(), Format::Toml) };
        let start = at.min(text.len());
        let end = (start + remove).min(text.len());
        text.replace_range(start..end, &insert);
        if let Ok(file) = LaneFile::parse("changed", &text, format, Path::new("")) {
            let _ = file.lane(&[]);
        }
    }

    #[test]
    fn no_override_makes_the_reader_panic(path in "[a-z0-9.\"\\[\\]# ]{0,20}", value in "\\PC{0,20}") {
        let file = LaneFile::parse("terse.toml", TERSE, Format::Toml, Path::new("")).unwrap();
        let _ = file.lane(&[format!("{path}={value}"), format!("{path}{value}"), format!("steps.0.{path}={value}")]);
    }

    #[test]
    fn any_valid_lane_is_read_and_survives(text in valid_lane()) {
        let lane = match LaneFile::parse("any.toml", &text, Format::Toml, Path::new("")).and_then(|file| file.lane(&[])) {
            Ok(lane) => lane,
            Err(error) => return Err(TestCaseError::fail(format!("{text}\n{}", error.rendered_excerpt(false).unwrap_or_default()))),
        };
        prop_assert!(unique_names(&lane.steps));
        for step in &lane.steps {
            if let Action::Expect { expectations, .. } = &step.action {
                let named = expectations.iter().all(|one| matches!(&one.what, Expected::Marker { name, .. } if !name.is_empty()));
                prop_assert!(named);
            }
        }
        let kept: Lane = serde_json::from_str(&serde_json::to_string(&lane).unwrap()).unwrap();
        prop_assert_eq!(&kept, &lane);
        let json = LaneFile::parse("any.json", &as_json(&text), Format::Json, Path::new("")).and_then(|file| file.lane(&[]));
        prop_assert_eq!(&json.unwrap(), &lane);
    }
}
