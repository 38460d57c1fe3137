//! What forking saves over booting, from the logs of real runs and of whole processes:
//!
//! - from having image or checkpoint to the agent's answer, one machine booting (`quickstart`), one forked, six forked (`fork-six`);
//! - what each of six forks takes of the host's memory, beside what all of them share;
//! - `quickstart` from its checkpoint, from the process's start to its end;
//! - `exec --image system -- true` (Debian, without SSH keys to make anew), forked against booted.
//!
//! `cargo bench --bench checkpoints`. Environment: `BOOTPROOF_BENCH_PAIRS` (5, the rounds).

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use spread::Spread;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let rounds: usize = std::env::var("BOOTPROOF_BENCH_PAIRS").map_or(Ok(5), |text| text.parse())?;
    let bench = Bench { work_root: Path::new(env!("CARGO_TARGET_TMPDIR")).join("work") };
    // Once each to have everything built, proven, saved and in the page cache.
    for start in ["boot", "checkpoint"] {
        bench.run("quickstart", start)?;
        bench.exec(start)?;
    }
    bench.run("fork-six", "checkpoint")?;
    let mut figures = Figures::default();
    for _ in 0..rounds {
        figures.add(&bench)?;
    }
    figures.print(rounds)
}

#[derive(Default)]
struct Figures {
    cold_answer: Vec<f64>,
    fork_answer: Vec<f64>,
    six_answer: Vec<f64>,
    own_memory: Vec<f64>,
    cold_verdict: Vec<f64>,
    fork_verdict: Vec<f64>,
    cold_exec: Vec<f64>,
    fork_exec: Vec<f64>,
}

impl Figures {
    fn add(&mut self, bench: &Bench) -> Outcome<()> {
        for (start, answers, verdicts) in [
            ("boot", &mut self.cold_answer, &mut self.cold_verdict),
            ("checkpoint", &mut self.fork_answer, &mut self.fork_verdict),
        ] {
            verdicts.push(bench.run("quickstart", start)?);
            answers.push(bench.answered("quickstart")?);
        }
        for (start, times) in [("boot", &mut self.cold_exec), ("checkpoint", &mut self.fork_exec)] {
            times.push(bench.exec(start)?);
        }
        self.own_memory.extend(bench.six()?);
        self.six_answer.push(bench.answered("fork-six")?);
        Ok(())
    }

    fn print(&self, rounds: usize) -> Outcome<()> {
        println!("checkpoints: {rounds} alternating rounds");
        for (name, values, unit) in [
            ("one boot to the agent's answer", &self.cold_answer, " s"),
            ("one fork to the agent's answer", &self.fork_answer, " s"),
            ("six forks to the last one's answer", &self.six_answer, " s"),
            ("memory of a fork's own (PSS without the shared file)", &self.own_memory, " MiB"),
            ("quickstart, booted, whole process", &self.cold_verdict, " s"),
            ("quickstart, forked, whole process", &self.fork_verdict, " s"),
            ("exec on a Debian image, booted", &self.cold_exec, " s"),
            ("exec on a Debian image, forked", &self.fork_exec, " s"),
        ] {
            println!("  {name:52} {}", text(&Spread::of(values.clone()), unit));
        }
        let ratio = |ours: &[f64], theirs: &[f64]| {
            Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
        };
        let goals = [
            ("one fork / one boot", ratio(&self.fork_answer, &self.cold_answer), 0.05, ""),
            ("six forks / one boot", ratio(&self.six_answer, &self.cold_answer), 0.25, ""),
            ("memory of a fork's own", Spread::of(self.own_memory.clone()), 64.0, " MiB"),
            ("quickstart, forked", Spread::of(self.fork_verdict.clone()), 3.0, " s"),
            ("exec, forked / booted", ratio(&self.fork_exec, &self.cold_exec), 0.1, ""),
        ];
        let mut missed = Vec::new();
        for (name, spread, goal, unit) in goals {
            println!("{name}: {} (at most {goal}{unit})", text(&spread, unit));
            if spread.median > goal {
                missed.push(format!("`{name}` misses its goal of {goal}{unit}"));
            }
        }
        if missed.is_empty() { Ok(()) } else { Err(missed.join("; ").into()) }
    }
}

struct Bench {
    work_root: PathBuf,
}

impl Bench {
    fn bootproof(&self, arguments: &[&str]) -> Outcome<(f64, Output)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
        command.env("BOOTPROOF_WORK_ROOT", &self.work_root).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(arguments).stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output()?;
        let took = began.elapsed().as_secs_f64();
        if output.status.success() {
            return Ok((took, output));
        }
        Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Seconds of the whole process.
    fn run(&self, lane: &str, start: &str) -> Outcome<f64> {
        Ok(self.bootproof(&["run", lane, "--start", start])?.0)
    }

    fn exec(&self, start: &str) -> Outcome<f64> {
        Ok(self.bootproof(&["exec", "--image", "system", "--start", start, "--", "true"])?.0)
    }

    /// Seconds from when image and checkpoint were there to when the last machine's agent answered first.
    fn answered(&self, lane: &str) -> Outcome<f64> {
        let log = self.work_root.join("proofs").join(lane).join("latest/events.jsonl");
        let mut from = 0;
        let mut answers = std::collections::BTreeMap::new();
        for line in std::fs::read_to_string(log)?.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let at = event["monotonic_ns"].as_u64().unwrap_or(0);
            match event["event"]["kind"].as_str().unwrap_or_default() {
                "image-ready" | "checkpoint-ready" => from = at,
                "channel-ready" => {
                    answers.entry(event["machine"].to_string()).or_insert(at);
                }
                _ => {}
            }
        }
        let last = answers.values().max().ok_or("no agent answered")?;
        Ok(last.saturating_sub(from) as f64 / 1e9)
    }

    /// MiB that each of six forks has of its own once it is a machine of its own.
    fn six(&self) -> Outcome<Vec<f64>> {
        let run = ["run", "fork-six", "--keep", "--set", "steps.talk.exec=[\"true\"]"];
        self.bootproof(&run)?;
        let listed = self.bootproof(&["ps", "--json"]);
        let own = listed.and_then(|(_, output)| {
            let machines: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
            machines.iter().map(|machine| own_memory(&machine["qemu_pid"])).collect::<Outcome<Vec<f64>>>()
        });
        self.bootproof(&["stop", "--all"])?;
        own
    }
}

fn own_memory(pid: &serde_json::Value) -> Outcome<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kibibytes = |name: &str| -> f64 {
        let line = rollup.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    Ok((kibibytes("Pss_Anon:") + kibibytes("Pss_Shmem:")) / 1024.0)
}

fn text(Spread { least, median, most }: &Spread, unit: &str) -> String {
    format!("median {median:.3}{unit}, {least:.3} to {most:.3}{unit}")
}
