//! How much a network of ours carries and how long a round trip takes, against `vde_switch` with clients that do what
//! QEMU's own two backends do: one `writev` per frame to a stream and large reads from it, one `send` and one `recv` per
//! frame to a datagram socket.
//!
//! Round trips are set beside a bare relay of the same streams, too: streams cost some microseconds more than datagrams,
//! whoever relays them. Between guests a round trip takes 600 µs and more, so that what counts is not to add to that.
//!
//! `cargo bench --bench switch`. Environment: `BOOTPROOF_BENCH_PAIRS` (7), `BOOTPROOF_BENCH_SWITCH_MS` (1000),
//! `BOOTPROOF_BENCH_ROUND_TRIPS` (5000).

#[path = "support/spread.rs"]
mod spread;

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bootproof::network::{
    CaptureOptions, Fault, HEADER, Item, LinkSelection, Probability, Switch, SwitchOptions, item_at,
};
use rustix::event::{PollFd, PollFlags, poll};

use spread::Spread;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A full Ethernet frame, and a small one.
const LARGE: usize = 1514;
const SMALL: usize = 60;

/// Microseconds that our round trips may be longer than vde's: a twentieth of the shortest that guests see, which is lost
/// in its noise.
const ROUND_TRIP_ALLOWANCE: f64 = 30.0;

/// As large as the buffer into which QEMU reads.
const READ: usize = 4096 + 65536;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` starts this too; measuring is for `cargo bench`.
        return Ok(());
    }
    let pairs = setting("BOOTPROOF_BENCH_PAIRS", 7)?;
    let time = Duration::from_millis(setting("BOOTPROOF_BENCH_SWITCH_MS", 1000)?);
    let round_trips = setting("BOOTPROOF_BENCH_ROUND_TRIPS", 5000)? as usize;
    println!("switch: frames of {LARGE} bytes for {time:?}, {round_trips} round trips of {SMALL} bytes, {pairs} pairs");
    // A socket's path is short: it cannot stand in the target folder.
    let folder = tempfile::Builder::new().prefix("switch-").tempdir()?;
    let vde = Vde::start(folder.path())?;
    if vde.is_none() {
        println!("  vde_switch is not installed (Debian's package `vde2`): nothing to compare with");
    }
    let (mut ours, mut theirs, mut bare) = (Measured::default(), Measured::default(), Measured::default());
    // The first pair warms up and is not counted.
    for pair in 0..=pairs {
        if let Some(vde) = &vde {
            let measured = measure(vde.connect("a")?, vde.connect("b")?, time, round_trips)?;
            theirs.take(pair, measured);
        }
        let (switch, [a, b]) = network(folder.path())?;
        ours.take(pair, measure(a, b, time, round_trips)?);
        drop(switch);
        let [a, b] = relay()?;
        bare.take(pair, measure(a, b, time, round_trips)?);
    }
    ours.print("bootproof");
    bare.print("bare relay");
    extras(folder.path(), time, round_trips)?;
    if vde.is_none() {
        return Ok(());
    }
    theirs.print("vde_switch");
    let ratios: Vec<f64> = ours.rates.iter().zip(&theirs.rates).map(|(ours, theirs)| ours / theirs).collect();
    let ratios = Spread::of(ratios);
    println!(
        "switch throughput ratio: {:.2} (pairs {:.2} to {:.2}; at least 2.00)",
        ratios.median, ratios.least, ratios.most
    );
    let later = Spread::of(ours.trips).median - Spread::of(theirs.trips).median;
    println!("switch round trips: {later:+.1} µs beside vde_switch's (at most {ROUND_TRIP_ALLOWANCE:+})");
    if ratios.median < 2.0 || later > ROUND_TRIP_ALLOWANCE {
        return Err("the switch is slower than it must be".into());
    }
    Ok(())
}

/// What it costs when something is set.
fn extras(folder: &Path, time: Duration, round_trips: usize) -> Outcome<()> {
    let (switch, [a, b]) = network(folder)?;
    let probability = Probability::new(0.001).ok_or("no probability")?;
    switch.set_fault(Fault::Loss { probability }, "loss", &LinkSelection::one_way(["a"], ["b"]))?;
    // Round trips would wait for what is lost.
    let (rate, _) = measure(a, b, time, 0)?;
    // The next one has the same sockets.
    drop(switch);
    println!("  with a loss of 0.1 % {rate:.0} Mbit/s");
    let (switch, [a, b]) = network(folder)?;
    let path = folder.join("network.pcapng");
    switch.start_capture(&CaptureOptions { path: path.clone(), limit: 8 << 30, snap_length: 96 })?;
    let (rate, trip) = measure(a, b, time, round_trips)?;
    let summary = switch.stop_capture()?.ok_or("there was no recording")?;
    println!("  recorded (96 bytes a frame, {} missed) {rate:.0} Mbit/s, {trip:.1} µs", summary.missed);
    fs::remove_file(path)?;
    Ok(())
}

fn setting(name: &str, default: u64) -> Outcome<u64> {
    match std::env::var(name) {
        Ok(text) => Ok(text.parse().map_err(|_| format!("{name}=`{text}` is not a number"))?),
        Err(_) => Ok(default),
    }
}

/// Of both directions' ends: Mbit/s, and microseconds.
#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    trips: Vec<f64>,
}

impl Measured {
    fn take(&mut self, pair: u64, (rate, trip): (f64, f64)) {
        if pair > 0 {
            self.rates.push(rate);
            self.trips.push(trip);
        }
    }

    fn print(&self, name: &str) {
        let (rates, trips) = (Spread::of(self.rates.clone()), Spread::of(self.trips.clone()));
        println!(
            "  {name:<10} median {:.0} Mbit/s, {:.0} to {:.0}; round trip median {:.1} µs, {:.1} to {:.1}",
            rates.median, rates.least, rates.most, trips.median, trips.least, trips.most
        );
    }
}

/// A machine's network backend, as QEMU has them.
trait Backend: Send {
    fn send(&mut self, frame: &[u8]) -> Outcome<()>;
    /// Reads once and gives how many frames came and the bytes in them; none at the end.
    fn receive(&mut self) -> Outcome<(u64, u64)>;
    fn duplicate(&self) -> Outcome<Box<dyn Backend>>;
    fn shut_down(&self) -> Outcome<()>;
}

struct Stream {
    socket: UnixStream,
    buffer: Vec<u8>,
    kept: usize,
}

impl Stream {
    fn new(socket: UnixStream) -> Self {
        Self { socket, buffer: vec![0; READ + HEADER], kept: 0 }
    }
}

impl Backend for Stream {
    fn send(&mut self, frame: &[u8]) -> Outcome<()> {
        let length = (frame.len() as u32).to_be_bytes();
        let total = HEADER + frame.len();
        let sent = self.socket.write_vectored(&[IoSlice::new(&length), IoSlice::new(frame)])?;
        if sent < total {
            let whole = [&length[..], frame].concat();
            self.socket.write_all(&whole[sent..])?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Outcome<(u64, u64)> {
        loop {
            let count = self.socket.read(&mut self.buffer[self.kept..])?;
            let end = self.kept + count;
            let (mut at, mut frames, mut bytes) = (0, 0, 0);
            while let Item::Frame(range) = item_at(&self.buffer[..end], at) {
                frames += 1;
                bytes += (range.len() - HEADER) as u64;
                at = range.end;
            }
            self.buffer.copy_within(at..end, 0);
            self.kept = end - at;
            if frames > 0 || count == 0 {
                return Ok((frames, bytes));
            }
        }
    }

    fn duplicate(&self) -> Outcome<Box<dyn Backend>> {
        Ok(Box::new(Self::new(self.socket.try_clone()?)))
    }

    fn shut_down(&self) -> Outcome<()> {
        Ok(self.socket.shutdown(std::net::Shutdown::Both)?)
    }
}

/// Two machines' backends.
type Ends = [Box<dyn Backend>; 2];

fn network(folder: &Path) -> Outcome<(Switch, Ends)> {
    let switch = Switch::start(&SwitchOptions::new("bench", 1), |_| ())?;
    let connect = |name: &str| -> Outcome<Box<dyn Backend>> {
        let path = folder.join(name);
        switch.listen(name, &path)?;
        Ok(Box::new(Stream::new(UnixStream::connect(&path)?)))
    };
    let ends = [connect("a")?, connect("b")?];
    Ok((switch, ends))
}

/// What the sockets alone cost: a thread that takes what has come from one and gives it to the other. It ends with them.
fn relay() -> Outcome<Ends> {
    let ((a, at_a), (b, at_b)) = (UnixStream::pair()?, UnixStream::pair()?);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let mut waited = [PollFd::new(&at_a, PollFlags::IN), PollFd::new(&at_b, PollFlags::IN)];
            if poll(&mut waited, None).is_err() {
                return;
            }
            let ready = waited.map(|waited| !waited.revents().is_empty());
            for (ready, from, to) in [(ready[0], &at_a, &at_b), (ready[1], &at_b, &at_a)] {
                let (mut from, mut to) = (from, to);
                if ready {
                    match from.read(&mut buffer) {
                        Ok(count) if count > 0 && to.write_all(&buffer[..count]).is_ok() => {}
                        _ => return,
                    }
                }
            }
        }
    });
    Ok([Box::new(Stream::new(a)), Box::new(Stream::new(b))])
}

/// A running `vde_switch`.
struct Vde {
    child: Child,
    folder: std::path::PathBuf,
}

impl Vde {
    /// `None` where it is not installed.
    fn start(folder: &Path) -> Outcome<Option<Self>> {
        let folder = folder.join("vde");
        let mut command = Command::new("vde_switch");
        // It ends with its standard input, and says on its standard output when it is ready.
        command.arg("-s").arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        child.stdin.as_mut().ok_or("no standard input")?.write_all(b"showinfo\n")?;
        let output = child.stdout.as_mut().ok_or("no standard output")?;
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("Success") {
            let mut byte = [0];
            if output.read(&mut byte)? == 0 {
                return Err(format!("vde_switch ended: {}", String::from_utf8_lossy(&seen)).into());
            }
            seen.extend_from_slice(&byte);
        }
        Ok(Some(Self { child, folder }))
    }

    /// What libvdeplug does: announces a datagram socket on the control socket and is told where to send.
    fn connect(&self, name: &str) -> Outcome<Box<dyn Backend>> {
        let own = self.folder.join(format!("client-{name}"));
        let _ = fs::remove_file(&own);
        let socket = UnixDatagram::bind(&own)?;
        let mut control = UnixStream::connect(self.folder.join("ctl"))?;
        let mut request = Vec::new();
        request.extend_from_slice(&0xfeed_face_u32.to_ne_bytes());
        request.extend_from_slice(&3u32.to_ne_bytes());
        request.extend_from_slice(&0u32.to_ne_bytes());
        let address = |path: &Path| -> Vec<u8> {
            let mut bytes = 1u16.to_ne_bytes().to_vec();
            bytes.extend_from_slice(path.as_os_str().as_encoded_bytes());
            bytes.resize(110, 0);
            bytes
        };
        request.extend_from_slice(&address(&own));
        request.extend_from_slice(b"bench\0");
        control.write_all(&request)?;
        let mut answer = [0; 110];
        let count = control.read(&mut answer)?;
        let path = answer[2..count].split(|byte| *byte == 0).next().ok_or("no address")?;
        socket.connect(Path::new(std::str::from_utf8(path)?))?;
        Ok(Box::new(Datagram { socket, control: Arc::new(control), buffer: vec![0; READ] }))
    }
}

impl Drop for Vde {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Datagram {
    socket: UnixDatagram,
    /// The port is there for as long as this is connected.
    control: Arc<UnixStream>,
    buffer: Vec<u8>,
}

impl Backend for Datagram {
    fn send(&mut self, frame: &[u8]) -> Outcome<()> {
        self.socket.send(frame)?;
        Ok(())
    }

    fn receive(&mut self) -> Outcome<(u64, u64)> {
        let count = self.socket.recv(&mut self.buffer)?;
        Ok((u64::from(count > 0), count as u64))
    }

    fn duplicate(&self) -> Outcome<Box<dyn Backend>> {
        Ok(Box::new(Self { socket: self.socket.try_clone()?, control: self.control.clone(), buffer: vec![0; READ] }))
    }

    fn shut_down(&self) -> Outcome<()> {
        Ok(self.socket.shutdown(std::net::Shutdown::Both)?)
    }
}

/// Mbit/s of large frames one way, as they arrive, and the median round trip of small ones in microseconds.
fn measure(mut a: Box<dyn Backend>, mut b: Box<dyn Backend>, time: Duration, trips: usize) -> Outcome<(f64, f64)> {
    let frame = |to: u8, from: u8, length: usize| {
        let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
        bytes.resize(length, 0);
        bytes
    };
    // Both are known before anything counts.
    a.send(&frame(2, 1, SMALL))?;
    b.receive()?;
    b.send(&frame(1, 2, SMALL))?;
    a.receive()?;
    let mut times = Vec::with_capacity(trips);
    std::thread::scope(|scope| {
        let mut echo = b.duplicate()?;
        let echoing = scope.spawn(move || -> Result<(), String> {
            for _ in 0..trips {
                echo.receive().map_err(|error| error.to_string())?;
                echo.send(&frame(1, 2, SMALL)).map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        for _ in 0..trips {
            let start = Instant::now();
            a.send(&frame(2, 1, SMALL))?;
            a.receive()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        echoing.join().map_err(|_| "the echo panicked")??;
        Outcome::Ok(())
    })?;
    let (received, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let ends = [a.duplicate()?, b.duplicate()?];
    let rate = std::thread::scope(|scope| {
        let (counted, done) = (received.clone(), over.clone());
        scope.spawn(move || {
            let large = frame(2, 1, LARGE);
            while !done.load(Ordering::Relaxed) && a.send(&large).is_ok() {}
        });
        scope.spawn(move || {
            while let Ok((frames, bytes)) = b.receive()
                && frames > 0
            {
                counted.fetch_add(bytes, Ordering::Relaxed);
            }
        });
        // What is measured is a stretch of time in the middle, not beginning and end.
        std::thread::sleep(time / 10);
        let (start, before) = (Instant::now(), received.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let bytes = received.load(Ordering::Relaxed) - before;
        let seconds = start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        for end in &ends {
            end.shut_down()?;
        }
        Outcome::Ok(bytes as f64 * 8.0 / seconds / 1e6)
    })?;
    Ok((rate, if times.is_empty() { 0.0 } else { Spread::of(times).median }))
}
