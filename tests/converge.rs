//! Convergence on a real machine: a Debian with systemd and the agent as its service, and a deployer that it reaches.

mod support;

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/deployer.rs"]
mod deployer;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bootproof::deployer::Cause;
use bootproof::provisioning::{NodeEvent, NodeState};
use deployer::Served;
use support::own_lane::OwnLane;

const DEPLOYER: &str = r#"
version = 1
allow_unauthenticated = true

[classes.appliance]
desired_system = "one"

[systems]
one = { folder = "one", health_check = { argv = ["check"], within = "60s" } }
ill = { folder = "ill", health_check = { argv = ["check"], within = "60s" } }
slow = { folder = "slow", health_check = { argv = ["check"], within = "60s" } }

[nodes.node01]
class = "appliance"
"#;

const LANE: &str = r#"
[images.appliance.debian]
suite = "bookworm"
packages = ["zstd"]
size = "1GiB"
[machines.m]
image = "appliance"
memory = "512MiB"
kernel_parameters = ["bootproof.deployer_url=http://10.0.2.100:8080", "bootproof.node_id=node01"]
network = { services = { "10.0.2.100:8080" = "ADDRESS" } }
[[steps]]
name = "becomes-active"
expect = ["post-install.boot", { marker = "desired-system-active", within = "60s" }]
[[steps]]
name = "answers"
http = { url = "http://127.0.0.1:8000/", response = { equals = "one" } }
[[steps]]
name = "goes-back"
expect = ["rolled-back"]
[[steps]]
name = "answers-again"
http = { url = "http://127.0.0.1:8000/", response = { equals = "one" } }
[[steps]] # nothing of the other is left
name = "as-before"
exec = { argv = ["sh", "-ec", '''
systemctl is-active web.socket state.service
! systemctl cat ill.service
'''] }
[[steps]]
name = "being-activated"
expect = ["slow.activating"]
[[steps]]
name = "power-cut"
power = "cut"
[[steps]]
name = "power-on"
power = "on"
[[steps]]
name = "finishes"
expect = ["post-install.boot", { marker = "desired-system-active", within = "60s" }]
[[steps]]
name = "answers-slowly"
http = { url = "http://127.0.0.1:8000/", response = { equals = "slow" } }
"#;

/// A socket that answers HTTP with the system's name, a service that is up while the system is, and its health check.
fn write_tree(folder: &Path, name: &str, verdict: &str, activate: &str) {
    let tree = folder.join(name);
    fs::create_dir_all(tree.join("units")).unwrap();
    let current = "/var/lib/bootproof/current";
    let answer = format!(
        "#!/bin/sh\nwhile read -r line && [ ${{#line}} -gt 1 ]; do :; done\n\
         printf 'HTTP/1.0 200 OK\\r\\nContent-Length: {}\\r\\n\\r\\n{name}'\n",
        name.len()
    );
    let check = format!(
        "#!/bin/bash\nset -e\nexec 3<>/dev/tcp/127.0.0.1/8000\nprintf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3\n\
         grep -q '{name}' <&3\n[ \"$(cat /run/state)\" = {name} ]\n{verdict}\n"
    );
    let files = [
        ("answer", answer),
        ("check", check),
        ("activate", format!("#!/bin/sh\nset -e\n{activate}\n")),
        ("units/web.socket", "[Socket]\nListenStream=127.0.0.1:8000\nAccept=yes\n".into()),
        ("units/web@.service", format!("[Service]\nStandardInput=socket\nExecStart={current}/answer\n")),
        (
            "units/state.service",
            format!(
                "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'printf {name} >/run/state'\n\
                 ExecStop=/bin/rm /run/state\n"
            ),
        ),
    ];
    for (path, text) in files {
        let path = tree.join(path);
        fs::write(&path, text).unwrap();
        let mode = if path.parent() == Some(&tree) { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_machine_converges_goes_back_from_what_is_ill_and_survives_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), "one", "", "");
    write_tree(folder.path(), "ill", "echo the disk is full; exit 7", "");
    fs::write(folder.path().join("ill/units/ill.service"), "[Service]\nExecStart=/bin/sleep infinity\n").unwrap();
    // The first time it has to be cut short; it says when that can be.
    let wait = "if [ ! -e /var/lib/been-here ]; then\n  touch /var/lib/been-here\n  sync\n  \
                bootproof-agent marker slow.activating\n  exec sleep infinity\nfi";
    write_tree(folder.path(), "slow", "", wait);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = runtime.block_on(Served::again(folder, DEPLOYER));
    let desire = |system| runtime.block_on(served.deployer.set_desired_system("node01", Some(system))).unwrap();

    let lane = OwnLane::new(&LANE.replace("ADDRESS", &served.address.to_string()));
    let mut running = lane.start(&[]);
    running.until("step goes-back");
    desire("ill");
    running.until("step being-activated");
    desire("slow");
    running.expect(0);
    runtime
        .block_on(served.deployer.wait_for("node01", |status| status.active_system.as_deref() == Some("slow")))
        .unwrap();

    let node = runtime.block_on(served.deployer.show("node01")).unwrap();
    assert_eq!(node.node.state, NodeState::Active);
    let reported = |cause: &Cause| match cause {
        Cause::Reported { report, .. } => Some(report.clone()),
        _ => None,
    };
    let events: Vec<NodeEvent> = node.history.iter().filter_map(|entry| reported(&entry.cause)).collect();
    let system = |system: &str| system.to_owned();
    let reason = "the health check failed: ";
    let expected = [
        NodeEvent::Booted,
        NodeEvent::Activating { system: system("one") },
        NodeEvent::Active { system: system("one") },
        NodeEvent::Activating { system: system("ill") },
    ];
    assert_eq!(events[..4], expected, "{events:?}");
    let NodeEvent::RolledBack { system: rejected, active, reason: told } = &events[4] else { panic!("{events:?}") };
    assert_eq!((rejected.as_str(), active.as_deref()), ("ill", Some("one")));
    assert!(told.starts_with(reason) && told.ends_with("exit status: 7: the disk is full"), "{told}");
    let expected = [
        NodeEvent::Activating { system: system("slow") },
        NodeEvent::Booted,
        NodeEvent::Active { system: system("slow") },
    ];
    assert_eq!(events[5..], expected, "{events:?}");
    lane.sealed_result();
    lane.expect_nothing_left();
}
