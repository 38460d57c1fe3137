//! How fast a console goes through capture, decoding, matching and the log, against `tee copy | grep -cE` with the same
//! patterns on the same recording; how much memory that takes; and how long a marker takes from the socket to the disk.
//!
//! `cargo bench --bench console`. Environment: `BOOTPROOF_BENCH_CONSOLE_MIB` (1024), `BOOTPROOF_BENCH_PAIRS` (7),
//! `BOOTPROOF_BENCH_LATENCY_SAMPLES` (2000).
//!
//! grep runs with `LC_ALL=C`, its fastest: with a UTF-8 locale it checks every byte for validity, which would flatter us.

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use bootproof::channel::marker_line::format_marker;
use bootproof::console::{CaptureOptions, ConsoleReport, Interpreter, capture};
use bootproof::event::log::LogWriter;
use bootproof::event::{Event, Kind, Severity};
use bootproof::marker::{CompiledRules, Found, LineFinding, MarkerHistory, RuleParts, built_in_failure_patterns};

use spread::Spread;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PREFIX: &str = "BOOTPROOF_MARKER";
/// Set for the child process that does one capture, to the folder that it works in.
const CHILD: &str = "BOOTPROOF_BENCH_CONSOLE_CHILD";
/// Markers in 1024 MiB.
const MARKERS: u64 = 100_000;

fn main() -> Outcome<()> {
    if let Some(folder) = std::env::var_os(CHILD) {
        return child(Path::new(&folder));
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("console-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    throughput(folder.path())?;
    latency(folder.path())
}

fn setting(name: &str, default: u64) -> Outcome<u64> {
    match std::env::var(name) {
        Ok(text) => Ok(text.parse().map_err(|_| format!("{name}=`{text}` is not a number"))?),
        Err(_) => Ok(default),
    }
}

fn rules() -> Outcome<Arc<CompiledRules>> {
    let parts = RuleParts {
        machine: "node01".into(),
        names: ["services.ready".to_string()].into(),
        nodes: ["node01".to_string()].into(),
        ..RuleParts::default()
    };
    Ok(Arc::new(CompiledRules::from_parts(parts)?))
}

fn throughput(folder: &Path) -> Outcome<()> {
    let mebibytes = setting("BOOTPROOF_BENCH_CONSOLE_MIB", 1024)?;
    let pairs = setting("BOOTPROOF_BENCH_PAIRS", 7)?;
    let markers = (MARKERS * mebibytes / 1024).max(1);
    let stream = folder.join("stream");
    generate(&stream, mebibytes << 20, markers)?;
    println!("console: {mebibytes} MiB with {markers} markers, {pairs} alternating pairs");
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut ratios = Vec::new();
    let mut peak = 0;
    // The first pair warms the page cache and is not counted.
    for pair in 0..=pairs {
        warm_memory(folder)?;
        let (their_time, their_count) = tee_and_grep(folder)?;
        warm_memory(folder)?;
        let run = capture_in_child(folder)?;
        if run.recorded != markers || their_count != markers {
            return Err(format!("{markers} markers went in; we logged {}, grep {their_count}", run.recorded).into());
        }
        peak = peak.max(run.peak_kib);
        if pair > 0 {
            ours.push(run.seconds);
            theirs.push(their_time);
            ratios.push(their_time / run.seconds);
        }
    }
    let rate = |seconds: f64| format!("{:.0} MiB/s", mebibytes as f64 / seconds);
    let (ours, theirs, ratios) = (Spread::of(ours), Spread::of(theirs), Spread::of(ratios));
    println!(
        "  bootproof            median {:.3} s ({}), {:.3} to {:.3} s",
        ours.median,
        rate(ours.median),
        ours.least,
        ours.most
    );
    println!(
        "  tee | LC_ALL=C grep  median {:.3} s ({}), {:.3} to {:.3} s",
        theirs.median,
        rate(theirs.median),
        theirs.least,
        theirs.most
    );
    println!(
        "console throughput ratio: {:.2} (pairs {:.2} to {:.2}; at least 0.50)",
        ratios.median, ratios.least, ratios.most
    );
    println!("console peak memory: {:.1} MiB (under 64 MiB)", peak as f64 / 1024.0);
    if ratios.median < 0.5 || peak >= 64 << 10 {
        return Err("the console is slower or larger than it must be".into());
    }
    Ok(())
}

/// Fills and frees as much page cache as a run is going to fill. A virtual machine gives memory that has been free for a
/// moment back to its host, and whoever needs it next pays for getting it again: here nobody who is measured.
fn warm_memory(folder: &Path) -> Outcome<()> {
    let scratch = folder.join("scratch");
    fs::copy(folder.join("stream"), &scratch)?;
    fs::remove_file(scratch)?;
    Ok(())
}

/// Patterns in extended regular expressions for the same lines.
fn grep_arguments() -> Vec<String> {
    let mut arguments = vec!["-cE".to_owned(), "-e".to_owned(), format!("^{PREFIX} ")];
    for pattern in built_in_failure_patterns() {
        arguments.extend(["-e".to_owned(), pattern.expression.to_owned()]);
    }
    arguments
}

fn tee_and_grep(folder: &Path) -> Outcome<(f64, u64)> {
    let copy = folder.join("copy");
    let start = Instant::now();
    let mut tee =
        Command::new("tee").arg(&copy).stdin(File::open(folder.join("stream"))?).stdout(Stdio::piped()).spawn()?;
    let pipe = tee.stdout.take().ok_or("tee has no output")?;
    let grep = Command::new("grep").args(grep_arguments()).env("LC_ALL", "C").stdin(pipe).output()?;
    if !tee.wait()?.success() {
        return Err("tee failed".into());
    }
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(copy)?;
    Ok((seconds, String::from_utf8(grep.stdout)?.trim().parse()?))
}

struct Run {
    seconds: f64,
    recorded: u64,
    peak_kib: u64,
}

/// One capture in a process of its own, whose peak memory is then its alone. Starting it is part of the time.
fn capture_in_child(folder: &Path) -> Outcome<Run> {
    let start = Instant::now();
    let output = Command::new(std::env::current_exe()?).env(CHILD, folder).stderr(Stdio::inherit()).output()?;
    let seconds = start.elapsed().as_secs_f64();
    let (recording, log) = (folder.join("console.raw"), folder.join("events.jsonl"));
    if !output.status.success() {
        return Err("the capturing process failed".into());
    }
    let peak_kib = String::from_utf8(output.stdout)?.trim().parse()?;
    if fs::metadata(&recording)?.len() != fs::metadata(folder.join("stream"))?.len() {
        return Err("the recording is not the stream".into());
    }
    let recorded = BufReader::new(File::open(&log)?).lines().count() as u64;
    fs::remove_file(recording)?;
    fs::remove_file(log)?;
    Ok(Run { seconds, recorded, peak_kib })
}

fn child(folder: &Path) -> Outcome<()> {
    let source = File::open(folder.join("stream"))?;
    // Enough for a sync that takes its time not to hold up the console.
    let (sender, reports) = mpsc::sync_channel(16 << 10);
    let options = CaptureOptions {
        recording: folder.join("console.raw"),
        file: "machines/node01/console.raw".into(),
        limit: u64::MAX,
        rules: rules()?,
    };
    let rules = options.rules.clone();
    let capture = capture(source, options, move |report| {
        if let ConsoleReport::Finding(finding) = report {
            // The log's end is the run's end: there is nobody left to tell.
            let _ = sender.send(finding);
        }
    })?;
    log_all(&reports, MarkerHistory::new(rules), &folder.join("events.jsonl"), |_| ())?;
    let summary = capture.join()?;
    let stream = fs::metadata(folder.join("stream"))?.len();
    if summary.bytes != stream {
        return Err(format!("captured {} of {stream} bytes", summary.bytes).into());
    }
    println!("{}", peak_kib()?);
    Ok(())
}

/// Does what the dispatcher does: whatever has come is numbered and appended in one batch, on the disk before the next.
fn log_all(
    reports: &Receiver<LineFinding>,
    mut history: MarkerHistory,
    path: &Path,
    mut durable: impl FnMut(usize),
) -> Outcome<()> {
    const BATCH: usize = 1024;
    let mut log = LogWriter::create(path)?;
    let start = Instant::now();
    let mut sequence = 0;
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = reports.recv() {
        for finding in std::iter::once(first).chain(reports.try_iter()).take(BATCH) {
            let observed = history.observe(finding);
            if observed.worth_recording {
                sequence += 1;
                batch.push(event(sequence, start.elapsed(), &observed.finding));
            }
        }
        log.append(&batch)?;
        durable(batch.len());
        batch.clear();
    }
    Ok(())
}

fn event(sequence: u64, since: Duration, finding: &LineFinding) -> Event {
    let evidence = finding.evidence.clone();
    let kind = match &finding.found {
        Found::Marker(marker) => Kind::MarkerSeen {
            name: marker.name.clone(),
            node: marker.node.clone(),
            arguments: marker.arguments.clone(),
            marker_sequence: marker.sequence,
            standing: marker.standing,
            evidence,
        },
        Found::FailurePattern { name } => {
            Kind::FailurePatternSeen { pattern: name.to_string(), line: finding.text.clone(), evidence }
        }
        Found::ConsoleMatch { pattern } => Kind::Note { text: pattern.to_string() },
    };
    Event {
        sequence,
        wall: "2026-01-01T00:00:00.000+00:00".into(),
        monotonic_ns: since.as_nanos() as u64,
        machine: Some("node01".into()),
        epoch: Some(1),
        severity: Severity::Info,
        correlation: None,
        event: kind,
    }
}

/// The process's largest resident set so far, in KiB.
fn peak_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// One marker at a time through a socket, as QEMU hands it over, until its event is on the disk. In between, an append
/// to a log of its own by itself: what of the time is the disk's, under the same load.
fn latency(folder: &Path) -> Outcome<()> {
    let samples = setting("BOOTPROOF_BENCH_LATENCY_SAMPLES", 2000)?;
    let (mut guest, host) = UnixStream::pair()?;
    let (sender, reports) = mpsc::sync_channel(1024);
    let options = CaptureOptions {
        recording: folder.join("console.raw"),
        file: "machines/node01/console.raw".into(),
        limit: u64::MAX,
        rules: rules()?,
    };
    let history = MarkerHistory::new(options.rules.clone());
    let capture = capture(host, options, move |report| {
        if let ConsoleReport::Finding(finding) = report {
            let _ = sender.send(finding);
        }
    })?;
    let log = folder.join("events.jsonl");
    let (done, on_disk) = mpsc::channel();
    let (mut times, mut disk_times) = (Vec::new(), Vec::new());
    let mut disk = LogWriter::create(&folder.join("disk.jsonl"))?;
    let alone = [event(1, Duration::ZERO, &example()?)];
    std::thread::scope(|scope| {
        let logging = scope.spawn(move || {
            log_all(&reports, history, &log, |count| {
                let now = Instant::now();
                (0..count).for_each(|_| done.send(now).unwrap_or_default());
            })
            .map_err(|error| error.to_string())
        });
        for sequence in 1..=samples {
            let line = format_marker(PREFIX, "services.ready", Some("node01"), [("unit", "etcd")], sequence);
            let start = Instant::now();
            guest.write_all(format!("{line}\r\n").as_bytes())?;
            times.push(on_disk.recv()?.duration_since(start).as_secs_f64() * 1e3);
            let start = Instant::now();
            disk.append(&alone)?;
            disk_times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        drop(guest);
        logging.join().map_err(|_| "the log's thread panicked")??;
        Outcome::Ok(())
    })?;
    capture.join()?;
    let (times, disk_times) = (Percentiles::of(times), Percentiles::of(disk_times));
    println!("console latency, byte to event on disk, {samples} markers: {times} (p99 under 2 ms)");
    println!("  of which an append to the log alone: {disk_times}");
    if times.p99 >= 2.0 {
        return Err("a marker takes longer to reach the disk than it must".into());
    }
    Ok(())
}

/// Of times in milliseconds.
struct Percentiles {
    median: f64,
    p99: f64,
    most: f64,
}

impl Percentiles {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        Self { median: at(50), p99: at(99), most: at(100) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "median {:.3} ms, p99 {:.3} ms, most {:.3} ms", self.median, self.p99, self.most)
    }
}

/// A finding like those of the stream.
fn example() -> Outcome<LineFinding> {
    let line = format_marker(PREFIX, "services.ready", Some("node01"), [("unit", "etcd")], 1);
    let mut found = None;
    let mut interpreter = Interpreter::new(rules()?, "machines/node01/console.raw");
    interpreter.feed(format!("{line}\r\n").as_bytes(), &mut |finding| found = Some(finding));
    Ok(found.ok_or("the example is no marker")?)
}

/// Writes a stream as machines print it: mostly kernel and service lines with CR LF, every tenth line coloured by
/// systemd, now and then a progress bar, text that is not ASCII, and NULs; no failures. The same for the same size.
fn generate(path: &Path, bytes: u64, markers: u64) -> Outcome<()> {
    let mut output = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut written, mut marker) = (0, 0);
    let mut line = String::new();
    while written < bytes || marker < markers {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        line.clear();
        if marker < markers && written >= bytes / markers * marker {
            marker += 1;
            line = format_marker(PREFIX, "services.ready", Some("node01"), [("unit", "etcd")], marker);
        } else {
            text_line(random, written, &mut line);
        }
        line.push_str("\r\n");
        output.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    output.flush()?;
    Ok(())
}

fn text_line(random: u64, written: u64, line: &mut String) {
    use std::fmt::Write as _;
    let (number, seconds, micros) = (random >> 40, written >> 22, random >> 20 & 0xfffff);
    // Writing to a string cannot fail.
    let _ = match random % 100 {
        0..5 => {
            write!(line, "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39munit-{number}.service\x1b[0m - Unit {number}.")
        }
        5..10 => {
            write!(line, "         Starting \x1b[0;1;39mservice-{number}.service\x1b[0m - Service number {number}...")
        }
        10 => write!(line, "copying: 10%\rcopying: 55%\rcopying: 100% of {number}"),
        11 => write!(line, "● unit-{number}.service – größer als erwartet"),
        12 => write!(line, "\0\0firmware says {number}"),
        13..45 => write!(
            line,
            "[{seconds:5}.{micros:06}] pci 0000:00:{:02x}.0: reg 0x10: [mem 0x{number:08x}-0x{number:08x} 64bit pref]",
            number % 32
        ),
        45..60 => write!(
            line,
            "[{seconds:5}.{micros:06}] EXT4-fs (vda1): mounted filesystem {number:08x} with ordered data mode. Quota mode: none."
        ),
        60..80 => write!(
            line,
            "etcd[412]: {{\"level\":\"info\",\"ts\":\"{seconds}.{micros:06}\",\"caller\":\"mvcc/index.go:214\",\"msg\":\"compact tree index\",\"revision\":{number}}}"
        ),
        _ => write!(
            line,
            "postgres[{}]: LOG:  checkpoint complete: wrote {number} buffers; write={}.{micros:03} s, sync=0.004 s",
            number % 4096,
            seconds % 60
        ),
    };
}
