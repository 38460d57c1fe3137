//! The multiplexer in the shells that this host has, on a terminal of its own; and what a line may do that no shell does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command as HostCommand, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::wire::{Decoder, Said};
use super::{Answer, Greeting, LineChannel, LineOptions};
use crate::channel::{Channel, ChannelError, CommandOutput, ExecRequest, ExitStatus, RefusalReason};
use crate::lane::model::ChannelKind;

/// Far longer than anything here takes; only so that a test that hangs says so.
const LONG: Duration = Duration::from_secs(60);

/// A program on a terminal, as it would be in a guest.
struct Terminal {
    channel: LineChannel,
    child: Child,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its shell takes along what it has begun, and takes away what it has made.
        let process = rustix::process::Pid::from_child(&self.child);
        if let Ok(watched) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) {
            let _ = rustix::process::pidfd_send_signal(&watched, rustix::process::Signal::HUP);
            // Nobody reads what it says any more: it may be stuck in saying it.
            ends(&watched, Duration::from_secs(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a process has ended.
fn ends(process: &OwnedFd, within: Duration) -> bool {
    let mut wait = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut wait, Some(&within.try_into().unwrap())).unwrap() == 1
}

fn options(greeting: Greeting) -> LineOptions {
    LineOptions {
        kind: ChannelKind::Backdoor,
        device: "hvc0".into(),
        greeting,
        within: LONG,
        input_chunk: LineOptions::VIRTIO_CHUNK,
    }
}

impl Terminal {
    /// Runs `script` with the terminal as its standard streams and as `$0`.
    fn start(script: &str, options: LineOptions) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        let mut child = HostCommand::new("setsid");
        child.args(["sh", "-c", script, &name]).stdin(open()).stdout(open()).stderr(Stdio::null());
        let child = child.spawn().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut from_host, mut to_host) = (theirs.try_clone().unwrap(), theirs);
        let mut to_shell = File::from(master);
        let mut from_shell = File::from(OwnedFd::from(to_shell.try_clone().unwrap()));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_host, &mut to_shell);
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from_shell.read(&mut bytes) {
                if to_host.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            // The last one that had the terminal open is gone: so is the machine.
            let _ = to_host.shutdown(std::net::Shutdown::Both);
        });
        ours.set_nonblocking(true).unwrap();
        Self { channel: LineChannel::start(tokio::net::UnixStream::from_std(ours).unwrap(), options), child }
    }

    /// As `test-instrumentation.nix` does it.
    fn backdoor(shell: &str) -> Self {
        let script = format!("stty raw -echo; echo 'Spawning backdoor root shell...'; PS1= exec {shell}");
        Self::start(&script, options(Greeting::Backdoor))
    }

    async fn run(&self, argv: &[&str]) -> Result<CommandOutput, ChannelError> {
        let command = self.channel.exec(ExecRequest::new(argv.iter().copied())).await?;
        timeout(LONG, command.output(1 << 20)).await.unwrap()
    }
}

/// The shells that there are, each as the backdoor begins it.
fn shells() -> Vec<String> {
    let mut shells = Vec::new();
    for (program, line) in [("dash", "dash"), ("bash", "bash --norc \"$0\""), ("busybox", "busybox sh")] {
        let found = HostCommand::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        if found.status.success() {
            shells.push(line.to_owned());
        } else {
            eprintln!("skipped: there is no `{program}` on this host");
        }
    }
    shells
}

fn bytes(count: usize) -> Vec<u8> {
    // Every byte, in an order that no period of a buffer hides.
    (0..count).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn commands_run_in_every_shell_as_they_are_meant() {
    for shell in shells() {
        let terminal = Terminal::backdoor(&shell);
        timeout(LONG, terminal.channel.ready()).await.unwrap().unwrap();
        let output = terminal.run(&["sh", "-c", "printf out; printf err >&2; exit 7"]).await.unwrap();
        assert_eq!((output.status, &*output.stdout, &*output.stderr), (ExitStatus::Code(7), &b"out"[..], &b"err"[..]));
        let output = terminal.run(&["sh", "-c", "kill -KILL $$"]).await.unwrap();
        assert_eq!(output.status, ExitStatus::Signal(9), "{shell}");
        let words = ["printf", "%s|", "", "a b", "it's", "two\nlines", "$HOME `x` \\ \"", "*"];
        let output = terminal.run(&words).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "|a b|it's|two\nlines|$HOME `x` \\ \"|*|", "{shell}");
        let request = ExecRequest {
            environment: [("COLOUR".into(), "blue green'".into())].into(),
            directory: Some("/usr".into()),
            ..ExecRequest::new(["sh", "-c", "echo $COLOUR; pwd; umask; cat"])
        };
        let output = terminal.channel.exec(request).await.unwrap().output(1 << 20).await.unwrap();
        let (umask, _) = (rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022)), ());
        rustix::process::umask(umask);
        let expected = format!("blue green'\n/usr\n{:04o}\n", umask.bits());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{shell}");
        for (argv, reason) in [
            (["no-such-program"], RefusalReason::NotFound),
            (["/no/such"], RefusalReason::NotFound),
            (["/etc/passwd"], RefusalReason::PermissionDenied),
            (["/etc"], RefusalReason::PermissionDenied),
            (["a\0b"], RefusalReason::Invalid),
        ] {
            let error = terminal.channel.exec(ExecRequest::new(argv)).await.err().unwrap();
            assert!(error.is_refused(reason), "{shell}: {argv:?}: {error}");
        }
        let nowhere = ExecRequest { directory: Some("/no/such".into()), ..ExecRequest::new(["true"]) };
        let error = terminal.channel.exec(nowhere).await.err().unwrap();
        assert!(error.is_refused(RefusalReason::NotFound), "{error}");
    }
}

#[tokio::test]
async fn bytes_go_both_ways_unchanged_and_at_the_same_time() {
    let sent = bytes(1_500_000);
    for shell in shells() {
        let terminal = Terminal::backdoor(&shell);
        terminal.channel.ready().await.unwrap();
        let echo = async || {
            let request = ExecRequest { stdin: true, ..ExecRequest::new(["sh", "-c", "tee /dev/stderr"]) };
            let mut command = terminal.channel.exec(request).await.unwrap();
            let mut stdin = command.stdin.take().unwrap();
            let feed = async {
                stdin.write_all(&sent).await.unwrap();
                stdin.shutdown().await.unwrap();
            };
            let ((), output) = tokio::join!(feed, command.output(1 << 24));
            let output = output.unwrap();
            assert!(output.stdout == sent && output.stderr == sent, "{shell}");
        };
        timeout(LONG, async { tokio::join!(echo(), echo()) }).await.unwrap();
        // A command that does not read what it is given.
        let request = ExecRequest { stdin: true, ..ExecRequest::new(["true"]) };
        let mut command = terminal.channel.exec(request).await.unwrap();
        let mut stdin = command.stdin.take().unwrap();
        let feed = async { stdin.write_all(&sent).await.unwrap_err().kind() };
        let (broken, status) = timeout(LONG, async { tokio::join!(feed, command.wait()) }).await.unwrap();
        assert_eq!((broken, status), (std::io::ErrorKind::BrokenPipe, Ok(ExitStatus::Code(0))), "{shell}");
    }
}

#[tokio::test]
async fn what_a_command_says_comes_while_it_runs_and_nobody_waits_for_a_slow_reader() {
    for shell in shells() {
        let terminal = Terminal::backdoor(&shell);
        terminal.channel.ready().await.unwrap();
        let request =
            ExecRequest { stdin: true, ..ExecRequest::new(["sh", "-c", "while read a; do echo got $a; done"]) };
        let mut slow = terminal.channel.exec(ExecRequest::new(["head", "-c", "3000000", "/dev/zero"])).await.unwrap();
        let mut command = terminal.channel.exec(request).await.unwrap();
        let (mut stdin, mut stdout) = (command.stdin.take().unwrap(), command.stdout.take().unwrap());
        for word in ["one", "two"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
            let mut answer = vec![0; 8];
            timeout(LONG, stdout.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(answer, format!("got {word}\n").as_bytes(), "{shell}");
        }
        drop((stdin, stdout));
        assert_eq!(command.wait().await, Ok(ExitStatus::Code(0)), "{shell}");
        let mut all = Vec::new();
        timeout(LONG, slow.stdout.take().unwrap().read_to_end(&mut all)).await.unwrap().unwrap();
        assert_eq!(all.len(), 3_000_000);
        // Nobody reads this at all.
        let unread = terminal.channel.exec(ExecRequest::new(["head", "-c", "3000000", "/dev/zero"])).await.unwrap();
        let mut unread = unread;
        drop(unread.stdout.take());
        assert_eq!(timeout(LONG, unread.wait()).await.unwrap(), Ok(ExitStatus::Code(0)), "{shell}");
    }
}

#[tokio::test]
async fn a_command_that_is_dropped_is_killed_with_its_group() {
    for shell in shells() {
        let terminal = Terminal::backdoor(&shell);
        terminal.channel.ready().await.unwrap();
        let mut command =
            terminal.channel.exec(ExecRequest::new(["sh", "-c", "sleep 1000 & echo $!; wait"])).await.unwrap();
        let mut number = Vec::new();
        let stdout = command.stdout.as_mut().unwrap();
        while number.last() != Some(&b'\n') {
            number.push(timeout(LONG, stdout.read_u8()).await.unwrap().unwrap());
        }
        let pid: i32 = String::from_utf8(number).unwrap().trim().parse().unwrap();
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        drop(command);
        let ended = tokio::task::spawn_blocking(move || ends(&process, LONG));
        assert!(ended.await.unwrap(), "{shell}: process {pid} still runs");
        for _ in 0..20 {
            assert!(terminal.run(&["true"]).await.unwrap().status.success(), "{shell}");
        }
    }
}

#[tokio::test]
async fn files_go_both_ways_with_their_permissions_or_not_at_all() {
    for shell in shells() {
        let terminal = Terminal::backdoor(&shell);
        terminal.channel.ready().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        let path = path.to_str().unwrap();
        let sent = bytes(300_000);
        let channel = &terminal.channel;
        let written = channel.write_file(path, 0o4751, Box::new(std::io::Cursor::new(sent.clone()))).await;
        assert_eq!(written, Ok(300_000), "{shell}");
        let mut file = channel.read_file(path).await.unwrap();
        let mut read = Vec::new();
        file.reader.read_to_end(&mut read).await.unwrap();
        assert!(read == sent && file.mode == 0o4751, "{shell}: {:o}", file.mode);
        let failing = tokio_util::io::StreamReader::new(futures_util::stream::iter([
            Ok(bytes::Bytes::from_static(b"half")),
            Err(std::io::Error::other("the disk is on fire")),
        ]));
        let error = channel.write_file(path, 0o600, Box::new(failing)).await.unwrap_err();
        assert!(matches!(error, ChannelError::Source { .. }), "{shell}: {error}");
        let names = async || {
            // What is left is taken away by a command of its own, which is over when this one is.
            let folder = folder.path().to_str().unwrap();
            String::from_utf8(terminal.run(&["ls", "-A", folder]).await.unwrap().stdout).unwrap()
        };
        let mut left = names().await;
        while left.contains(".bootproof") {
            left = names().await;
        }
        assert_eq!(left, "a file\n", "{shell}");
        assert_eq!(std::fs::read(path).unwrap(), sent, "{shell}");
        let refused = [
            (channel.read_file("/no/such").await.err(), RefusalReason::NotFound),
            (channel.read_file("/etc").await.err(), RefusalReason::Invalid),
            (channel.write_file("/no/such", 0o600, Box::new(tokio::io::empty())).await.err(), RefusalReason::NotFound),
            (channel.write_file("/etc", 0o600, Box::new(tokio::io::empty())).await.err(), RefusalReason::Invalid),
        ];
        for (error, reason) in refused {
            assert!(error.as_ref().is_some_and(|error| error.is_refused(reason)), "{shell}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_shell_or_a_machine_that_goes_away_is_told_at_once() {
    let terminal = Terminal::backdoor("dash");
    terminal.channel.ready().await.unwrap();
    let command = terminal.channel.exec(ExecRequest::new(["sleep", "1000"])).await.unwrap();
    terminal.channel.forget_session("the machine was reset");
    let lost = ChannelError::Lost { reason: "the machine was reset".into() };
    assert_eq!(timeout(LONG, command.wait()).await.unwrap(), Err(lost));
    let error = terminal.channel.exec(ExecRequest::new(["true"])).await.err().unwrap();
    assert_eq!(error, ChannelError::NotReady, "the next greeting has not come");

    let terminal = Terminal::backdoor("dash");
    terminal.channel.ready().await.unwrap();
    // As a service is stopped.
    let command = terminal.channel.exec(ExecRequest::new(["sleep", "1000"])).await.unwrap();
    let shell = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(shell, rustix::process::Signal::HUP).unwrap();
    let lost = ChannelError::Lost { reason: "its shell in the guest has ended".into() };
    assert_eq!(timeout(LONG, command.wait()).await.unwrap(), Err(lost));
}

fn login(password: &str) -> Greeting {
    let answer = |expect: &str, send: &str| Answer { expect: expect.into(), send: Zeroizing::new(send.into()) };
    Greeting::Dialogue {
        answers: vec![answer("login: ", "root"), answer("assword: ", password)],
        prompts: vec!["# ".into(), "$ ".into()],
        refusals: vec!["Login incorrect".into()],
    }
}

/// As `agetty` and `login` ask.
const GETTY: &str = "printf '\\nDebian GNU/Linux 12 m ttyS1\\n\\nm login: '; read user; stty -echo; printf 'Password: '; \
                     read word; stty echo; echo; [ \"$user $word\" = 'root right one' ] || { echo 'Login incorrect'; \
                     printf 'm login: '; read again; }; PS1='root@m:~# ' exec bash --norc -i 2>&1";

#[tokio::test]
async fn a_login_leads_to_a_shell_and_a_wrong_password_nowhere() {
    let terminal = Terminal::start(GETTY, options(login("right one")));
    timeout(LONG, terminal.channel.ready()).await.unwrap().unwrap();
    assert_eq!(terminal.run(&["echo", "in"]).await.unwrap().stdout, b"in\n");
    let terminal = Terminal::start(GETTY, options(login("wrong one")));
    let error = timeout(LONG, terminal.channel.ready()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::Authentication { .. }), "{error}");
    assert!(!format!("{error:?}{:?}", login("wrong one")).contains("wrong one"), "a password is told to nobody");
}

#[tokio::test]
async fn who_never_greets_is_told_within_the_bound() {
    let short = LineOptions { within: Duration::from_millis(300), ..options(Greeting::Backdoor) };
    let terminal = Terminal::start("printf 'm login: '; read a", short.clone());
    let error = timeout(LONG, terminal.channel.ready()).await.unwrap().unwrap_err();
    let text = "the guest does not answer: no backdoor has greeted on `hvc0`; it said last `m login:`, after 300ms";
    assert_eq!(error.to_string(), text);
    // One that greets and is no shell.
    let terminal = Terminal::start("stty raw -echo; echo; while read a; do :; done", short);
    let error = timeout(LONG, terminal.channel.ready()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("is not a shell"), "{error}");
}

#[test]
fn output_that_was_lost_on_the_way_is_not_taken_for_whole() {
    let said = |bytes: &[u8]| {
        let mut decoder = Decoder::new("0123");
        decoder.push(bytes);
        decoder.next()
    };
    let whole = Said::Output { id: 1, stream: 0, sequence: 0, bytes: b"abcdef".to_vec() };
    assert_eq!(said(b"0123 O 1 1 0 6\nabcdef0123 .\n"), Ok(Some(whole)));
    assert_eq!(said(b"0123 O 1 1 0 6\nabc"), Ok(None));
    for damaged in
        [&b"0123 O 1 1 0 6\nabcde0123 .\n"[..], b"0123 O 1 1 0 6\nabXXXcdef0123 .\n", b"0123 O 1 1 0 99999999\n"]
    {
        assert!(matches!(said(damaged), Err(ChannelError::Protocol { .. })), "{damaged:?}");
    }
    assert_eq!(said(b"kernel: hello\n"), Ok(Some(Said::Noise { line: b"kernel: hello".to_vec() })));
    assert_eq!(said(b"[ 1.0] half a line0123 X 4 7\n"), Ok(Some(Said::Exited { id: 4, status: 7 })));
}
