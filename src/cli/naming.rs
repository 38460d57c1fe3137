//! Machines by the names that people call them: `node01`, or `RUN/node01` where several are called so.

use crate::error::{Error, Result};
use crate::machine::registry::MachineRecord;

/// As `bootproof ps` shows it.
pub fn full_name(record: &MachineRecord) -> String {
    format!("{}/{}", record.run, record.machine)
}

/// Whether a run is called so: by its name, or by the end of it.
pub fn is_run(run: &str, wanted: &str) -> bool {
    run == wanted || (wanted.len() >= 4 && run.ends_with(wanted))
}

/// Whether this names the machine: by its own name, or with its run's.
pub fn is_machine(run: &str, machine: &str, wanted: &str) -> bool {
    match wanted.split_once('/') {
        Some((wanted_run, wanted_machine)) => wanted_machine == machine && is_run(run, wanted_run),
        None => wanted == machine,
    }
}

/// The one machine that is up and called so.
///
/// # Errors
/// Usage: there is none, or more than one; the hint names those that there are.
pub fn find<'a>(live: &'a [MachineRecord], wanted: &str) -> Result<&'a MachineRecord> {
    let found: Vec<&MachineRecord> =
        live.iter().filter(|record| is_machine(&record.run, &record.machine, wanted)).collect();
    match found.as_slice() {
        [record] => Ok(record),
        [] => Err(none_up(live, wanted)),
        several => Err(ambiguous(wanted, several.iter().map(|record| full_name(record)))),
    }
}

pub fn none_up(live: &[MachineRecord], wanted: &str) -> Error {
    let up: Vec<String> = live.iter().map(full_name).collect();
    let hint = if up.is_empty() { "no machine is up".into() } else { format!("up are: {}", up.join(", ")) };
    Error::usage(format!("no machine `{wanted}` is up")).hint(hint)
}

pub fn ambiguous(wanted: &str, candidates: impl Iterator<Item = String>) -> Error {
    let candidates: Vec<String> = candidates.collect();
    Error::usage(format!("`{wanted}` names {} machines", candidates.len()))
        .hint(format!("say which: {}", candidates.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn record(run: &str, machine: &str) -> MachineRecord {
        MachineRecord { run: run.into(), machine: machine.into(), ..MachineRecord::default() }
    }

    #[test]
    fn a_name_means_one_machine_or_is_refused_with_what_it_could_mean() {
        let live = [record("t-0000aaaa", "one"), record("t-0000aaaa", "two"), record("t-0000bbbb", "one")];
        assert_eq!(find(&live, "two").unwrap(), &live[1]);
        assert_eq!(find(&live, "t-0000bbbb/one").unwrap(), &live[2]);
        assert_eq!(find(&live, "aaaa/one").unwrap(), &live[0], "the end of a run's name does");
        let error = find(&live, "one").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.hints(), ["say which: t-0000aaaa/one, t-0000bbbb/one"]);
        let error = find(&live, "three").unwrap_err();
        assert_eq!(error.hints(), ["up are: t-0000aaaa/one, t-0000aaaa/two, t-0000bbbb/one"]);
        assert!(find(&live, "bbb/one").is_err(), "three characters could be anything");
    }
}
