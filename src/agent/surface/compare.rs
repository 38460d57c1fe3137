//! The comparison: pure, over what was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::observe::{Observed, Process, UnitState};
use super::{Component, ComponentReport, MANIFEST_VERSION, Manifest, SurfaceReport};

/// Compares a manifest with what was observed; `units` has the state of every unit that the manifest names.
pub fn compare(manifest: &Manifest, observed: &Observed, units: &BTreeMap<String, UnitState>) -> SurfaceReport {
    let components: Vec<_> =
        manifest.components.iter().map(|component| compare_one(component, observed, units)).collect();
    let passed = components.iter().all(|component| component.running || !component.required);
    SurfaceReport { version: MANIFEST_VERSION, passed, components }
}

fn compare_one(component: &Component, observed: &Observed, units: &BTreeMap<String, UnitState>) -> ComponentReport {
    let mut mismatches = Vec::new();
    let mut active_state = None;
    let mut main_pid = None;
    let processes: Vec<&Process> = match &component.unit {
        Some(name) => {
            let state = units.get(name).cloned().unwrap_or_else(|| Err(format!("the unit `{name}` was not looked at")));
            match state {
                Ok(unit) => {
                    if unit.load_state == "not-found" {
                        mismatches.push(format!("the unit `{name}` does not exist"));
                    } else if unit.active_state != "active" {
                        mismatches.push(format!(
                            "the unit `{name}` is {} ({}), not active",
                            unit.active_state, unit.sub_state
                        ));
                    }
                    active_state = Some(unit.active_state);
                    main_pid = unit.main_pid;
                    let is_own = |process: &&Process| {
                        Some(process.pid) == unit.main_pid || is_within(&process.control_group, &unit.control_group)
                    };
                    observed.processes.iter().filter(is_own).collect()
                }
                Err(reason) => {
                    mismatches.push(reason);
                    Vec::new()
                }
            }
        }
        None => {
            let runs = |process: &&Process| component.executable.as_deref().is_some_and(|wanted| runs(process, wanted));
            observed.processes.iter().filter(runs).collect()
        }
    };
    if let Some(wanted) = &component.executable
        && !processes.iter().any(|process| runs(process, wanted))
    {
        let seen: BTreeSet<&str> = processes.iter().map(|process| process.program()).collect();
        mismatches.push(match (component.unit.is_some(), seen.is_empty()) {
            (false, _) => format!("nothing runs `{wanted}`"),
            (true, true) => format!("its unit has no process, so nothing runs `{wanted}`"),
            (true, false) => format!(
                "its unit runs {}, not `{wanted}`",
                seen.iter().map(|program| format!("`{program}`")).collect::<Vec<_>>().join(" and ")
            ),
        });
    }
    let listening: BTreeSet<String> = observed
        .listeners
        .iter()
        .filter(|listener| processes.iter().any(|process| process.sockets.contains(&listener.inode)))
        .map(|listener| listener.address.to_string())
        .collect();
    for wanted in &component.listens {
        mismatches.extend(listening_mismatch(wanted, observed, &processes));
    }
    ComponentReport {
        name: component.name.clone(),
        required: component.required,
        running: mismatches.is_empty(),
        unit: component.unit.clone(),
        active_state,
        main_pid,
        pids: processes.iter().map(|process| process.pid).collect(),
        executables: processes
            .iter()
            .map(|process| process.program().to_owned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        listening: listening.into_iter().collect(),
        mismatches,
    }
}

fn is_within(control_group: &str, unit: &str) -> bool {
    !unit.is_empty() && control_group.strip_prefix(unit).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path has to be what the process runs, links on the way to it followed; a name has to be its file's or the kernel's.
fn runs(process: &Process, wanted: &str) -> bool {
    let Some(executable) = process.executable.as_deref() else { return process.name == wanted };
    if !wanted.contains('/') {
        return process.name == wanted || Path::new(executable).file_name().is_some_and(|name| name == wanted);
    }
    executable == wanted || std::fs::canonicalize(wanted).is_ok_and(|path| path == Path::new(executable))
}

fn listening_mismatch(wanted: &str, observed: &Observed, processes: &[&Process]) -> Option<String> {
    let serving: Vec<_> = observed.listeners.iter().filter(|listener| listener.address.serves(wanted)).collect();
    let is_ours = |inode: u64| processes.iter().any(|process| process.sockets.contains(&inode));
    if serving.iter().any(|listener| is_ours(listener.inode)) {
        return None;
    }
    let Some(listener) = serving.first() else { return Some(format!("nothing listens on `{wanted}`")) };
    let owner = observed.processes.iter().find(|process| process.sockets.contains(&listener.inode));
    Some(match owner {
        Some(owner) => format!("`{wanted}` is listened on by `{}` (pid {}), not by it", owner.program(), owner.pid),
        None => format!("`{wanted}` is listened on by a process that cannot be seen"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::surface::observe::{ListenAddress, Listener, Unit};

    fn component(text: &str) -> Manifest {
        serde_json::from_str(&format!("{{\"version\":1,\"components\":[{text}]}}")).unwrap()
    }

    fn guest() -> Observed {
        let process = |pid, name: &str, executable: &str, group: &str, socket| Process {
            pid,
            name: name.into(),
            executable: Some(executable.into()),
            control_group: group.into(),
            sockets: BTreeSet::from([socket]),
        };
        Observed {
            processes: vec![
                process(10, "etcd", "/usr/bin/etcd", "/system.slice/etcd.service", 1),
                process(11, "helper", "/usr/lib/etcd-extra", "/system.slice/etcd.service-extra", 2),
                process(12, "postgres", "/usr/lib/postgresql/15/bin/postgres", "/system.slice/pg.service/sub", 3),
            ],
            listeners: vec![
                Listener { address: ListenAddress::Tcp("127.0.0.1:2379".parse().unwrap()), inode: 1 },
                Listener { address: ListenAddress::Tcp("127.0.0.1:9999".parse().unwrap()), inode: 2 },
                Listener { address: ListenAddress::Unix("/run/postgresql/.s.PGSQL.5432".into()), inode: 3 },
            ],
        }
    }

    fn report(manifest: &Manifest) -> SurfaceReport {
        let unit = |active: &str, pid, group: &str| {
            Ok(Unit {
                load_state: "loaded".into(),
                active_state: active.into(),
                sub_state: if active == "active" { "running" } else { "dead" }.into(),
                main_pid: pid,
                control_group: group.into(),
            })
        };
        let units = BTreeMap::from([
            ("etcd.service".into(), unit("active", Some(10), "/system.slice/etcd.service")),
            ("pg.service".into(), unit("active", None, "/system.slice/pg.service")),
            ("dead.service".into(), unit("inactive", None, "")),
            ("broken".into(), Err("failed to run `systemctl`: gone".into())),
        ]);
        compare(manifest, &guest(), &units)
    }

    fn mismatches(text: &str) -> Vec<String> {
        let report = report(&component(text));
        assert_eq!(report.passed, report.components[0].mismatches.is_empty());
        report.components[0].mismatches.clone()
    }

    #[test]
    fn what_is_as_the_manifest_says_runs() {
        assert!(
            mismatches(r#"{"name":"kv","unit":"etcd.service","executable":"/usr/bin/etcd","listens":["2379"]}"#)
                .is_empty()
        );
        assert!(mismatches(r#"{"name":"sql","unit":"pg.service","executable":"postgres","listens":["/run/postgresql/.s.PGSQL.5432"]}"#).is_empty());
        assert!(mismatches(r#"{"name":"kv","executable":"etcd","listens":["127.0.0.1:2379"]}"#).is_empty());
    }

    #[test]
    fn each_mismatch_is_named() {
        assert_eq!(
            mismatches(r#"{"name":"d","unit":"dead.service"}"#),
            ["the unit `dead.service` is inactive (dead), not active"]
        );
        assert_eq!(mismatches(r#"{"name":"b","unit":"broken"}"#), ["failed to run `systemctl`: gone"]);
        assert_eq!(mismatches(r#"{"name":"n","executable":"nats"}"#), ["nothing runs `nats`"]);
        assert_eq!(
            mismatches(r#"{"name":"kv","unit":"etcd.service","executable":"/usr/bin/consul"}"#),
            ["its unit runs `/usr/bin/etcd`, not `/usr/bin/consul`"]
        );
        assert_eq!(
            mismatches(r#"{"name":"kv","unit":"etcd.service","listens":["9999","1"]}"#),
            ["`9999` is listened on by `/usr/lib/etcd-extra` (pid 11), not by it", "nothing listens on `1`"]
        );
    }

    #[test]
    fn only_required_components_decide() {
        let manifest =
            component(r#"{"name":"n","required":false,"executable":"nats"},{"name":"kv","executable":"etcd"}"#);
        let report = report(&manifest);
        assert!(report.passed);
        assert!(!report.components[0].running);
    }
}
