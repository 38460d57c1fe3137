//! Every way into a guest, held to the same: one suite over `dyn Channel`, against one real guest that all of them lead into.
//!
//! A way is added by a line in `WAYS` and in `ways`, and by what its image and its guest need in `support/ways.rs`.

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bootproof::channel::{Channel, ChannelError, CommandOutput, ExecRequest, ExitStatus, RefusalReason};
use bootproof::lane::model::DebianImage;
use sha2::{Digest, Sha256};
use support::expect_status;
use support::own_lane::OwnLane;
use support::ways::{Guest, LONG, PASSWORD, Ways};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// What is sent each way, in bytes: a serial port of QEMU's carries less than 1 MB/s.
const WAYS: [(&str, u64); 5] = [
    ("agent", 100_000_000),
    ("backdoor", 100_000_000),
    ("serial", 1_000_000),
    ("ssh", 100_000_000),
    ("guest-agent", 100_000_000),
];

async fn ways(guest: &Guest) -> Ways {
    Ways::from([
        ("agent", guest.agent().await),
        ("backdoor", guest.backdoor("backdoor", LONG).await),
        ("serial", guest.login("login", PASSWORD).await),
        ("ssh", guest.ssh()),
        ("guest-agent", guest.guest_agent().await),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_into_a_guest_does_the_same() {
    let mut guest = Guest::boot().await;
    let ways = ways(&guest).await;
    let nobody = guest.backdoor("nobody", Duration::from_secs(5)).await;
    let wrong = guest.login("wrong-login", "wrong horse").await;
    guest.go().await;
    for (name, bulk) in WAYS {
        let way = Way { name, channel: ways[name].as_ref() };
        let began = Instant::now();
        if let Err(error) = timeout(LONG, way.channel.ready()).await.expect("it greets or says why not") {
            panic!("{name}: {error}\n{}", guest.console());
        }
        eprintln!("{name}: ready after {:.1} s", began.elapsed().as_secs_f64());
        way.tells_how_commands_end().await;
        way.keeps_bytes_and_streams_apart().await;
        way.ends_what_is_cancelled().await;
        way.carries_files().await;
        way.runs_many_commands().await;
        way.carries_bulk(bulk).await;
    }
    let error = timeout(LONG, nobody.ready()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::NeverGreeted { .. }), "{error}");
    let error = timeout(LONG, wrong.ready()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::Authentication { .. }), "{error}");
    assert!(!error.to_string().contains("horse"), "a password is told to nobody: {error}");
    ends_with_its_guest(&mut guest, &ways).await;
}

/// Whoever waits for a guest that dies is told at once.
async fn ends_with_its_guest(guest: &mut Guest, ways: &Ways) {
    let mut waiting = Vec::new();
    for (name, _) in WAYS {
        let mut command = ways[name].exec(ExecRequest::new(["sleep", "1000"])).await.unwrap();
        let mut stdout = command.stdout.take().unwrap();
        waiting.push(tokio::spawn(async move {
            let read = stdout.read_u8().await.unwrap_err();
            (name, read.kind(), command.wait().await)
        }));
    }
    guest.kill();
    let began = Instant::now();
    for waiting in waiting {
        let (name, read, waited) = timeout(LONG, waiting).await.unwrap().unwrap();
        assert_eq!(read, ErrorKind::ConnectionAborted, "{name}");
        assert!(matches!(waited, Err(ChannelError::Closed { .. } | ChannelError::Lost { .. })), "{name}: {waited:?}");
    }
    for (name, channel) in ways {
        let error = channel.exec(ExecRequest::new(["true"])).await.err();
        assert!(error.is_some() && channel.ready().await.is_err(), "{name}: a dead guest runs nothing");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

struct Way<'a> {
    name: &'static str,
    channel: &'a dyn Channel,
}

fn shell(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script])
}

/// So many bytes that no compression and no period hides, in an order of their own.
struct Bytes {
    left: u64,
    state: u64,
}

impl Bytes {
    fn new(count: u64) -> Self {
        Self { left: count, state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
    }

    fn collect(count: usize) -> Vec<u8> {
        let mut all = vec![0; count];
        Self::new(0).fill(&mut all);
        all
    }
}

/// Passes bytes on and digests them.
struct Digested<'a> {
    bytes: Bytes,
    digest: &'a std::sync::Mutex<Sha256>,
}

impl AsyncRead for Digested<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let count = buffer.remaining().min(usize::try_from(self.bytes.left).unwrap_or(usize::MAX));
        let mut chunk = vec![0; count];
        self.bytes.fill(&mut chunk);
        self.bytes.left -= count as u64;
        self.digest.lock().unwrap().update(&chunk);
        buffer.put_slice(&chunk);
        std::task::Poll::Ready(Ok(()))
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Way<'_> {
    #[track_caller]
    fn expect(&self, holds: bool, what: &str) {
        assert!(holds, "{}: {what}", self.name);
    }

    async fn run(&self, request: ExecRequest) -> CommandOutput {
        let what = format!("{}: {:?}", self.name, request.argv);
        let command = timeout(LONG, self.channel.exec(request)).await.expect(&what);
        let command = command.unwrap_or_else(|error| panic!("{what}: {error}"));
        timeout(LONG, command.output(64 << 20)).await.expect(&what).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    async fn tells_how_commands_end(&self) {
        for code in [0, 1, 77, 255] {
            let output = self.run(shell(&format!("exit {code}"))).await;
            assert_eq!(output.status, ExitStatus::Code(code), "{}", self.name);
        }
        for signal in [9, 15] {
            let output = self.run(shell(&format!("kill -{signal} $$"))).await;
            // A way that is told no more than a status tells the signal by that.
            assert_eq!(output.status.shell_code(), 128 + signal, "{}", self.name);
        }
        let request = ExecRequest {
            environment: [("COLOUR".into(), "blue green'".into())].into(),
            directory: Some("/usr/bin".into()),
            ..shell("printf '%s %s' \"$COLOUR\" \"$PWD\"")
        };
        self.expect(self.run(request).await.stdout == b"blue green' /usr/bin", "environment and directory");
        let words = ["printf", "%s|", "", "a b", "it's", "two\nlines", "$HOME `x` \\ \"", "*"];
        let output = self.run(ExecRequest::new(words)).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "|a b|it's|two\nlines|$HOME `x` \\ \"|*|", "{}", self.name);
        match self.channel.exec(ExecRequest::new(["no-such-program"])).await {
            Err(error) => self.expect(error.is_refused(RefusalReason::NotFound), &error.to_string()),
            Ok(command) => {
                let output = timeout(LONG, command.output(1 << 10)).await.unwrap().unwrap();
                assert_eq!(output.status, ExitStatus::Code(127), "{}: as a shell says it", self.name);
            }
        }
    }

    async fn keeps_bytes_and_streams_apart(&self) {
        let sent = Bytes::collect(200_000);
        let request = ExecRequest { stdin: true, ..shell("tee /dev/fd/2") };
        let mut command = self.channel.exec(request).await.unwrap();
        let mut stdin = command.stdin.take().unwrap();
        let feed = async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let ((), output) = timeout(LONG, async { tokio::join!(feed, command.output(1 << 20)) }).await.unwrap();
        let output = output.unwrap();
        self.expect(output.stdout == sent, "what comes back on standard output is what was sent");
        self.expect(output.stderr == sent, "what comes back on standard error is what was sent");
        let output = self.run(shell("printf out; printf err >&2")).await;
        self.expect((&*output.stdout, &*output.stderr) == (b"out", b"err"), "each on its own");
        let output = self.run(ExecRequest::new(["cat"])).await;
        self.expect(output.stdout.is_empty() && output.status.success(), "no standard input is an empty one");
    }

    async fn ends_what_is_cancelled(&self) {
        let mut command = self.channel.exec(shell("sleep 98765 & echo $!; wait")).await.unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(timeout(LONG, command.stdout.as_mut().unwrap().read_u8()).await.unwrap().unwrap());
        }
        command.cancel();
        let waited = timeout(LONG, command.wait()).await.unwrap();
        self.expect(waited.is_err() || waited.is_ok_and(|status| !status.success()), "a cancelled command fails");
        drop(command);
        // The next command is asked for after the end; whatever is still dying then is waited for, in the guest.
        let pid = String::from_utf8(line).unwrap();
        let gone = format!("tail --pid={} -f /dev/null -s 0.1; ! pgrep -f 'sleep 9876[5]'", pid.trim());
        let output = self.run(shell(&gone)).await;
        self.expect(output.status.success(), &format!("it still runs: {output:?}"));
    }

    async fn carries_files(&self) {
        let sent = Bytes::collect(300_000);
        let path = format!("/tmp/a file of {}", self.name);
        let source = Box::new(std::io::Cursor::new(sent.clone()));
        let written = timeout(LONG, self.channel.write_file(&path, 0o4751, source)).await.unwrap();
        assert_eq!(written, Ok(300_000), "{}", self.name);
        let mut file = self.channel.read_file(&path).await.unwrap();
        let mut read = Vec::new();
        timeout(LONG, file.reader.read_to_end(&mut read)).await.unwrap().unwrap();
        self.expect(read == sent, "a file comes back as it went");
        assert_eq!(file.mode, 0o4751, "{}", self.name);
        let error = self.channel.read_file("/no/such/file").await.err().unwrap();
        self.expect(error.is_refused(RefusalReason::NotFound), &error.to_string());
        let error = self.channel.write_file("/no/such/file", 0o600, Box::new(tokio::io::empty())).await.err().unwrap();
        self.expect(error.is_refused(RefusalReason::NotFound), &error.to_string());
    }

    async fn runs_many_commands(&self) {
        let began = Instant::now();
        for index in 0..50 {
            let output = self.run(ExecRequest::new(["/bin/echo", &index.to_string()])).await;
            self.expect(output.stdout == format!("{index}\n").as_bytes(), "one after another");
        }
        let each = began.elapsed().as_secs_f64() * 1000.0 / 50.0;
        let at_once = (0..8).map(|index| self.run(ExecRequest::new(["/bin/echo".to_owned(), index.to_string()])));
        for (index, output) in futures_util::future::join_all(at_once).await.into_iter().enumerate() {
            self.expect(output.stdout == format!("{index}\n").as_bytes(), "at once");
        }
        eprintln!("{}: {each:.1} ms for one command after another", self.name);
    }

    async fn carries_bulk(&self, count: u64) {
        let digest = std::sync::Mutex::new(Sha256::new());
        let mut source = Digested { bytes: Bytes::new(count), digest: &digest };
        let began = Instant::now();
        let request = ExecRequest { stdin: true, ..shell("cat >/tmp/bulk") };
        let mut command = self.channel.exec(request).await.unwrap();
        let mut stdin = command.stdin.take().unwrap();
        let feed = async {
            assert_eq!(tokio::io::copy(&mut source, &mut stdin).await.unwrap(), count);
            stdin.shutdown().await.unwrap();
        };
        let ((), status) = timeout(LONG, async { tokio::join!(feed, command.wait()) }).await.unwrap();
        assert_eq!(status, Ok(ExitStatus::Code(0)), "{}", self.name);
        let into = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let mut command = self.channel.exec(ExecRequest::new(["cat", "/tmp/bulk"])).await.unwrap();
        let mut stdout = command.stdout.take().unwrap();
        let mut back = Sha256::new();
        let read = async {
            let mut chunk = vec![0; 64 << 10];
            loop {
                match stdout.read(&mut chunk).await.unwrap() {
                    0 => return,
                    count => back.update(&chunk[..count]),
                }
            }
        };
        let ((), status) = timeout(LONG, async { tokio::join!(read, command.wait()) }).await.unwrap();
        assert_eq!(status, Ok(ExitStatus::Code(0)), "{}", self.name);
        let out = began.elapsed().as_secs_f64();
        self.expect(hex(back) == hex(digest.into_inner().unwrap()), "what went in comes out");
        self.run(ExecRequest::new(["rm", "/tmp/bulk"])).await;
        eprintln!("{}: {count} bytes in {into:.1} s into the guest, {out:.1} s out of it", self.name);
    }
}

#[test]
fn a_lane_goes_through_the_way_that_its_machine_names() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ways");
    let DebianImage { suite, packages, commands, .. } = support::ways::image();
    let lane = OwnLane::new(&format!(
        "[secrets]\npassword = {{ file = \"password\" }}\n\
         [images.ways]\ndebian = {{ suite = {suite:?}, packages = {packages:?}, files = {fixture:?}, commands = {commands:?} }}\n\
         [machines.door]\nimage = \"ways\"\nmemory = \"512MiB\"\nchannel = \"backdoor\"\n\
         [machines.login]\nimage = \"ways\"\nmemory = \"512MiB\"\n\
         channel = {{ serial = {{ password = \"${{secret:password}}\" }} }}\n\
         [machines.server]\nimage = \"ways\"\nmemory = \"512MiB\"\nchannel = \"ssh\"\n\
         [machines.asked]\nimage = \"ways\"\nmemory = \"512MiB\"\nchannel = \"guest-agent\"\n\
         [[steps]]\nwithin = \"180s\"\nexec = {{ argv = [\"sh\", \"-c\", \"id -un; pwd\"], stdout = {{ equals = \"root\\n/\" }} }}\n\
         gate = {{ name = \"in\" }}\n\
         [[steps]]\ncopy = {{ from = \"input\", to = \"guest:/tmp/copied\" }}\n\
         [[steps]]\nexec = {{ argv = [\"cat\"], stdin = \"${{secret:password}}\", stdout = {{ matches = \"^..secret:password.$\" }} }}\n\
         [[steps]]\ncopy = {{ from = \"guest:/tmp/copied\", to = \"output\" }}\ngate = {{ name = \"out\" }}\n"
    ));
    let input = Bytes::collect(100_000);
    std::fs::write(lane.folder.path().join("input"), &input).unwrap();
    std::fs::write(lane.folder.path().join("password"), PASSWORD).unwrap();
    expect_status(&lane.run(&[]), 0);
    lane.sealed_result();
    for machine in ["door", "login", "server", "asked"] {
        let output = std::fs::read(lane.proof().join("artifacts").join(machine).join("output")).unwrap();
        assert!(output == input, "{machine}: a file comes back as it went");
    }
    let found = std::process::Command::new("grep").args(["-rl", PASSWORD]).arg(lane.proof()).output().unwrap();
    // The recipe of the image names it: that is the test's own doing.
    let found = String::from_utf8(found.stdout).unwrap();
    let told: Vec<&str> =
        found.lines().filter(|file| !file.ends_with("lane.json") && !file.ends_with("plan.json")).collect();
    assert!(told.is_empty(), "the password stands in {told:?}");
    let found = std::process::Command::new("grep").args(["-rl", "PRIVATE KEY"]).arg(lane.proof()).output().unwrap();
    assert!(found.stdout.is_empty(), "a private key stands in {}", String::from_utf8_lossy(&found.stdout));
    lane.expect_nothing_left();
}
