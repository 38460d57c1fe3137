//! Programs of the tests' own that run inside a guest: static, since `tiny` has no libraries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `say DEVICE FILE [TIMES]` writes the file to the device, so many times: whatever a guest may print on its consoles.
const SAY: &str = r#"
use std::io::Write;
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let text = std::fs::read(&words[2]).unwrap();
    let times = words.get(3).map_or(1, |times| times.parse().unwrap());
    let mut device = std::fs::OpenOptions::new().write(true).open(&words[1]).unwrap();
    for _ in 0..times {
        device.write_all(&text).unwrap();
    }
}
"#;

/// `write-on DEVICE FILE` writes ever higher numbers to the device, flushes each, and then to the file, until the machine
/// ends: what stands in the file has been flushed. Returns once it has begun.
#[allow(dead_code, reason = "not every test has a use for it")]
const WRITE_ON: &str = r#"
use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.len() == 3 {
        let mut child = Command::new(&words[0]);
        child.args(&words[1..]).arg("on").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        child.spawn().unwrap();
        while !std::fs::read_to_string(&words[2]).is_ok_and(|text| text.len() > 1) {
            std::thread::yield_now();
        }
        return;
    }
    let mut device = std::fs::OpenOptions::new().write(true).open(&words[1]).unwrap();
    for number in 1u64.. {
        device.seek(SeekFrom::Start(0)).unwrap();
        device.write_all(format!("{number:015}\n").as_bytes()).unwrap();
        device.sync_data().unwrap();
        std::fs::write(&words[2], format!("{number:015}\n")).unwrap();
    }
}
"#;

/// Stands for a shell: tells whether it has a terminal and its size, says each line again, and ends with `exit CODE`.
const SHELL: &str = r#"
use std::io::{BufRead, IsTerminal, Write};
unsafe extern "C" { fn ioctl(descriptor: i32, request: u64, ...) -> i32; }
fn size() -> String {
    let mut size = [0u16; 4];
    unsafe { ioctl(0, 0x5413, size.as_mut_ptr()) };
    format!("{}x{}", size[0], size[1])
}
fn main() {
    let words: Vec<String> = std::env::args().collect();
    println!("{} terminal={} size={} TERM={}", words[1..].join(" "), std::io::stdin().is_terminal(), size(),
        std::env::var("TERM").unwrap_or_default());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("exit", code)) => std::process::exit(code.parse().unwrap()),
            _ => println!("said {line} size={}", size()),
        }
        std::io::stdout().flush().unwrap();
    }
}
"#;

/// The program that stands for a shell, compiled once.
#[allow(dead_code, reason = "not every test has a use for it")]
pub fn shell() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled(&PROGRAM, "shell", SHELL)
}

/// The program `say`, compiled once.
pub fn say() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled(&PROGRAM, "say", SAY)
}

/// The program `write-on`, compiled once.
#[allow(dead_code, reason = "not every test has a use for it")]
pub fn write_on() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled(&PROGRAM, "write-on", WRITE_ON)
}

fn compiled(program: &'static OnceLock<PathBuf>, name: &str, code: &str) -> &'static Path {
    program.get_or_init(|| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (source, program) = (folder.path().join("program.rs"), folder.path().join("program"));
        std::fs::write(&source, code).unwrap();
        let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
            .args([&program, &source])
            .output()
            .unwrap();
        super::expect_status(&compiled, 0);
        // Another run of the tests may be doing the same.
        let there = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::rename(&program, &there).unwrap();
        there
    })
}
