//! Faults inside the guest, caused on the host's word: processes, the clock, memory.
//!
//! Each is a command of its own, so that its end is the fault's end: `memory` and `fill` hold what they took until they
//! are ended.

mod clock;
mod fill;
mod memory;
mod process;

const USAGE: &str =
    "`disturb` takes `process NAME SIGNAL`, `clock SHIFT-MS`, `clock-set UNIX-MS`, `memory BYTES` or `fill FOLDER`";

/// Does it; the answer is what to print.
pub fn run(words: &[&str]) -> Result<String, String> {
    match words {
        ["process", name, signal] => process::signal(name, signal),
        ["clock", shift] => clock::shift(number(shift)?),
        ["clock-set", time] => clock::set(number(time)?),
        ["memory", bytes] => memory::hold(number(bytes)?),
        ["fill", folder] => fill::hold(folder),
        _ => Err(USAGE.into()),
    }
}

/// Sets the wall clock to so many milliseconds since 1970.
pub fn set_clock(milliseconds: i64) -> Result<(), String> {
    clock::set(milliseconds).map(drop)
}

/// Says what was taken, and does not come back.
fn hold(what: &str) -> Result<String, String> {
    use std::io::Write;
    let mut output = std::io::stdout();
    output.write_all(what.as_bytes()).and_then(|()| output.flush()).map_err(|error| error.to_string())?;
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number; {USAGE}"))
}
