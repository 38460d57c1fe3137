//! `await` steps on a real Debian: what its kernel and its systemd tell, and what is said when they do not.

mod support;

use support::own_lane::OwnLane;
use support::{events_of, expect_status};

const MACHINE: &str = "[images.system]\ndebian = { suite = \"bookworm\" }\n\
    [machines.m]\nimage = \"system\"\nmemory = \"512MiB\"\n\
    [[steps]]\nname = \"up\"\nexpect = [\"boot\", \"agent.ready\"]\nwithin = \"60s\"\n";

/// Everything happens while it is awaited already.
const STEPS: &str = r#"
[[steps]]
parallel = [
    { name = "file", await = { file = "/run/deep/er/ready" } },
    { name = "contents", await = { file = "/run/deep/log", contains = "all is well" } },
    { name = "unit", await = { unit = "late.service" } },
    { name = "target", await = { unit = "multi-user.target" } },
    { name = "port", await = { port = 7000, address = "127.0.0.1" } },
    { name = "act", exec = ["sh", "-c", """
        sleep 3
        mkdir -p /run/deep/er
        printf 'all is ' > /run/deep/log
        echo well >> /run/deep/log
        touch /run/deep/er/new
        mv /run/deep/er/new /run/deep/er/ready
        systemd-run --unit=late --service-type=oneshot --remain-after-exit true
        systemd-run --unit=door --socket-property=ListenStream=7000 true
    """] },
]

[[steps]]
name = "again"
parallel = [
    { name = "unit-again", await = { unit = "late.service" } },
    { name = "port-again", await = { port = 7000 } },
]

[[steps]]
parallel = [
    { name = "stopped", await = { unit = "late.service", state = "inactive" } },
    { name = "closed", await = { file = "/run/deep/er/ready", gone = true } },
    { name = "fallen", await = { unit = "bad.service", state = "failed" } },
    { name = "undo", exec = ["sh", "-c", """
        sleep 2
        systemctl stop late.service
        rm -r /run/deep
        systemd-run --unit=bad sh -c 'exit 3'
    """] },
]

[[steps]]
name = "failing"
gate = { name = "failing", hard = false }
await = { unit = "bad.service" }

[[steps]]
name = "ill"
gate = { name = "ill", hard = false }
parallel = [
    { name = "needs", await = { unit = "needs.service" } },
    { name = "start", exec = ["sh", "-c", """
        cd /run/systemd/system
        printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n' > worse.service
        printf '[Unit]\\nRequires=worse.service\\nAfter=worse.service\\n[Service]\\nExecStart=/bin/true\\n' > needs.service
        systemctl daemon-reload
        sleep 1
        systemctl start needs.service
        true
    """] },
]

[[steps]]
name = "never"
gate = { name = "never", hard = false }
within = "250ms"
await = { unit = "no-such.service" }

[[steps]]
name = "reexecuted"
parallel = [
    { name = "across", await = { unit = "after.service" } },
    { name = "renew", exec = ["sh", "-c", "sleep 1; systemctl daemon-reexec && systemd-run --unit=after --remain-after-exit true"] },
]
"#;

#[test]
fn units_files_and_ports_of_a_debian_are_awaited_by_notification() {
    let lane = OwnLane::new(&format!("{MACHINE}{STEPS}"));
    let output = lane.run(&[]);
    let proof = lane.proof();
    let ended: Vec<serde_json::Value> = events_of(&proof)
        .into_iter()
        .map(|event| event["event"].clone())
        .filter(|event| event["kind"] == "await-ended")
        .collect();
    expect_status(&output, 0);
    let of = |condition: &str| -> Vec<&serde_json::Value> {
        ended.iter().filter(|event| event["condition"] == condition).collect()
    };
    for (condition, told_by) in [
        ("file /run/deep/er/ready", "inotify"),
        ("file /run/deep/log contains `all is well`", "inotify"),
        ("unit late.service is active", "systemd's signals"),
        ("port 127.0.0.1:7000 listens", "the kernel's tracepoints"),
        ("unit late.service is inactive", "systemd's signals"),
        ("file /run/deep/er/ready is gone", "inotify"),
        ("unit bad.service is failed", "systemd's signals"),
        ("unit after.service is active", "systemd's signals"),
    ] {
        let first = of(condition)[0];
        assert_eq!(first["held"], true, "{first}");
        assert_eq!(first["notified"], true, "{first}");
        assert_eq!(first["told_by"], told_by, "{first}");
        assert!(first["looks"].as_u64().unwrap() < 100, "it is not polled: {first}");
    }
    for condition in ["unit late.service is active", "port 7000 listens"] {
        let again = of(condition).into_iter().next_back().unwrap();
        assert_eq!(again["notified"], false, "{again}");
    }
    let result = lane.sealed_result();
    let reason = |gate: &str| {
        let gates = result["gates"].as_array().unwrap();
        gates.iter().find(|found| found["name"] == gate).unwrap()["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(
        reason("failing"),
        "`unit bad.service is active` cannot come any more: `bad.service` is failed (failed): exit-code, its main \
         process exited with 3"
    );
    assert_eq!(
        reason("never"),
        "`unit no-such.service is active` was not so within 1s; last seen: `no-such.service` is inactive (dead), as a \
         unit file it is not-found"
    );
    let steps = result["steps"].as_array().unwrap();
    let needs = steps.iter().find(|step| step["name"] == "needs").unwrap();
    let lost = "`needs.service` is inactive (dead), and its start ended with `dependency`";
    assert!(needs["failure"]["message"].as_str().unwrap().ends_with(lost), "{needs}");
    lane.expect_nothing_left();
}
