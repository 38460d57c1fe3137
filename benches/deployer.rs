//! Machines that phone home to a deployer, as a process of its own that is held to one core.
//!
//! `cargo bench --bench deployer`. Each phone-home has a connection of its own and is on the deployer's disk before it is
//! answered. BOOTPROOF_BENCH_DEPLOYER_SECONDS says for how long.

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootproof::deployer::{ADMIN_TOKEN, Client, NewToken, read_token};
use bootproof::provisioning::{Firmware, Identity, PHONE_HOME, PhoneHome, PhoneHomeAnswer, Stage};
use bootproof::secret::Secret;
use hyper::Method;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use spread::Spread;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Phone-homes per second that one core has to take, and how long the slowest hundredth may wait.
const RATE: u32 = 500;
const P99: Duration = Duration::from_millis(50);
const AT_ONCE: u32 = 1000;

const CONFIGURATION: &str = "version = 1\ndefault_class = \"worker\"\n[classes.worker]\nbundle = \"worker.tar.zst\"\n\
     disk = { minimum_size = \"1GiB\" }\nhostname = \"worker-{number}\"\n";

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let seconds: u32 = match std::env::var("BOOTPROOF_BENCH_DEPLOYER_SECONDS") {
        Ok(text) => text.parse().map_err(|_| format!("BOOTPROOF_BENCH_DEPLOYER_SECONDS=`{text}` is not a number"))?,
        Err(_) => 10,
    };
    let folder = tempfile::Builder::new().prefix("deployer-").tempdir()?;
    let server = Server::start(folder.path())?;
    println!("deployer: phone-homes on one core, {RATE} a second for {seconds} s, then {AT_ONCE} at once");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&server, folder.path(), seconds))
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// It inherits the one core that we have while we start it.
    fn start(folder: &Path) -> Outcome<Self> {
        std::fs::write(folder.join("deployer.toml"), CONFIGURATION)?;
        std::fs::write(folder.join("worker.tar.zst"), "a bundle")?;
        let all = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).ok_or("there is no core")?;
        one.set(first);
        sched_setaffinity(None, &one)?;
        let child = Command::new(env!("CARGO_BIN_EXE_bootproof"))
            .args(["--quiet", "deployer", "serve", "--config", "deployer.toml", "--listen", "127.0.0.1:0"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn();
        sched_setaffinity(None, &all)?;
        let mut server = Self { child: child?, url: String::new() };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        server.url = line.trim().strip_prefix("listening on ").ok_or("the deployer did not start")?.to_owned();
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn machine(number: u32) -> Outcome<Vec<u8>> {
    let [_, a, b, c] = number.to_be_bytes();
    Ok(serde_json::to_vec(&PhoneHome {
        version: 1,
        identity: Identity {
            node_id: None,
            serial: Some(format!("serial-{number}")),
            uuid: Some(format!("11111111-0000-0000-0000-{number:012}")),
            macs: vec![format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")],
        },
        stage: Stage::Installer,
        firmware: Firmware::Uefi,
        hostname: None,
        disks: vec![],
        memory: 1 << 30,
        agent_version: "bench".into(),
    })?)
}

/// How long it took, counted from when it should have begun.
async fn phone_home(client: Arc<Client>, number: u32, begin: Instant) -> Outcome<Duration> {
    let answer = client.send(Method::POST, PHONE_HOME, &[], machine(number)?).await.map_err(|error| error.chain())?;
    let answer: PhoneHomeAnswer = serde_json::from_slice(&answer.body)?;
    answer.assignment.ok_or("there was no plan")?;
    Ok(begin.elapsed())
}

async fn measure(server: &Server, folder: &Path, seconds: u32) -> Outcome<()> {
    let admin = read_token(&folder.join("work/deployer").join(ADMIN_TOKEN))?.ok_or("no admin token")?;
    let admin = Client::new(&server.url, None, Some(admin))?;
    let body = serde_json::json!({ "version": 1, "reusable": true });
    let told: NewToken = admin.ask(Method::POST, "/api/v1/admin/tokens", &[], Some(&body)).await?;
    let client = Arc::new(Client::new(&server.url, None, Some(Secret::new(told.value)))?);
    // The first warm up and are not counted.
    for number in 0..50 {
        phone_home(client.clone(), number, Instant::now()).await?;
    }
    // They come when they come, whether or not those before were answered.
    let (mut tasks, begin) = (JoinSet::new(), Instant::now());
    for number in 0..RATE * seconds {
        let due = begin + Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until(due.into()).await;
        tasks.spawn(phone_home(client.clone(), 1_000_000 + number, due));
    }
    let mut times = Vec::new();
    while let Some(time) = tasks.join_next().await {
        times.push(time??.as_secs_f64() * 1e3);
    }
    let (count, elapsed) = (times.len(), begin.elapsed().as_secs_f64());
    times.sort_by(f64::total_cmp);
    let p99 = times[(count * 99).div_ceil(100) - 1];
    let spread = Spread::of(times);
    println!(
        "  {:.0} a second: median {:.1} ms, {:.1} to {:.1}, p99 {p99:.1} ms (at most {} ms)",
        count as f64 / elapsed,
        spread.median,
        spread.least,
        spread.most,
        P99.as_millis()
    );
    // All at once: each is counted from the same moment.
    let (mut tasks, begin) = (JoinSet::new(), Instant::now());
    for number in 0..AT_ONCE {
        tasks.spawn(phone_home(client.clone(), 2_000_000 + number, begin));
    }
    let mut planned = 0;
    while let Some(time) = tasks.join_next().await {
        time??;
        planned += 1;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    println!("  {AT_ONCE} at once: {planned} plans in {elapsed:.2} s, {:.0} a second", f64::from(planned) / elapsed);
    if p99 > P99.as_secs_f64() * 1e3 || (count as f64 / elapsed) < f64::from(RATE) * 0.98 {
        return Err("the deployer is slower than it must be".into());
    }
    Ok(())
}
