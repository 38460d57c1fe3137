//! Faults on real machines: each is seen by the guest, is over when it is healed, and stands in the log with both its ends.

mod support;

use std::os::unix::fs::symlink;

use rustix::process::Signal;
use support::own_lane::OwnLane;
use support::process::Process;
use support::{expect_status, processes_mentioning, stderr_of};

/// The quickstart lane's image, without its own services: they would only take time.
const DEBIAN: &str = r#"
[failure_patterns]
silence = ["io-error", "failed-unit"]
[images.node.debian]
suite = "bookworm"
packages = ["etcd-server", "etcd-client", "postgresql", "systemd-timesyncd"]
files = "FILES"
[networks.lan]
dhcp = true
dns = true
[machines.m]
image = "node"
networks = ["lan"]
memory = "1GiB"
disks = [{ name = "data", size = "256MiB" }, { name = "bad", size = "64MiB" },
  { name = "torn", size = "16MiB", write_cache = "volatile", survives = "50%" }]
kernel_parameters = [
  "systemd.mask=etcd.service",
  "systemd.mask=postgresql.service",
  "systemd.mask=postgresql@15-main.service",
  "systemd.mask=systemd-timesyncd.service",
]
[[steps]]
expect = ["services.ready"]
within = "90s"
"#;

fn debian(steps: &str) -> OwnLane {
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/single-node/files");
    OwnLane::new(&format!("{}{steps}", DEBIAN.replace("FILES", files)))
}

/// A step that runs a script in the guest, which has to succeed.
fn shell(script: &str) -> String {
    format!("[[steps]]\nexec = [\"sh\", \"-ec\", '''\n{script}\n''']\n")
}

fn fault(name: &str, fault: &str) -> String {
    format!("[[steps]]\nname = \"{name}\"\nfault = {fault}\n")
}

fn heal(name: &str) -> String {
    format!("[[steps]]\nheal = [\"{name}\"]\n")
}

fn fault_of<'a>(result: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let faults = result["faults"].as_array().unwrap();
    faults.iter().find(|fault| fault["name"] == name).unwrap_or_else(|| panic!("no fault `{name}` in {faults:?}"))
}

/// The host reaches a machine by its name, and the machine itself by what the agent has told it.
const REACHED: &str = r#"
[[steps]]
exec = ["sh", "-ec", """
hostname -I | grep -qw 10.77.0.11
test "$(getent hosts m)" = "10.77.0.11      m"
systemd-run --quiet --unit=served --service-type=notify etcd --data-dir /run/served \
  --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://m:2379
"""]
[[steps]]
http = { url = "http://m:2379/health", network = "lan", response = { contains = "true" } }
[[steps]]
tcp = { address = "10.77.0.11:2379", network = "lan" }
[[steps]]
name = "away"
fault = { link = { from = ["host"], to = ["m"], partition = true } }
[[steps]]
name = "unreachable"
within = "500ms"
tcp = { address = "m:2379", network = "lan" }
gate = { name = "unreachable", hard = false }
[[steps]]
heal = ["away"]
[[steps]]
tcp = { address = "m:2379", network = "lan" }
"#;

/// Without what the agent has told it, the machine asks for its address and for names.
const ASKED: &str = r#"
[[steps]]
exec = ["sh", "-ec", """
card=$(cd /sys/class/net && grep -l 52:54:00 */address | cut -d/ -f1)
rm /run/systemd/network/10-bootproof-lan.network
networkctl reload
echo "$card" >/run/card"""]
[[steps]]
await = { file = "/run/systemd/netif/leases/2", contains = "ADDRESS=10.77.0.11" }
[[steps]]
exec = ["sh", "-ec", """
/lib/systemd/systemd-networkd-wait-online --ipv4 --interface=$(cat /run/card) --timeout=60
grep -q '^ADDRESS=10.77.0.11$' /run/systemd/netif/leases/*
grep -q '^DNS=10.77.0.1$' /run/systemd/netif/leases/*
hostname -I | grep -qw 10.77.0.11
echo nameserver 10.77.0.1 >/etc/resolv.conf
echo 127.0.0.1 localhost >/etc/hosts
test "$(getent hosts host)" = "10.77.0.1       host"
! getent hosts nobody
"""]
"#;

/// Eight blocks are flushed and sixty-four are not, of which about a half survives.
const TORN: &str = r#"
[[steps]]
exec = ["sh", "-ec", """
disk=/dev/disk/by-id/virtio-torn
tr '\\0' x </dev/zero | dd of=$disk bs=4096 count=8 iflag=fullblock oflag=direct conv=fsync status=none
tr '\\0' y </dev/zero | dd of=$disk bs=4096 seek=8 count=64 iflag=fullblock oflag=direct status=none
"""]
[[steps]]
name = "torn-off"
fault = { power = "cut" }
[[steps]]
heal = ["torn-off"]
[[steps]]
expect = ["services.ready"]
within = "90s"
[[steps]]
exec = ["sh", "-ec", """
disk=/dev/disk/by-id/virtio-torn
flushed=$(dd if=$disk bs=4096 count=8 iflag=direct status=none | tr -d -c x | wc -c)
kept=$(dd if=$disk bs=4096 skip=8 count=64 iflag=direct status=none | tr -d -c y | wc -c)
echo "$flushed bytes were flushed, $kept others are there"
test $flushed = 32768
test $((kept % 4096)) = 0
test $kept -gt 40960
test $kept -lt 221184
"""]
"#;

#[test]
fn a_guest_sees_each_fault_and_its_end() {
    let steps = [
        shell("systemd-run --quiet --unit=victim sleep 100000"),
        fault("stopped", "{ process = { name = \"sleep\", signal = \"stop\" } }"),
        shell("grep -q '^State:.T' /proc/$(systemctl show --value -p MainPID victim)/status"),
        heal("stopped"),
        shell("grep -q '^State:.S' /proc/$(systemctl show --value -p MainPID victim)/status"),
        fault("killed", "{ process = \"sleep\" }"),
        // systemd has heard of its end before it answers.
        shell("test $(systemctl is-failed victim) = failed"),
        shell("date +%s >/run/before"),
        fault("later", "{ clock = \"+2h\" }"),
        shell("test $(($(date +%s) - $(cat /run/before))) -ge 7000"),
        heal("later"),
        shell("test $(($(date +%s) - $(cat /run/before))) -le 3000"),
        shell("awk '/^MemAvailable/ { print $2 }' /proc/meminfo >/run/available"),
        fault("pressed", "{ memory = \"400MiB\" }"),
        shell("test $(($(cat /run/available) - $(awk '/^MemAvailable/ { print $2 }' /proc/meminfo))) -ge 350000"),
        heal("pressed"),
        shell("mkfs.ext4 -q /dev/disk/by-id/virtio-data\nmkdir /data\nmount /dev/disk/by-id/virtio-data /data"),
        fault("filled", "{ full = \"/data\" }"),
        shell("! dd if=/dev/zero of=/data/file bs=1M count=1 status=none"),
        heal("filled"),
        shell("dd if=/dev/zero of=/data/file bs=1M count=1 status=none\ntest $(stat -c %s /data/file) = 1048576"),
        fault("unwritable", "{ disk = { name = \"bad\", errors = \"writes\" } }"),
        shell(
            "disk=/dev/disk/by-id/virtio-bad\n! dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct status=none\n\
             dd if=$disk of=/dev/null bs=4k count=1 iflag=direct status=none",
        ),
        heal("unwritable"),
        shell("dd if=/dev/zero of=/dev/disk/by-id/virtio-bad bs=4k count=1 oflag=direct status=none"),
        fault("slow", "{ disk = { name = \"bad\", slow = \"512KiB\" } }"),
        shell(
            "before=$(date +%s%N)\ndd if=/dev/disk/by-id/virtio-bad of=/dev/null bs=64k count=32 iflag=direct status=none\n\
             test $(($(date +%s%N) - before)) -ge 2000000000",
        ),
        heal("slow"),
        shell("dd if=/dev/disk/by-id/virtio-bad of=/dev/null bs=64k count=32 iflag=direct status=none"),
    ];
    let mut steps = steps.concat();
    steps.push_str(REACHED);
    if std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join("curl").exists()) {
        steps.push_str("[[steps]]\nhost = [\"sh\", \"-ec\", 'curl --silent --fail --proxy \"$BOOTPROOF_PROXY\" http://m:2379/health | grep -q true']\n");
    } else {
        eprintln!("skipped in part: the proxy is not tried, since there is no curl on this host");
    }
    steps.push_str(ASKED);
    steps.push_str(TORN);
    let lane = debian(&steps);
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    for name in ["stopped", "later", "pressed", "filled", "unwritable", "slow"] {
        let fault = fault_of(&result, name);
        assert_eq!(fault["cause"], "healed", "{fault}");
        assert!(fault["ended_ms"].as_u64().unwrap() >= fault["began_ms"].as_u64().unwrap(), "{fault}");
        assert_eq!(fault["targets"], serde_json::json!(["m"]), "{fault}");
    }
    let unreachable = result["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "unreachable").unwrap();
    assert_eq!(unreachable["outcome"], "failed", "the host's place is cut off as well: {unreachable}");
    let torn = &fault_of(&result, "torn-off")["effects"];
    let count = |what: &str| torn[what].as_u64().unwrap();
    assert_eq!(count("unflushed blocks kept") + count("unflushed blocks lost"), 64, "{torn}");
    assert_eq!(fault_of(&result, "killed")["cause"], "momentary");
    assert_eq!(fault_of(&result, "killed")["effects"]["processes"], 1);
    lane.expect_nothing_left();
}

/// The first step of the lanes below, on a machine that is up in two seconds.
const TINY: &str = "[machines.m]\n[[steps]]\nexpect = [\"agent.ready\"]\n";

#[test]
fn power_pauses_and_a_schedule_pass_over_a_machine() {
    let steps = [
        fault("pause", "{ pause = true }"),
        "[[steps]]\nhold = \"300ms\"\n".into(),
        heal("pause"),
        "[[steps]]\nexec = [\"true\"]\n".into(),
        fault("reset", "{ power = \"reset\" }"),
        "[[steps]]\nexpect = [\"agent.ready\"]\n".into(),
        fault("button", "{ power = \"shutdown\" }"),
        "[[steps]]\nheal = [\"all\"]\n[[steps]]\nexpect = [\"agent.ready\"]\n".into(),
        "[[steps]]\nname = \"trouble\"\nschedule = { seed = 3, duration = \"3s\", every = \"500ms\", longest = \"300ms\", \
         faults = [{ fault = { pause = true } }] }\n"
            .into(),
        "[[steps]]\nexec = [\"true\"]\n".into(),
    ];
    let lane = OwnLane::new(&format!("{TINY}{}", steps.concat()));
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    assert_eq!(fault_of(&result, "reset")["cause"], "momentary");
    assert_eq!(fault_of(&result, "button")["cause"], "healed");
    let epochs = result["machines"]["m"]["epochs"].as_array().unwrap().len();
    assert_eq!(epochs, 3, "power-on, reset, power-on: {result}");
    let drawn: Vec<&serde_json::Value> = result["faults"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|fault| fault["name"].as_str().unwrap().starts_with("trouble/pause-"))
        .collect();
    assert!(drawn.len() >= 3, "{drawn:?}");
    assert!(drawn.iter().all(|fault| fault["cause"] == "healed"), "{drawn:?}");
    lane.expect_nothing_left();
}

#[test]
fn a_machine_that_is_down_is_not_disturbed() {
    let steps = [fault("cut", "{ power = \"cut\" }"), fault("pause", "{ pause = true }")];
    let lane = OwnLane::new(&format!("{TINY}{}", steps.concat()));
    let output = lane.run(&[]);
    expect_status(&output, 1);
    assert!(stderr_of(&output).contains("off"), "{}", stderr_of(&output));
    let result = lane.sealed_result();
    assert_eq!(fault_of(&result, "cut")["cause"], "run-ended", "what lasts until the end is told as well");
    lane.expect_nothing_left();
}

#[test]
fn what_is_kept_is_healed_first() {
    let steps = [fault("pause", "{ pause = true }"), "[[steps]]\nhost = [\"false\"]\n".into()];
    let lane = OwnLane::new(&format!("{TINY}{}", steps.concat()));
    expect_status(&lane.run(&["--keep"]), 1);
    let result = lane.sealed_result();
    assert_eq!(fault_of(&result, "pause")["cause"], "run-ended");
    let monitor = std::fs::read_to_string(lane.work.proof().join("machines/m/qmp.jsonl")).unwrap();
    let last = |command: &str| monitor.rfind(&format!("\"execute\":\"{command}\"")).unwrap();
    assert!(last("cont") > last("stop"), "it goes on: {monitor}");
    lane.ask(&["stop", "--all"]);
    lane.expect_nothing_left();
}

#[test]
fn without_nbdkit_a_forgetful_disk_blocks_and_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    for program in ["qemu-system-x86_64", "qemu-img", "sh"] {
        let found = std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists())
        });
        symlink(found.unwrap(), folder.path().join(program)).unwrap();
    }
    let disks = "disks = [{ name = \"d\", size = \"16MiB\", write_cache = \"volatile\" }]";
    let lane = OwnLane::new(&TINY.replace("[machines.m]\n", &format!("[machines.m]\n{disks}\n")));
    let output = lane.command(&[]).env("PATH", folder.path()).output().unwrap();
    expect_status(&output, 3);
    let said = stderr_of(&output);
    assert!(said.contains("nbdkit") && said.contains("apt-get install nbdkit"), "{said}");
    lane.expect_nothing_left();
}

/// One floods a machine that does not read; another still reaches the flooder, and nothing grows without bounds.
#[test]
fn a_flood_harms_nobody_else() {
    let lane = OwnLane::new(
        r#"
[networks.lan]
capture_limit = "4MiB"
[machines]
a = { networks = ["lan"] }
b = { networks = ["lan"] }
c = { networks = ["lan"] }
[[steps]]
expect = ["agent.ready"]
[[steps]]
parallel = [
  { on = ["c"], exec = { argv = ["bootproof-agent", "datagrams", "receive", "9", "20000", "1"], stdout = { equals = "1" } } },
  { on = ["a"], exec = ["bootproof-agent", "datagrams", "send", "c:9", "50", "10"] },
]
[[steps]]
name = "deaf"
on = ["c"]
fault = { pause = true }
[[steps]]
name = "flood"
parallel = [
  { on = ["a"], exec = ["bootproof-agent", "datagrams", "send", "c:9", "30000", "0"] },
  { on = ["a"], exec = { argv = ["bootproof-agent", "datagrams", "receive", "10", "30000", "20"], stdout = { equals = "20" } } },
  { on = ["b"], exec = ["bootproof-agent", "datagrams", "send", "a:10", "100", "20"] },
]
within = "60s"
[[steps]]
heal = ["all"]
[[steps]]
on = ["c"]
exec = ["true"]
"#,
    );
    expect_status(&lane.run(&[]), 0);
    let result = lane.sealed_result();
    let port = |name: &str| &result["networks"]["lan"]["ports"][name];
    assert!(port("a")["received"].as_u64().unwrap() > 20_000, "{}", result["networks"]);
    assert!(port("c")["dropped"].as_u64().unwrap() > 0, "what it did not read is counted: {}", result["networks"]);
    assert_eq!(port("b")["dropped"], 0, "{}", result["networks"]);
    let capture = lane.work.proof().join("artifacts/networks/lan.pcapng");
    assert!(std::fs::metadata(capture).unwrap().len() <= 4 << 20);
    lane.expect_nothing_left();
}

#[test]
fn a_disk_whose_server_dies_is_no_fault_of_the_product() {
    let disks = "disks = [{ name = \"d\", size = \"16MiB\", write_cache = \"volatile\" }]";
    let machine = TINY.replace("[machines.m]\n", &format!("[machines.m]\n{disks}\n"));
    let lane = OwnLane::new(&format!("{machine}[[steps]]\nname = \"wait\"\nhold = \"4m\"\n"));
    let mut running = lane.start(&[]);
    running.until("step wait");
    let servers = processes_mentioning("nbdkit", lane.work.path());
    assert_eq!(servers.len(), 1, "{servers:?}");
    Process::open(servers[0]).expect("it is up").kill(Signal::KILL);
    let said = running.expect(4);
    assert!(said.contains("the server of the disk `d` ended by itself"), "{said}");
    assert_eq!(lane.sealed_result()["verdict"], "infrastructure");
    lane.expect_nothing_left();
}
