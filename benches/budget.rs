//! How fast the work root's scan counts a million files whose metadata is in memory, beside `du -s` of the same tree.
//!
//! `cargo bench --bench budget`. Environment: `BOOTPROOF_BENCH_PAIRS` (7, the rounds), `BOOTPROOF_BENCH_FILES` (1000000). Makes
//! the files itself, empty ones, in a thousand folders below the target folder, and removes them.

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bootproof::budget::scan;
use spread::Spread;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the ratio has to reach.
const GOAL: f64 = 2.0;
/// Files in a folder.
const IN_FOLDER: usize = 1000;
/// As deep as `bootproof budget` looks at the work root.
const DEPTH: usize = 3;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let rounds: usize = std::env::var("BOOTPROOF_BENCH_PAIRS").map_or(Ok(7), |text| text.parse())?;
    let files: usize = std::env::var("BOOTPROOF_BENCH_FILES").map_or(Ok(1_000_000), |text| text.parse())?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let free = rustix::fs::statvfs(target)?;
    // Some file systems make inodes as they are needed, and tell of none.
    if free.f_files > 0 && (free.f_favail as usize) < files + files / 4 {
        return Err(format!("{files} files take more inodes than the {} that are free", free.f_favail).into());
    }
    let folder = tempfile::Builder::new().prefix("scan-").tempdir_in(target)?;
    make(folder.path(), files)?;
    let contenders: [&dyn Fn() -> Outcome<(f64, u64)>; 2] = [&|| ours(folder.path()), &|| du(folder.path())];
    // Once each, so that all is in memory; and they have to agree.
    let (here, there) = (contenders[0]()?.1, contenders[1]()?.1);
    if here != there {
        return Err(format!("the scan counts {here} bytes and `du -s` {there}").into());
    }
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..rounds {
        // Who goes first takes turns: a host that slows down or speeds up must not favour one.
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            times[which].push(contenders[which]()?.0);
        }
    }
    let ratio = Spread::of(times[0].iter().zip(&times[1]).map(|(ours, theirs)| theirs / ours).collect());
    println!("budget: {files} files, {rounds} alternating rounds");
    for (name, times) in ["scan", "du -s"].iter().zip(&times) {
        println!("  {name:42} {}", text(&Spread::of(times.clone()), " s"));
    }
    println!("scan speed to du -s: {} (at least {GOAL})", text(&ratio, ""));
    if ratio.median < GOAL {
        return Err(format!("the ratio {:.3} misses its goal of {GOAL}", ratio.median).into());
    }
    Ok(())
}

fn make(folder: &Path, files: usize) -> Outcome<()> {
    for number in 0..files {
        let inner = folder.join(format!("{}/{}", number / IN_FOLDER / 32, number / IN_FOLDER % 32));
        if number % IN_FOLDER == 0 {
            fs::create_dir_all(&inner)?;
        }
        File::create(inner.join(format!("file-{number}")))?;
    }
    Ok(())
}

/// Seconds, and bytes.
fn ours(folder: &Path) -> Outcome<(f64, u64)> {
    let began = Instant::now();
    let bytes = scan(folder, DEPTH)?.total().bytes;
    Ok((began.elapsed().as_secs_f64(), bytes))
}

fn du(folder: &Path) -> Outcome<(f64, u64)> {
    let mut command = Command::new("du");
    command.args(["-s", "--block-size=1"]).arg(folder).stderr(Stdio::inherit());
    let began = Instant::now();
    let output = command.output()?;
    let took = began.elapsed().as_secs_f64();
    let said = String::from_utf8(output.stdout)?;
    Ok((took, said.split_whitespace().next().ok_or("`du` says nothing")?.parse()?))
}

fn text(Spread { least, median, most }: &Spread, unit: &str) -> String {
    format!("median {median:.3}{unit}, {least:.3} to {most:.3}{unit}")
}
