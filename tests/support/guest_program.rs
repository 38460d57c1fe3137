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

/// The program `say`, compiled once.
pub fn say() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (source, program) = (folder.path().join("say.rs"), folder.path().join("say"));
        std::fs::write(&source, SAY).unwrap();
        let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
            .args([&program, &source])
            .output()
            .unwrap();
        super::expect_status(&compiled, 0);
        // Another run of the tests may be doing the same.
        let there = Path::new(env!("CARGO_TARGET_TMPDIR")).join("say");
        std::fs::rename(&program, &there).unwrap();
        there
    })
}
