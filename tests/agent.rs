//! The real agent program over a unix socket, driven by the real client.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bootproof::channel::{ChannelError, ChannelEvent, ExecRequest, ExitStatus, RefusalReason, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[path = "support/guest.rs"]
mod guest;

use guest::{Guest, LONG};

fn exists(pid: u32) -> bool {
    // A zombie that nobody has waited for is no longer running.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Waits until the process has ended, by its pidfd.
async fn gone(pid: u32) {
    let ended = tokio::task::spawn_blocking(move || {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        if let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            let mut wait = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut wait, Some(&rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        }
    });
    ended.await.unwrap();
    assert!(!exists(pid), "process {pid} still runs");
}

impl Guest {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.path("console")).unwrap()
    }

    async fn shell(&self, script: &str) -> bootproof::channel::CommandOutput {
        let execution = self.channel.exec(shell(script)).await.unwrap();
        timeout(LONG, execution.output(1 << 20)).await.unwrap().unwrap()
    }
}

fn shell(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script])
}

#[tokio::test]
async fn commands_give_back_status_signal_and_both_outputs() {
    let guest = Guest::start().await;
    let output = guest.shell("printf out; printf err >&2; exit 7").await;
    assert_eq!(output.status, ExitStatus::Code(7));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
    assert_eq!(guest.shell("kill -KILL $$").await.status, ExitStatus::Signal(9));
    assert_eq!(guest.shell("true").await.status, ExitStatus::Code(0));

    let request = ExecRequest {
        environment: [("GREETING".into(), "hällo wörld".into())].into(),
        directory: Some("/usr".into()),
        ..shell("printf '%s' \"$GREETING\"; pwd; cat")
    };
    let output = guest.channel.exec(request).await.unwrap().output(1000).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hällo wörld/usr\n");

    let output = guest.channel.exec(shell("printf 0123456789")).await.unwrap().output(4).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.truncated), (&b"0123"[..], true));
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_its_reason() {
    let guest = Guest::start().await;
    let refused = async |request: ExecRequest| match guest.channel.exec(request).await {
        Err(ChannelError::Refused { reason, message }) => (reason, message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was started"),
    };
    let (reason, message) = refused(ExecRequest::new(["no-such-program"])).await;
    assert_eq!(reason, RefusalReason::NotFound);
    assert!(message.contains("failed to start `no-such-program`"), "{message}");
    assert_eq!(refused(ExecRequest::new(["/etc/passwd"])).await.0, RefusalReason::PermissionDenied);
    assert_eq!(refused(ExecRequest::new(Vec::<String>::new())).await.0, RefusalReason::Invalid);
    // The applets stand in for missing commands only where the agent is init.
    assert_eq!(refused(ExecRequest::new(["hold"])).await.0, RefusalReason::NotFound);
    let elsewhere = ExecRequest { directory: Some("/no/such".into()), ..ExecRequest::new(["true"]) };
    assert!(refused(elsewhere).await.1.contains("working directory `/no/such`"));
    let (reason, message) = refused(ExecRequest::new(["true".into(), "x".repeat(40_000)])).await;
    assert_eq!(reason, RefusalReason::Invalid);
    assert!(message.contains("32 KiB"), "{message}");
}

#[tokio::test]
async fn standard_input_ends_when_it_is_dropped_and_nobody_has_to_read_it() {
    let guest = Guest::start().await;
    let request = |script: &str| ExecRequest { stdin: true, ..shell(script) };
    let mut execution = guest.channel.exec(request("cat; echo done")).await.unwrap();
    execution.stdin.as_mut().unwrap().write_all(b"one\0two\n").await.unwrap();
    let output = timeout(LONG, execution.output(1000)).await.unwrap().unwrap();
    assert_eq!(output.stdout, b"one\0two\ndone\n");

    // A command that closes its input and goes on does not hold up whoever writes.
    let mut execution = guest.channel.exec(request("exec <&-; read line; exit 3")).await.unwrap();
    let mut stdin = execution.stdin.take().unwrap();
    let write = async {
        for _ in 0..64 {
            if stdin.write_all(&[0; 64 << 10]).await.is_err() {
                break;
            }
        }
    };
    let (status, ()) = timeout(LONG, async { tokio::join!(execution.wait(), write) }).await.unwrap();
    assert_eq!(status.unwrap(), ExitStatus::Code(3));
}

/// Reads on until the text has come.
async fn until(pipe: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) {
    let mut seen = String::new();
    while !seen.ends_with(text) {
        seen.push(char::from(timeout(LONG, pipe.read_u8()).await.unwrap_or_else(|_| panic!("{seen}")).unwrap()));
    }
}

#[tokio::test]
async fn a_command_with_a_terminal_has_its_size_its_keys_and_its_end() {
    let guest = Guest::start().await;
    let script = "trap 'echo interrupted; exit 5' INT; tty >/dev/null || exit 9; stty size; read line; \
                  echo \"got $line\"; stty size; while :; do read more; done";
    let size = TerminalSize { rows: 33, columns: 77 };
    let request = ExecRequest { stdin: true, terminal: Some(size), ..shell(script) };
    let mut execution = guest.channel.exec(request).await.unwrap();
    assert!(execution.has_terminal());
    let (mut stdin, mut stdout) = (execution.stdin.take().unwrap(), execution.stdout.take().unwrap());
    until(&mut stdout, "33 77").await;
    execution.resize(TerminalSize { rows: 40, columns: 100 });
    stdin.write_all(b"hello\r").await.unwrap();
    until(&mut stdout, "got hello\r\n40 100").await;
    stdin.write_all(b"\x03").await.unwrap();
    until(&mut stdout, "interrupted").await;
    assert_eq!(timeout(LONG, execution.wait()).await.unwrap().unwrap(), ExitStatus::Code(5));

    // The end of input is what Ctrl-D says; and both outputs end.
    let request = ExecRequest { stdin: true, terminal: Some(size), ..shell("cat; echo over") };
    let output = timeout(LONG, guest.channel.exec(request).await.unwrap().output(1000)).await.unwrap().unwrap();
    assert_eq!((output.status, output.stdout.as_slice()), (ExitStatus::Code(0), &b"over\r\n"[..]));
    // Dropped, it goes with all that it started.
    let request = ExecRequest { terminal: Some(size), ..shell("sleep 1000 & echo $$.; wait") };
    let mut execution = guest.channel.exec(request).await.unwrap();
    until(execution.stdout.as_mut().unwrap(), ".").await;
    let pid = execution.pid();
    drop(execution);
    gone(pid).await;
}

#[tokio::test]
async fn dropping_a_command_kills_its_process_group() {
    let guest = Guest::start().await;
    let mut execution = guest.channel.exec(shell("sleep 1000 & echo $!; wait")).await.unwrap();
    let mut line = String::new();
    let mut stdout = execution.stdout.take().unwrap();
    while !line.ends_with('\n') {
        line.push(stdout.read_u8().await.unwrap() as char);
    }
    let (leader, child) = (execution.pid(), line.trim().parse().unwrap());
    assert!(exists(leader) && exists(child));
    drop(execution);
    gone(leader).await;
    gone(child).await;
    guest.channel.ping().await.unwrap();
}

#[tokio::test]
async fn an_exit_is_told_while_a_left_process_still_holds_the_output() {
    let guest = Guest::start().await;
    let mut execution = guest.channel.exec(shell("sleep 1000 & echo $!; exit 5")).await.unwrap();
    assert_eq!(timeout(LONG, execution.wait()).await.unwrap().unwrap(), ExitStatus::Code(5));
    let mut stdout = execution.stdout.take().unwrap();
    drop(execution);
    let mut line = [0; 16];
    let count = stdout.read(&mut line).await.unwrap();
    let child: u32 = String::from_utf8_lossy(&line[..count]).trim().parse().unwrap();
    assert!(exists(child));
    drop(stdout);
    gone(child).await;
}

#[tokio::test]
async fn two_floods_and_a_slow_reader_hold_up_nothing_else() {
    let guest = Guest::start().await;
    // Nobody reads these.
    let stuck = guest.channel.exec(ExecRequest::new(["cat", "/dev/zero"])).await.unwrap();
    let stuck_error = guest.channel.exec(shell("exec cat /dev/zero >&2")).await.unwrap();
    // And these are read as fast as they come.
    let mut floods = Vec::new();
    for _ in 0..2 {
        let mut execution = guest.channel.exec(ExecRequest::new(["cat", "/dev/zero"])).await.unwrap();
        let mut stdout = execution.stdout.take().unwrap();
        floods.push(tokio::spawn(async move {
            let mut sink = vec![0; 64 << 10];
            while stdout.read(&mut sink).await.is_ok_and(|count| count > 0) {}
            drop(execution);
        }));
    }
    let mut pings = Vec::new();
    for _ in 0..200 {
        pings.push(timeout(LONG, guest.channel.ping()).await.expect("a ping starves").unwrap());
    }
    pings.sort();
    println!("ping under two floods: median {:?}, p99 {:?}", pings[100], pings[197]);
    assert_eq!(guest.shell("echo alive").await.stdout, b"alive\n");
    drop((stuck, stuck_error));
    floods.iter().for_each(|flood| flood.abort());
}

#[tokio::test]
async fn files_are_written_whole_and_read_back() {
    let guest = Guest::start().await;
    let path = guest.path("file");
    let path = path.to_str().unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    let bytes = guest.channel.write_file(path, 0o640, content.as_slice()).await.unwrap();
    assert_eq!(bytes, content.len() as u64);
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o640);
    let mut reader = guest.channel.read_file(path).await.unwrap();
    assert_eq!((reader.size(), reader.mode()), (content.len() as u64, 0o640));
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    assert!(back == content);

    let mut kernel = String::new();
    guest.channel.read_file("/proc/version").await.unwrap().read_to_string(&mut kernel).await.unwrap();
    assert!(kernel.starts_with("Linux"), "{kernel}");

    let missing = guest.channel.read_file("/no/such/file").await.err().unwrap();
    assert!(missing.is_refused(RefusalReason::NotFound), "{missing}");
    assert!(guest.channel.read_file("/").await.err().unwrap().is_refused(RefusalReason::Invalid));
    let nowhere = guest.channel.write_file("/no/such/file", 0o644, &b"x"[..]).await.unwrap_err();
    assert!(nowhere.is_refused(RefusalReason::NotFound), "{nowhere}");
}

#[tokio::test]
async fn a_file_that_is_not_sent_whole_never_appears() {
    let guest = Guest::start().await;
    let path = guest.path("directory/file");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "old").unwrap();
    let (mut sender, receiver) = tokio::io::duplex(1 << 16);
    let writing = {
        let (channel, path) = (guest.channel.clone(), path.clone());
        tokio::spawn(async move { channel.write_file(path.to_str().unwrap(), 0o644, receiver).await })
    };
    sender.write_all(&[1; 100_000]).await.unwrap();
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());

    struct Failing;
    impl tokio::io::AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the source broke")))
        }
    }
    let error = guest.channel.write_file(path.to_str().unwrap(), 0o644, Failing).await.unwrap_err();
    assert!(error.to_string().contains("the source broke"), "{error}");
    // Handled in order, each on its own thread: wait until the agent has nothing open beside its target.
    let directory = path.parent().unwrap().to_owned();
    let cleaned = async {
        while std::fs::read_dir(&directory).unwrap().count() > 1 {
            guest.channel.ping().await.unwrap();
        }
    };
    timeout(LONG, cleaned).await.expect("the unfinished file stays");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
}

#[tokio::test]
async fn connections_carry_both_directions_and_end_one_at_a_time() {
    let guest = Guest::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        socket.write_all(&received).await.unwrap();
        socket.write_all(b"that was all").await.unwrap();
        received.len()
    });
    let stream = guest.channel.connect(&address).await.unwrap();
    assert_eq!(stream.peer(), address);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..5_000_000u32).map(|index| (index % 253) as u8).collect();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let read = reader.read_to_end(&mut received);
    let ((), result) = timeout(LONG, async { tokio::join!(write, read) }).await.unwrap();
    result.unwrap();
    assert_eq!(server.await.unwrap(), sent.len());
    assert!(received.starts_with(&sent) && received.ends_with(b"that was all"));
}

#[tokio::test]
async fn connections_that_fail_say_why() {
    let guest = Guest::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = guest.channel.connect(&free.to_string()).await.err().unwrap();
    assert!(refused.is_refused(RefusalReason::ConnectionRefused), "{refused}");
    let unknown = guest.channel.connect("no-such-host.invalid:80").await.err().unwrap();
    assert!(unknown.is_refused(RefusalReason::NotFound), "{unknown}");
    assert!(guest.channel.connect("nonsense").await.err().unwrap().is_refused(RefusalReason::Invalid));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = guest.channel.connect(&listener.local_addr().unwrap().to_string()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    reset(socket);
    let error = timeout(LONG, stream.read_u8()).await.unwrap().unwrap_err();
    assert!(ChannelError::from_io(&error).unwrap().is_refused(RefusalReason::ConnectionReset), "{error}");

    // Dropping this side is seen by the other.
    let stream = guest.channel.connect(&listener.local_addr().unwrap().to_string()).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    drop(stream);
    let ended = timeout(LONG, socket.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// Closes with a reset instead of an end.
fn reset(socket: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
}

#[tokio::test]
async fn markers_are_emitted_and_repeated() {
    let guest = Guest::start().await;
    let first = async {
        while !guest.console().contains(" agent.ready seq=1 ") {
            guest.channel.ping().await.unwrap();
        }
    };
    timeout(LONG, first).await.expect("the agent does not say that it is ready");
    let node = Some("node01");
    let second = guest.channel.emit_marker("services.ready", node, &[("unit".into(), "a b".into())]).await.unwrap();
    let console = guest.console();
    let line = console.lines().find(|line| line.contains("services.ready.node01")).unwrap();
    assert!(line.contains(&format!(" unit=a%20b seq={second} crc=")), "{line}");
    assert_eq!(guest.channel.repeat_markers(second).await.unwrap(), 1);
    assert_eq!(guest.console().lines().filter(|again| *again == line).count(), 2);
    let wrong = guest.channel.emit_marker("two words", None, &[]).await.unwrap_err();
    assert!(wrong.is_refused(RefusalReason::Invalid), "{wrong}");
    // The same numbers for a process of its own.
    let status = Command::new(env!("CARGO_BIN_EXE_bootproof-agent"))
        .args(["marker", "from.outside", "k=v", "--console"])
        .arg(guest.path("console"))
        .arg("--run-directory")
        .arg(guest.path("run"))
        .status()
        .unwrap();
    assert!(status.success());
    let third = guest.channel.emit_marker("last", None, &[]).await.unwrap();
    let console = guest.console();
    let outside = console.lines().find(|line| line.contains(" from.outside")).unwrap();
    assert!(outside.contains(" k=v seq="), "{outside}");
    assert!(third >= second + 2);
}

#[tokio::test]
async fn an_agent_that_is_killed_fails_everything_at_once() {
    let mut guest = Guest::start().await;
    assert!(matches!(guest.events.recv().await, Some(ChannelEvent::Ready(_))));
    let execution = guest.channel.exec(ExecRequest::new(["cat", "/dev/zero"])).await.unwrap();
    guest.agent.kill().unwrap();
    let error = timeout(LONG, execution.wait()).await.unwrap().unwrap_err();
    assert!(matches!(error, ChannelError::Closed { .. }), "{error}");
    assert!(matches!(guest.channel.ready().await, Err(ChannelError::Closed { .. })));
    assert!(matches!(guest.events.recv().await, Some(ChannelEvent::Lost { .. })));
    assert_eq!(guest.events.recv().await, None);
}

#[tokio::test]
async fn commands_end_with_the_host_that_asked_for_them() {
    let mut guest = Guest::start().await;
    let execution = guest.channel.exec(ExecRequest::new(["sleep", "1000"])).await.unwrap();
    let pid = execution.pid();
    // The host goes without a word.
    guest.channel.close();
    gone(pid).await;
    let status = tokio::task::spawn_blocking(move || guest.agent.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_host_that_comes_back_begins_a_session_of_its_own() {
    let guest = Guest::start().await;
    let before = guest.channel.ready().await.unwrap();
    let execution = guest.channel.exec(ExecRequest::new(["sleep", "1000"])).await.unwrap();
    let pid = execution.pid();
    guest.channel.forget_session("tested");
    gone(pid).await;
    let after = timeout(LONG, guest.channel.ready()).await.unwrap().unwrap();
    assert_ne!(before.nonce, after.nonce);
    assert_eq!(before.boot_id, after.boot_id);
    assert_eq!(execution.wait().await, Err(ChannelError::Lost { reason: "tested".into() }));
    assert_eq!(guest.shell("echo again").await.stdout, b"again\n");
}

#[tokio::test]
async fn the_agent_answers_in_microseconds() {
    let guest = Guest::start().await;
    let mut pings = Vec::new();
    for _ in 0..500 {
        pings.push(guest.channel.ping().await.unwrap());
    }
    pings.sort();
    println!("ping: median {:?}, p99 {:?}", pings[250], pings[495]);
    assert!(pings[250] < Duration::from_millis(20), "{:?}", pings[250]);
}

#[tokio::test]
async fn requests_at_once_each_get_their_own_answer() {
    let guest = Guest::start().await;
    let mut tasks = Vec::new();
    for index in 0..40 {
        let channel = guest.channel.clone();
        tasks.push(tokio::spawn(async move {
            let script = format!("printf {index}; exit {index}");
            let output = channel.exec(shell(&script)).await.unwrap().output(100).await.unwrap();
            assert_eq!(output.status, ExitStatus::Code(index));
            assert_eq!(output.stdout, index.to_string().as_bytes());
        }));
    }
    for task in tasks {
        timeout(LONG, task).await.unwrap().unwrap();
    }
}
