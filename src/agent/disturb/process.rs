//! Signals to processes by the name of their program.

use rustix::process::{Pid, Signal, kill_process};

/// Sends the signal to every process of that name but our own ancestors; prints how many there were.
pub fn signal(name: &str, signal: &str) -> Result<String, String> {
    let signal = match signal {
        "kill" => Signal::KILL,
        "terminate" => Signal::TERM,
        "stop" => Signal::STOP,
        "continue" => Signal::CONT,
        _ => return Err(format!("`{signal}` is none of `kill`, `terminate`, `stop` and `continue`")),
    };
    let mut count = 0u32;
    for pid in processes(name)? {
        match kill_process(pid, signal) {
            Ok(()) => count += 1,
            // It has ended since it was seen.
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(format!("failed to signal process {}: {error}", pid.as_raw_nonzero())),
        }
    }
    if count == 0 {
        return Err(format!("there is no process `{name}`"));
    }
    Ok(format!("{count}\n"))
}

fn processes(name: &str) -> Result<Vec<Pid>, String> {
    let entries = std::fs::read_dir("/proc").map_err(|error| format!("failed to read `/proc`: {error}"))?;
    let ours = [Some(rustix::process::getpid()), Pid::from_raw(1)];
    let processes = entries.flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // The kernel's own name for it is cut off at fifteen bytes; so is what is asked for.
        let program = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (program.trim_end_matches('\n') == name && !ours.contains(&Some(pid))).then_some(pid)
    });
    Ok(processes.collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_is_found_by_name_and_only_it() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let own = super::processes("sleep").unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        // Between fork and exec it still has our name.
        assert!(
            own.contains(&pid) || std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap() != "sleep\n"
        );
        assert!(super::signal("no-such-program", "kill").unwrap_err().contains("no process"));
        assert!(super::signal("sleep", "tickle").unwrap_err().contains("none of"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
