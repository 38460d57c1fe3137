//! Every way in which a lane file can be wrong, as its author sees it. The snapshots are read by people: an error has a
//! place, says what is wrong, and what to do.

use std::fmt::Write as _;
use std::path::Path;

use bootproof::lane::{Format, LaneFile};

/// A lane that is right, for cases that break one thing.
const BEGIN: &str = "version = 1\n[lane]\nname = \"case\"\nsummary = \"a case\"\n";
const MACHINE: &str = "[machines.node01]\n";
const STEP: &str = "[[steps]]\nexpect = [\"boot\"]\n";

fn errors(text: &str, format: Format, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let name = if format == Format::Json { "case.json" } else { "case.toml" };
    let outcome =
        LaneFile::parse(name, text, format, Path::new("profiles/case/lanes")).and_then(|file| file.lane(&overrides));
    match outcome {
        Ok(lane) => format!("no error in {}", lane.name),
        Err(error) => {
            assert_eq!(error.kind().exit_code(), 2);
            error.rendered_excerpt(false).map_or_else(|| format!("error: {error}"), str::to_owned)
        }
    }
}

/// Runs cases of TOML and puts them and their errors below each other.
fn gallery(cases: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, lane) in cases {
        let _ = writeln!(text, "=== {name}\n{}\n", errors(lane, Format::Toml, &[]));
    }
    text
}

macro_rules! assert_gallery {
    ($text:expr) => {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!($text) })
    };
}

fn lane(rest: &str) -> String {
    format!("{BEGIN}{rest}")
}

fn with_machine(machine: &str) -> String {
    format!("{BEGIN}{MACHINE}{machine}\n{STEP}")
}

fn with_step(step: &str) -> String {
    format!("{BEGIN}{MACHINE}[[steps]]\n{step}\n")
}

#[test]
fn the_frame() {
    assert_gallery!(gallery(&[
        ("empty file", String::new()),
        ("no version", "[lane]\nname = \"case\"\n".into()),
        ("newer version", format!("version = 2\n{}", &BEGIN[12..])),
        ("older version", "version = 0\n".into()),
        ("version of another type", "version = \"1\"\n".into()),
        ("syntax", lane("[machines.node01\nimage = \n")),
        ("no lane table", "version = 1\n".into()),
        ("missing keys", "version = 1\n[lane]\n[machines.a]\n".into()),
        ("no steps", lane(MACHINE)),
        ("unknown section", lane(&format!("[machnes.node01]\n{STEP}"))),
        ("unknown key in the header", format!("{}sumary = \"x\"\n{MACHINE}{STEP}", &BEGIN)),
        ("wrong type", format!("version = 1\nlane = 3\n{STEP}")),
        ("name", BEGIN.replace("\"case\"", "\"My Case\"") + MACHINE + STEP),
        ("summary", BEGIN.replace("a case", " ") + MACHINE + STEP),
        ("bad deadline", format!("{BEGIN}deadline = \"fast\"\n{MACHINE}{STEP}")),
        ("negative deadline", format!("{BEGIN}deadline = \"-5s\"\n{MACHINE}{STEP}")),
        ("deadline without a unit", format!("{BEGIN}deadline = 90\n{MACHINE}{STEP}")),
        ("no deadline at all", format!("{BEGIN}deadline = \"0s\"\n{MACHINE}{STEP}")),
        ("tier", format!("{BEGIN}tier = \"site\"\n{MACHINE}{STEP}")),
        ("unknown tier", format!("{BEGIN}tier = \"singel\"\n{MACHINE}{STEP}")),
        ("score", format!("{BEGIN}minimum_score = 101\n{MACHINE}{STEP}gate = {{ name = \"a\", hard = false }}\n")),
        ("score of nothing", format!("{BEGIN}minimum_score = 50\n{MACHINE}{STEP}")),
        ("holds beyond the deadline", format!("{BEGIN}deadline = \"5s\"\n{MACHINE}[[steps]]\nhold = \"6s\"\n")),
        ("large integer", lane("[machines.a]\ncpus = 99999999999999999999\n")),
    ]));
}

#[test]
fn machines_and_images() {
    assert_gallery!(gallery(&[
        ("unknown key", with_machine("memry = \"1GiB\"")),
        ("bad size", with_machine("memory = \"much\"")),
        ("size without a unit", with_machine("memory = 512")),
        ("too little memory", with_machine("memory = \"1MiB\"")),
        ("no cpus", with_machine("cpus = 0")),
        ("negative cpus", with_machine("cpus = -1")),
        ("unknown firmware", with_machine("firmware = \"efi\"")),
        ("unknown image", with_machine("image = \"tinny\"")),
        (
            "unknown image among others",
            lane(&format!("[images.node]\nnix = \".#x\"\n[machines.a]\nimage = \"base\"\n{STEP}")),
        ),
        ("image from nowhere", lane(&format!("[images.node]\n{MACHINE}image = \"node\"\n{STEP}"))),
        (
            "image without a suite",
            lane(&format!("[images.node.debian]\npackages = []\n{MACHINE}image = \"node\"\n{STEP}"))
        ),
        (
            "bad recipe",
            lane(&format!(
                "[images.node]\nnix = \"a b\"\n[images.node.debian]\nsuite = \"Book Worm\"\npackages = [\"--yes\", \"etcd,x\"]\nsize = \"1MiB\"\n{MACHINE}image = \"node\"\n{STEP}"
            )),
        ),
        (
            "bad digest",
            lane(&format!("[images.d.disk]\npath = \"d.qcow2\"\nsha512 = \"abc\"\n{MACHINE}image = \"d\"\n{STEP}"))
        ),
        ("empty path", lane(&format!("[images.d.disk]\npath = \"\"\n{MACHINE}image = \"d\"\n{STEP}"))),
        ("machine name", lane(&format!("[machines.\"../Node_1\"]\n{STEP}"))),
        (
            "disk names",
            with_machine(
                "disks = [{ name = \"a-name-longer-than-twenty\", size = \"1GiB\" }, { name = \"a b\", size = \"0B\" }, { name = \"d\", size = \"1GiB\" }, { name = \"d\", size = \"1GiB\" }]"
            )
        ),
        (
            "kernel parameters",
            with_machine("kernel_parameters = [\"quiet splash\", \"\", \"dyndbg=\\\"file x +p\\\"\"]")
        ),
        ("recorder without a recording", with_machine("backend = \"recorder\"")),
        ("recording without a recorder", with_machine("recording = \"x.raw\"")),
        (
            "a command in a recording",
            lane("[machines.a]\nbackend = \"recorder\"\nrecording = \"-\"\n[[steps]]\nexec = [\"true\"]\n"),
        ),
        ("network of nothing", with_machine("network = { none = true, forward = [22] }")),
        ("ports", with_machine("network = { forward = [0, 22, 22] }")),
        ("port out of range", with_machine("network = { forward = [70000] }")),
        ("services", with_machine("network.services = { \"10.0.2.2:80\" = \"localhost\" }")),
    ]));
}

#[test]
fn steps() {
    assert_gallery!(gallery(&[
        ("no action", with_step("within = \"5s\"")),
        ("two actions", with_step("expect = [\"boot\"]\nexec = [\"true\"]")),
        ("misspelled action", with_step("exce = [\"true\"]")),
        ("unknown machine", with_step("expect = [\"boot\"]\non = [\"node1\"]")),
        ("nowhere", with_step("expect = [\"boot\"]\non = []")),
        ("twice", with_step("expect = [\"boot\"]\non = [\"node01\", \"node01\"]")),
        ("on as a string", with_step("expect = [\"boot\"]\non = \"node01\"")),
        ("no machine", lane(STEP)),
        ("bad duration", with_step("expect = [{ marker = \"boot\", within = \"soon\" }]")),
        ("nothing expected", with_step("expect = []")),
        ("neither marker nor line", with_step("expect = [{ within = \"5s\" }]")),
        ("marker and line", with_step("expect = [{ marker = \"a\", console = \"b\" }]")),
        ("marker name", with_step("expect = [\"services ready\"]")),
        ("expected and forbidden", with_step("expect = [\"boot\"]\nforbid = [\"boot\"]")),
        ("forbid alone", with_step("hold = \"5s\"\nforbid = [\"boot\"]")),
        ("bad regular expression", with_step("expect = [{ console = 'login: (' }]")),
        ("empty command", with_step("exec = []")),
        ("command as a string", with_step("exec = \"uname -r\"")),
        ("command without words", with_step("exec = { status = 1 }")),
        ("word of another type", with_step("exec = [\"sleep\", 5]")),
        ("unknown key in a command", with_step("exec = { argv = [\"true\"], stdut = { contains = \"x\" } }")),
        ("bad match", with_step("exec = { argv = [\"true\"], stdout = { matches = '[' } }")),
        ("on for a host command", with_step("host = [\"true\"]\non = [\"node01\"]")),
        ("duplicate names", with_step("name = \"a\"\nexec = [\"true\"]\n[[steps]]\nname = \"a\"\nexec = [\"false\"]")),
        (
            "duplicate gates",
            with_step("gate = \"g\"\nexec = [\"true\"]\n[[steps]]\ngate = { name = \"g\" }\nexec = [\"false\"]")
        ),
        ("gate without a name", with_step("gate = { hard = true }\nexec = [\"true\"]")),
        ("gate without weight", with_step("gate = { name = \"g\", weight = 0 }\nexec = [\"true\"]")),
        ("step name", with_step("name = \"a/b\"\nexec = [\"true\"]")),
        ("http", with_step("http = \"https://127.0.0.1/\"")),
        (
            "http details",
            with_step("http = { url = \"http://x y/\", method = \"get\", status = 42, headers = { \"a b\" = \"c\" } }")
        ),
        ("tcp", with_step("tcp = \"127.0.0.1\"")),
        ("await of nothing", with_step("await = {}")),
        ("await of two", with_step("await = { file = \"/a\", port = 80 }")),
        ("await of a relative file", with_step("await = { file = \"run/ready\" }")),
        (
            "await of a file that is gone and contains",
            with_step("await = { file = \"/a\", gone = true, contains = \"b\" }")
        ),
        ("await of a unit without suffix", with_step("await = { unit = \"ssh\" }")),
        ("await of a state without unit", with_step("await = { port = 22, state = \"active\" }")),
        ("await of an address with a port", with_step("await = { port = 22, address = \"127.0.0.1:22\" }")),
        ("await of port 0", with_step("await = { port = 0 }")),
        ("copy of neither side", with_step("copy = { from = \"a\", to = \"/b\" }")),
        ("copy of both sides", with_step("copy = { from = \"guest:/a\", to = \"guest:/b\" }")),
        ("copy out of the artifacts", with_step("copy = { from = \"guest:/a\", to = \"../b\" }")),
        ("copy of a relative guest path", with_step("copy = { from = \"a\", to = \"guest:b\" }")),
        ("unknown power action", with_step("power = \"of\"")),
        ("no reboot", with_step("reboot = false")),
        ("bounded hold", with_step("hold = \"5s\"\nwithin = \"9s\"")),
        ("empty parallel", with_step("parallel = []")),
        ("parallel with on", with_step("parallel = [{ exec = [\"true\"] }]\non = [\"node01\"]")),
        (
            "errors within a parallel",
            with_step(
                "parallel = [{ exec = [\"true\"], on = [\"node02\"] }, { exec = [] }, { exec = [\"true\"], always = true }]"
            )
        ),
        ("short parallel", with_step("parallel = [{ hold = \"9s\" }]\nwithin = \"5s\"")),
    ]));
}

#[test]
fn names_that_refer_to_others() {
    let gated = format!("{MACHINE}{STEP}gate = \"up\"\n");
    assert_gallery!(gallery(&[
        (
            "unknown gate",
            lane(&format!(
                "{gated}[controls.c]\nset = {{ \"machines.node01.memory\" = \"1GiB\" }}\nfails_at = \"upp\"\n"
            ))
        ),
        ("control of nothing", lane(&format!("{gated}[controls.c]\nset = {{}}\nfails_at = \"up\"\n"))),
        (
            "control that changes nothing",
            lane(&format!("{gated}[controls.c]\nset = {{ \"machines.node01.cpus\" = 1 }}\nfails_at = \"up\"\n"))
        ),
        ("control without set", lane(&format!("{gated}[controls.c]\nfails_at = \"up\"\n"))),
        (
            "control of an unknown machine",
            lane(&format!(
                "{gated}[controls.c]\nset = {{ \"machines.node1.memory\" = \"1GiB\" }}\nfails_at = \"up\"\n"
            ))
        ),
        (
            "control of an unknown key",
            lane(&format!(
                "{gated}[controls.c]\nset = {{ \"machines.node01.memry\" = \"1GiB\" }}\nfails_at = \"up\"\n"
            ))
        ),
        (
            "control with a bad value",
            lane(&format!(
                "{gated}[controls.c]\nset = {{ \"machines.node01.memory\" = \"much\" }}\nfails_at = \"up\"\n"
            ))
        ),
        (
            "control of an unknown step",
            lane(&format!("{gated}[controls.c]\nset = {{ \"steps.down.exec\" = [\"false\"] }}\nfails_at = \"up\"\n"))
        ),
        (
            "control with a bad path",
            lane(&format!("{gated}[controls.c]\nset = {{ \"machines..x\" = 1 }}\nfails_at = \"up\"\n"))
        ),
        (
            "control with its path unquoted",
            lane(&format!("{gated}[controls.c]\nset = {{ machines.node01.memory = \"1GiB\" }}\nfails_at = \"up\"\n"))
        ),
        (
            "unknown secret",
            lane(&format!(
                "[secrets.token]\ngenerated = true\n{MACHINE}[[steps]]\nexec = [\"login\", \"${{secret:tokn}}\"]\n"
            ))
        ),
        ("no secret at all", with_step("exec = [\"login\", \"${secret:token}\"]")),
        ("unfinished secret", with_step("exec = [\"login\", \"${secret:token\"]")),
        ("secret without a source", lane(&format!("[secrets.token]\n{MACHINE}{STEP}"))),
        (
            "secret in a kernel parameter",
            lane(&format!(
                "[secrets.token]\ngenerated = true\n{MACHINE}kernel_parameters = [\"t=${{secret:token}}\"]\n{STEP}"
            ))
        ),
        (
            "marker rules",
            lane(&format!("[markers]\nprefix = \"MY MARKER\"\naliases = {{ \"a b\" = \"c\" }}\n{MACHINE}{STEP}"))
        ),
        (
            "failure patterns",
            lane(&format!(
                "[failure_patterns]\nadd = {{ broken = '(', io-error = 'x' }}\nsilence = [\"failed-units\", \"everything\"]\n{MACHINE}{STEP}"
            ))
        ),
    ]));
}

#[test]
fn several_at_once() {
    let text = "version = 1\n[lane]\nname = \"case\"\nsummary = \"a case\"\ndeadlne = \"5m\"\n\
        [machines.node01]\nmemory = 3\ncpus = \"two\"\n\
        [[steps]]\nexpect = [{ marker = \"boot\", within = \"soon\" }]\n\
        [[steps]]\nexec = []\non = [\"node02\"]\n";
    assert_gallery!(errors(text, Format::Toml, &[]));
}

#[test]
fn overrides() {
    let text = format!("{BEGIN}[machines.node01]\ncpus = 1\n{STEP}gate = \"up\"\n");
    let mut gallery = String::new();
    for set in [
        "machines.node01.memory",
        "=5",
        "machines..memory=1GiB",
        "machines.node1.memory=1GiB",
        "machines.node01.memry=1GiB",
        "machines.node01.memory=1",
        "machines.node01.memory=much",
        "machines.node01.cpus.x=1",
        "machines.node02={ image = \"none\" }",
        "steps.9.within=5s",
        "steps.upp.within=5s",
        "steps.up.within=never",
        "lan.deadline=5m",
        "version=7",
        "machines=none",
    ] {
        let _ = writeln!(gallery, "=== --set {set}\n{}\n", errors(&text, Format::Toml, &[set]));
    }
    assert_gallery!(gallery);
}

#[test]
fn json() {
    let mut gallery = String::new();
    for (name, text) in [
        ("syntax", "{ \"version\": 1,\n  \"lane\": { \"name\": } }"),
        ("cut off", "{ \"version\": 1,"),
        ("empty", ""),
        ("null", "null"),
        ("not an object", "[1]"),
        ("duplicate key", "{ \"version\": 1,\n  \"lane\": {}, \"lane\": {} }"),
        (
            "unknown key and wrong type",
            "{\n  \"version\": 1,\n  \"lane\": { \"name\": \"case\", \"summary\": \"a case\", \"profile\": null },\n  \"machines\": { \"node01\": { \"memry\": \"1GiB\", \"cpus\": \"2\" } },\n  \"steps\": [ { \"expect\": [ \"boot\" ], \"on\": [ \"node\" ] } ]\n}",
        ),
        ("null in an array", "{ \"version\": 1, \"steps\": [ null ] }"),
    ] {
        let _ = writeln!(gallery, "=== {name}\n{}\n", errors(text, Format::Json, &[]));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let _ = writeln!(gallery, "=== nested\n{}", errors(&deep, Format::Json, &[]).lines().next().unwrap());
    assert_gallery!(gallery);
}

/// Three machines, two of them in a network.
fn with_network(rest: &str) -> String {
    lane(&format!(
        "[networks.lan]\n[machines]\na = {{ networks = [\"lan\"], disks = [{{ name = \"data\", size = \"1GiB\" }}] }}\n\
         b = {{ networks = [\"lan\"] }}\nc = {{}}\n{rest}"
    ))
}

fn with_fault(fault: &str) -> String {
    with_network(&format!("[[steps]]\nname = \"f\"\non = [\"a\"]\nfault = {fault}\n"))
}

fn with_link(link: &str) -> String {
    with_network(&format!("[[steps]]\nfault = {{ link = {link} }}\n"))
}

#[test]
fn networks() {
    let networked = |networks: &str, machine: &str| lane(&format!("{networks}\n[machines.a]\n{machine}\n{STEP}"));
    assert_gallery!(gallery(&[
        ("name", networked("[networks.Lan]", "")),
        ("the host's name", networked("[networks.host]", "")),
        ("subnet", networked("[networks.lan]\nsubnet = \"10.20.0.1/24\"", "")),
        ("public subnet", networked("[networks.lan]\nsubnet = \"8.8.8.0/24\"", "")),
        ("small subnet", networked("[networks.lan]\nsubnet = \"10.20.0.0/30\"", "")),
        (
            "overlapping subnets",
            networked("[networks.a]\nsubnet = \"10.20.0.0/16\"\n[networks.b]\nsubnet = \"10.20.3.0/24\"", "")
        ),
        ("unknown network", networked("[networks.lan]", "networks = [\"lam\"]")),
        ("twice", networked("[networks.lan]", "networks = [\"lan\", \"lan\"]")),
        ("address elsewhere", networked("[networks.lan]", "networks = { lan = { address = \"10.9.9.9\" } }")),
        ("the host's address", networked("[networks.lan]", "networks = { lan = { address = \"10.77.0.1\" } }")),
        (
            "the same address",
            networked(
                "[networks.lan]",
                "networks = { lan = { address = \"10.77.0.9\" } }\n[machines.b]\nnetworks = { lan = { address = \"10.77.0.9\" } }"
            )
        ),
        ("recorder", networked("[networks.lan]", "backend = \"recorder\"\nrecording = \"x\"\nnetworks = [\"lan\"]")),
    ]));
}

#[test]
fn faults() {
    assert_gallery!(gallery(&[
        ("nothing", with_fault("{}")),
        ("two", with_fault("{ pause = true, memory = \"1MiB\" }")),
        ("pause = false", with_fault("{ pause = false }")),
        ("clock", with_fault("{ clock = \"1h\" }")),
        ("still clock", with_fault("{ clock = \"+0s\" }")),
        ("no memory", with_fault("{ memory = \"0B\" }")),
        ("path", with_fault("{ full = \"var/lib\" }")),
        ("program", with_fault("{ process = \"/usr/bin/etcd\" }")),
        ("signal", with_fault("{ process = { name = \"etcd\", signal = \"stpo\" } }")),
        ("unknown disk", with_fault("{ disk = { name = \"date\", errors = \"all\" } }")),
        ("root disk", with_fault("{ disk = { name = \"root\", errors = \"all\" } }")),
        ("slow and failing", with_fault("{ disk = { name = \"data\", errors = \"all\", slow = \"1MiB\" } }")),
        ("no machine", with_link("{ from = [\"d\"], partition = true }")),
        ("machine elsewhere", with_link("{ from = [\"c\"], partition = true }")),
        ("both sides", with_link("{ from = [\"a\"], to = [\"a\", \"b\"], partition = true }")),
        ("nobody else", with_link("{ from = [\"a\", \"b\"], partition = true }")),
        ("nothing wrong", with_link("{ from = [\"a\"] }")),
        ("share", with_link("{ from = [\"a\"], loss = \"101%\" }")),
        ("share of nothing", with_link("{ from = [\"a\"], loss = \"0%\" }")),
        ("jitter alone", with_link("{ from = [\"a\"], jitter = \"1ms\" }")),
        ("long delay", with_link("{ from = [\"a\"], delay = \"2h\" }")),
        ("no rate", with_link("{ from = [\"a\"], rate = \"0B\" }")),
        ("no network", with_step("fault = { link = { from = [\"node01\"], partition = true } }")),
        ("unknown network", with_link("{ network = \"wan\", from = [\"a\"], partition = true }")),
        (
            "on a link",
            with_network("[[steps]]\non = [\"a\"]\nfault = { link = { from = [\"a\"], partition = true } }\n")
        ),
        ("heal nothing", with_network("[[steps]]\nheal = []\n")),
        ("heal the unknown", with_fault("{ pause = true }") + "[[steps]]\nheal = [\"g\"]\n"),
        ("heal what does not last", with_fault("{ power = \"reset\" }") + "[[steps]]\nheal = [\"f\"]\n"),
        (
            "heal too early",
            with_network(
                "[[steps]]\nheal = [\"f\"]\n[[steps]]\nname = \"f\"\non = [\"a\"]\nfault = { pause = true }\n"
            )
        ),
        (
            "empty schedule",
            with_network("[[steps]]\nschedule = { seed = 1, duration = \"9s\", every = \"1s\", faults = [] }\n")
        ),
        (
            "schedule out of order",
            with_network(
                "[[steps]]\nwithin = \"5s\"\nschedule = { seed = 1, duration = \"9s\", every = \"1s\", shortest = \"3s\", longest = \"2s\", overlap = 0, faults = [{ on = [\"a\"], fault = { pause = true } }] }\n"
            )
        ),
    ]));
}

fn with_deployer(rest: &str) -> String {
    lane(&format!("[networks.lan]\n{MACHINE}networks = [\"lan\"]\n{rest}"))
}

#[test]
fn deployers() {
    let step = |step: &str| with_deployer(&format!("[deployer]\n[[steps]]\ndeployer = {step}\n"));
    assert_gallery!(gallery(&[
        ("no network", lane(&format!("{MACHINE}{STEP}[deployer]\n"))),
        ("unknown network", with_deployer(&format!("{STEP}[deployer]\nnetwork = \"lam\"\n"))),
        ("unknown secret", with_deployer(&format!("{STEP}[deployer]\ntokens = [\"token\"]\n"))),
        (
            "class and image",
            with_deployer(&format!(
                "{STEP}[images.it]\ntiny = {{}}\n[deployer]\nimages = {{ worker = \"it\", wrker = \"is\" }}\n[deployer.classes.worker]\n"
            )),
        ),
        (
            "nothing to unpack with",
            with_deployer(&format!(
                "{STEP}[images.it]\ndebian = {{ suite = \"bookworm\" }}\n[deployer]\nimages = {{ worker = \"it\" }}\n\
                 [deployer.classes.worker]\n[deployer.systems.one]\nfolder = \"one\"\n"
            )),
        ),
        ("a serial number", lane(&format!("[machines.node01]\nserial = \"a,b\"\n{STEP}"))),
        ("a clock", lane(&format!("[machines.node01]\nclock = \"-99999d\"\n{STEP}"))),
        ("a clock that is not wrong in either way", lane(&format!("[machines.node01]\nclock = \"365d\"\n{STEP}"))),
        (
            "a recording's",
            lane(&format!("[machines.node01]\nbackend = \"recorder\"\nrecording = \"-\"\nserial = \"a\"\n{STEP}"))
        ),
        (
            "TLS that nobody speaks",
            lane(&format!(
                "[networks.lan]\nsubnet = \"10.0.2.0/24\"\n[machines.node01]\nnetworks = [\"lan\"]\nkernel_parameters = [\"bootproof.deployer_url=https://10.0.2.1:8080\"]\n{STEP}[deployer]\n"
            )),
        ),
        ("no deployer", with_step("deployer = { node = \"node01\", state = \"active\" }")),
        ("no node", step("{ state = \"active\" }")),
        ("no such state", step("{ node = \"node01\", state = \"ready\" }")),
        ("two things", step("{ node = \"node01\", state = \"active\", retire = true }")),
        ("nothing", step("{ node = \"node01\" }")),
        ("a node to restart", step("{ node = \"node01\", restart = true }")),
        ("system without a state", step("{ node = \"node01\", retire = true, system = \"v1\" }")),
        ("across a reboot without a wait", with_step("exec = [\"true\"]\nacross_reboot = true")),
    ]));
}

#[test]
fn booting_from_the_network() {
    const SERVED: &str = "[networks.lan]\ndhcp = true\n[deployer]\nnetboot = \"tiny\"\n";
    let with = |before: &str, machine: &str| lane(&format!("{before}{MACHINE}{machine}\n{STEP}"));
    assert_gallery!(gallery(&[
        ("as it should be", with(SERVED, "network_boot = \"first\"\nnetworks = [\"lan\"]")),
        ("nothing is served", with("[networks.lan]\ndhcp = true\n", "network_boot = \"first\"\nnetworks = [\"lan\"]")),
        ("in no network", with(SERVED, "network_boot = \"last\"")),
        ("a time that there is not", with(SERVED, "network_boot = \"always\"\nnetworks = [\"lan\"]")),
        (
            "an image beside",
            with(
                &format!("{SERVED}[images.other]\niso = {{ suite = \"bookworm\" }}\n"),
                "network_boot = \"first\"\nnetworks = [\"lan\"]\nimage = \"other\"",
            ),
        ),
        ("a recording", with(SERVED, "backend = \"recorder\"\nrecording = \"-\"\nnetwork_boot = \"first\""),),
        (
            "an image that needs its disk",
            with(
                "[networks.lan]\ndhcp = true\n[deployer]\nnetboot = \"system\"\n[images.system]\ndebian = { suite = \"bookworm\" }\n",
                "network_boot = \"first\"\nnetworks = [\"lan\"]",
            ),
        ),
        (
            "an image that there is not",
            with(
                "[networks.lan]\ndhcp = true\n[deployer]\nnetboot = \"systen\"\n[images.system]\ntiny = {}\n",
                "network_boot = \"first\"\nnetworks = [\"lan\"]",
            ),
        ),
        (
            "a boot file without DHCP",
            with("[networks.lan]\nboot_file = \"http://10.77.0.1/x\"\n", "networks = [\"lan\"]")
        ),
        ("a boot file with blanks", with("[networks.lan]\ndhcp = true\nboot_file = \"a b\"\n", "networks = [\"lan\"]")),
        (
            "a secret in a boot file",
            with(
                "[secrets]\ntoken = { generated = true }\n[networks.lan]\ndhcp = true\nboot_file = \"http://a/${secret:token}\"\n",
                "networks = [\"lan\"]",
            ),
        ),
    ]));
}

#[test]
fn ways_into_machines() {
    let channel = |channel: &str| with_machine(&format!("channel = {channel}"));
    let asking = |step: &str| format!("{BEGIN}{MACHINE}channel = \"backdoor\"\n[machines.other]\n[[steps]]\n{step}\n");
    let cases = [
        (channel("\"telnet\""), "telnet"),
        (channel("{}"), "exactly one way leads into a machine"),
        (channel("{ backdoor = {}, serial = {} }"), "exactly one way leads into a machine"),
        (channel("{ backdoor = { within = \"0s\" } }"), "a bound of no time can never be met"),
        (channel("{ serial = { password = \"hunter2\" } }"), "a password stands in no lane file"),
        (channel("{ serial = { password = \"${secret:it}\" } }"), "the lane has no secret `it`"),
        (
            channel("{ serial = { user = \"a\", dialogue = [{ expect = \"a\", send = \"b\" }] } }"),
            "a dialogue says itself what is typed",
        ),
        (
            channel("{ serial = { dialogue = [{ expect = \"\", send = \"b\" }] } }"),
            "nothing is printed before anything",
        ),
        (channel("{ serial = { dialogue = [{ expect = \"a\", send = \"a\\nb\" }] } }"), "what is typed is one line"),
        (channel("{ serial = { prompts = [] } }"), "without a prompt nobody can tell when the shell asks"),
        (channel("\"backdoor\"\nconsole = \"virtio\""), "hvc0 cannot be both the guest's console and the way into it"),
        (channel("\"backdoor\"\nstart = \"checkpoint\""), "a fork is given its names by its agent"),
        (channel("\"backdoor\"\nbackend = \"recorder\"\nrecording = \"-\""), "no way leads into a recording"),
        (
            asking("http = { url = \"http://127.0.0.1:80/\" }"),
            "a connection inside a machine is made by its agent, and `backdoor` is the way into `node01`",
        ),
        (asking("reboot = true"), "an orderly reboot is done by the agent"),
        (asking("checkpoint = \"a\""), "a machine that goes back to a checkpoint is told so by its agent"),
        (asking("fault = { process = { name = \"a\", signal = \"stop\" } }"), "this fault is done by the agent"),
        (asking("reboot = true\non = [\"other\"]"), "no error in case"),
        (asking("exec = [\"true\"]\n[[steps]]\ncopy = { from = \"a\", to = \"guest:/a\" }"), "no error in case"),
    ];
    for (lane, wanted) in cases {
        let said = errors(&lane, Format::Toml, &[]);
        assert!(said.contains(wanted), "`{wanted}` is not said of\n{lane}\nbut\n{said}");
    }
}
