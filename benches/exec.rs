//! How much `bootproof exec --image tiny -- true` costs over the same kernel and initramfs in bare QEMU that powers off at
//! once: boot, proof of life, command and end, against boot and end alone.
//!
//! `cargo bench --bench exec`. Environment: `BOOTPROOF_BENCH_PAIRS` (15, the rounds), `BOOTPROOF_BENCH_ACCEL` (`tcg` or `kvm`; TCG
//! when it is not set, since every host has that).

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use bootproof::image::{Boot, ImageRequest, ImageStore, Silent};

use spread::Spread;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the ratio has to stay under.
const GOAL: f64 = 1.05;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let rounds: usize = std::env::var("BOOTPROOF_BENCH_PAIRS").map_or(Ok(15), |text| text.parse())?;
    let accelerator = std::env::var("BOOTPROOF_BENCH_ACCEL").unwrap_or_else(|_| "tcg".into());
    let work_root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("work");
    let tiny = tiny(&work_root)?;
    let contenders: [&dyn Fn() -> Outcome<f64>; 3] = [
        &|| exec(&work_root, &accelerator),
        &|| bare(&tiny, &[], &accelerator),
        // How much of the difference are the kernel parameters that the image brings along?
        &|| bare(&tiny, &tiny.parameters, &accelerator),
    ];
    // Once each to have everything built, proven and in the page cache.
    for contender in contenders {
        contender()?;
    }
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        // Who goes first takes turns: a host that slows down or speeds up must not favour one.
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            times[which].push(contenders[which]()?);
        }
    }
    let ratio = |to: usize| Spread::of(times[0].iter().zip(&times[to]).map(|(ours, bare)| ours / bare).collect());
    let (plain, tuned) = (ratio(1), ratio(2));
    println!("exec: {rounds} alternating rounds under {accelerator}");
    for (name, times) in ["bootproof exec", "bare QEMU", "bare QEMU, the image's kernel parameters"].iter().zip(&times)
    {
        println!("  {name:42} {}", text(&Spread::of(times.clone()), " s"));
    }
    println!("exec ratio to bare QEMU: {} (at most {GOAL})", text(&plain, ""));
    println!("exec ratio to bare QEMU with the image's kernel parameters: {}", text(&tuned, ""));
    if plain.median > GOAL {
        Err(format!("the ratio {:.3} misses its goal of {GOAL}", plain.median).into())
    } else {
        Ok(())
    }
}

/// What `exec` boots.
struct Tiny {
    kernel: PathBuf,
    initramfs: PathBuf,
    parameters: Vec<String>,
}

fn tiny(work_root: &Path) -> Outcome<Tiny> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = ImageStore::open(work_root, project)?;
    let request = ImageRequest::tiny(project.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let image = runtime.block_on(store.ensure(&request, Arc::new(Silent).as_ref(), Default::default()))?;
    match image.boot {
        Boot::Kernel { kernel, uncompressed_kernel, initramfs, parameters } => {
            Ok(Tiny { kernel: uncompressed_kernel.unwrap_or(kernel), initramfs, parameters })
        }
        Boot::Firmware | Boot::Medium { .. } => Err("the tiny image has no kernel of its own".into()),
    }
}

fn exec(work_root: &Path, accelerator: &str) -> Outcome<f64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
    command.env("BOOTPROOF_WORK_ROOT", work_root);
    command.args(["exec", "--image", "tiny", "--accel", accelerator, "--", "true"]);
    timed(command)
}

fn bare(tiny: &Tiny, parameters: &[String], accelerator: &str) -> Outcome<f64> {
    let mut command = Command::new(bootproof::machine::qemu::program());
    let cpu = if accelerator == "kvm" { "host" } else { "max" };
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,usb=off,vmport=off"]);
    command.args(["-accel", accelerator, "-cpu", cpu, "-smp", "1", "-m", "256M", "-serial", "file:/dev/null"]);
    command.arg("-kernel").arg(&tiny.kernel).arg("-initrd").arg(&tiny.initramfs);
    command.arg("-append").arg(format!("console=ttyS0 rdinit=/bin/poweroff {}", parameters.join(" ")));
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

fn text(Spread { least, median, most }: &Spread, unit: &str) -> String {
    format!("median {median:.3}{unit}, {least:.3} to {most:.3}{unit}")
}
