//! How much `bootproof exec --image tiny -- true` costs over the same kernel and initramfs in bare QEMU that powers off at
//! once: boot, proof of life, command and end, against boot and end alone.
//!
//! `cargo bench --bench exec`. Environment: `BOOTPROOF_BENCH_PAIRS` (15), `BOOTPROOF_BENCH_ACCEL` (`tcg` or `kvm`; TCG
//! when it is not set, since every host has that).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use bootproof::image::{Boot, ImageRequest, ImageStore, Silent};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the ratio has to stay under.
const GOAL: f64 = 1.05;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let pairs: usize = std::env::var("BOOTPROOF_BENCH_PAIRS").map_or(Ok(15), |text| text.parse())?;
    let accelerator = std::env::var("BOOTPROOF_BENCH_ACCEL").unwrap_or_else(|_| "tcg".into());
    let work_root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("work");
    let (kernel, initramfs) = tiny(&work_root)?;
    let ours = || exec(&work_root, &accelerator);
    let bare = || bare(&kernel, &initramfs, &accelerator);
    // Once each to have everything built, proven and in the page cache.
    ours()?;
    bare()?;
    let mut times = Vec::new();
    for pair in 0..pairs {
        // Who goes first takes turns: a machine that slows down or speeds up must not favour one.
        let (left, right) = if pair % 2 == 0 {
            let ours = ours()?;
            (ours, bare()?)
        } else {
            let bare = bare()?;
            (ours()?, bare)
        };
        times.push((left, right));
    }
    let ours = Spread::of(times.iter().map(|(ours, _)| *ours).collect());
    let bare = Spread::of(times.iter().map(|(_, bare)| *bare).collect());
    let ratio = Spread::of(times.iter().map(|(ours, bare)| ours / bare).collect());
    println!("exec: {pairs} alternating pairs under {accelerator}");
    println!("  bootproof exec  median {:.3} s, {:.3} to {:.3} s", ours.median, ours.least, ours.most);
    println!("  bare QEMU       median {:.3} s, {:.3} to {:.3} s", bare.median, bare.least, bare.most);
    println!(
        "  ratio           median {:.3}, {:.3} to {:.3} (goal: at most {GOAL})",
        ratio.median, ratio.least, ratio.most
    );
    if ratio.median > GOAL {
        Err(format!("the ratio {:.3} misses its goal of {GOAL}", ratio.median).into())
    } else {
        Ok(())
    }
}

/// The kernel and initramfs that `exec` boots.
fn tiny(work_root: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = ImageStore::open(work_root, project)?;
    let request = ImageRequest::tiny(project.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let image = runtime.block_on(store.ensure(&request, Arc::new(Silent).as_ref(), Default::default()))?;
    match image.boot {
        Boot::Kernel { kernel, uncompressed_kernel, initramfs, .. } => {
            Ok((uncompressed_kernel.unwrap_or(kernel), initramfs))
        }
        Boot::Firmware => Err("the tiny image has no kernel of its own".into()),
    }
}

fn exec(work_root: &Path, accelerator: &str) -> Outcome<f64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
    command.env("BOOTPROOF_WORK_ROOT", work_root);
    command.args(["exec", "--image", "tiny", "--accel", accelerator, "--", "true"]);
    timed(command)
}

fn bare(kernel: &Path, initramfs: &Path, accelerator: &str) -> Outcome<f64> {
    let mut command = Command::new(bootproof::machine::qemu::program());
    let cpu = if accelerator == "kvm" { "host" } else { "max" };
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,usb=off,vmport=off"]);
    command.args(["-accel", accelerator, "-cpu", cpu, "-smp", "1", "-m", "256M", "-serial", "file:/dev/null"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 rdinit=/bin/poweroff"]);
    timed(command)
}

/// Seconds from before the start to after the end.
fn timed(mut command: Command) -> Outcome<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed().as_secs_f64();
    if status.success() { Ok(took) } else { Err(format!("{command:?} ended with {status}").into()) }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { least: values[0], median, most: values[values.len() - 1] }
    }
}
