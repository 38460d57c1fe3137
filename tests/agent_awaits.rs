//! What the agent can be asked to wait for, by the real agent over a socket: files in all the ways in which they appear,
//! ports, and what cannot be waited for. Units need systemd: see `awaits.rs`.

#[path = "support/guest.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod guest;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootproof::channel::protocol::{AwaitEnd, Awaited, Condition, FileState, ToldBy};
use bootproof::channel::{AgentChannel, ChannelError, RefusalReason};
use guest::{Guest, LONG};
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn file(path: &Path, state: FileState) -> Condition {
    Condition::File { path: path.to_str().unwrap().into(), state }
}

fn start(channel: &AgentChannel, condition: &Condition) -> JoinHandle<Result<Awaited, ChannelError>> {
    let (channel, condition) = (channel.clone(), condition.clone());
    tokio::spawn(async move { timeout(LONG, channel.await_condition(&condition, LONG)).await.unwrap() })
}

/// Begins to wait, and comes back once the agent listens: streams are begun in order, each by a thread of its own, so it
/// is asked what its threads wait in.
async fn begun(guest: &Guest, condition: &Condition) -> JoinHandle<Result<Awaited, ChannelError>> {
    let before = polling(guest.agent.id());
    let waiting = start(&guest.channel, condition);
    while polling(guest.agent.id()) <= before && !waiting.is_finished() {
        tokio::task::yield_now().await;
    }
    waiting
}

/// How many threads of the process wait in `poll` (7) or `ppoll` (271).
fn polling(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
    calls.filter(|call| matches!(call.split(' ').next(), Some("7" | "271"))).count()
}

#[tokio::test]
async fn a_file_is_noticed_however_it_appears() {
    let guest = Guest::start().await;
    let root = guest.scratch.path().to_owned();
    let at = |name: &str| root.join(name);
    type Act = Box<dyn Fn()>;
    let cases: Vec<(&str, PathBuf, FileState, Act)> = vec![
        ("created", at("created"), FileState::Present, {
            let path = at("created");
            Box::new(move || fs::write(&path, "").unwrap())
        }),
        ("below folders that are not there", at("a/b/c/file"), FileState::Present, {
            let root = root.clone();
            Box::new(move || {
                fs::create_dir_all(root.join("a/b/c")).unwrap();
                fs::write(root.join("a/b/c/file"), "").unwrap();
            })
        }),
        ("in a folder that is renamed into place", at("place/file"), FileState::Present, {
            let root = root.clone();
            Box::new(move || {
                fs::create_dir(root.join("unfinished")).unwrap();
                fs::write(root.join("unfinished/file"), "").unwrap();
                fs::rename(root.join("unfinished"), root.join("place")).unwrap();
            })
        }),
        ("behind a link that leads nowhere yet", at("link"), FileState::Present, {
            symlink("elsewhere/target", at("link")).unwrap();
            let root = root.clone();
            Box::new(move || {
                fs::create_dir(root.join("elsewhere")).unwrap();
                fs::write(root.join("elsewhere/target"), "").unwrap();
            })
        }),
        ("by a link that is turned", at("current/version"), FileState::Present, {
            fs::create_dir(at("one")).unwrap();
            fs::create_dir(at("two")).unwrap();
            fs::write(at("two/version"), "").unwrap();
            symlink("one", at("current")).unwrap();
            let root = root.clone();
            Box::new(move || {
                symlink("two", root.join("next")).unwrap();
                fs::rename(root.join("next"), root.join("current")).unwrap();
            })
        }),
        ("removed", at("pid"), FileState::Gone, {
            fs::write(at("pid"), "").unwrap();
            let path = at("pid");
            Box::new(move || fs::remove_file(&path).unwrap())
        }),
        ("removed with its folder", at("folder/pid"), FileState::Gone, {
            fs::create_dir(at("folder")).unwrap();
            fs::write(at("folder/pid"), "").unwrap();
            let root = root.clone();
            Box::new(move || fs::rename(root.join("folder"), root.join("folder-away")).unwrap())
        }),
        ("written to", at("log"), FileState::Contains("is ready".into()), {
            fs::write(at("log"), "it is ").unwrap();
            let path = at("log");
            Box::new(move || {
                use std::io::Write;
                fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"ready\n").unwrap();
            })
        }),
        ("replaced", at("state"), FileState::Contains("done".into()), {
            fs::write(at("state"), "doing").unwrap();
            let root = root.clone();
            Box::new(move || {
                fs::write(root.join("state.new"), "done").unwrap();
                fs::rename(root.join("state.new"), root.join("state")).unwrap();
            })
        }),
    ];
    for (how, path, state, act) in cases {
        let condition = file(&path, state);
        let waiting = begun(&guest, &condition).await;
        // Something else beside it is no reason to look.
        fs::write(root.join("unrelated"), how).unwrap();
        assert!(!waiting.is_finished(), "{how}: too early");
        act();
        let awaited = waiting.await.unwrap().unwrap();
        assert_eq!((awaited.end, awaited.told_by), (AwaitEnd::Held, ToldBy::Inotify), "{how}: {awaited:?}");
        let again = start(&guest.channel, &condition).await.unwrap().unwrap();
        assert_eq!((again.end, again.told_by, again.looks), (AwaitEnd::Held, ToldBy::FirstLook, 1), "{how}");
    }
}

#[tokio::test]
async fn nothing_is_missed_between_looking_and_listening() {
    let guest = Guest::start().await;
    for round in 0..200 {
        let path = guest.scratch.path().join(format!("{round}/deep/file"));
        let waiting = start(&guest.channel, &file(&path, FileState::Present));
        // Races with the agent's first look, earlier and later.
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().end, AwaitEnd::Held);
    }
}

#[tokio::test]
async fn what_was_there_last_is_said_at_the_deadline() {
    let guest = Guest::start().await;
    let root = guest.scratch.path();
    fs::create_dir(root.join("there")).unwrap();
    let path = root.join("there/not/file");
    let awaited = guest.channel.await_condition(&file(&path, FileState::Present), Duration::from_millis(50)).await;
    let awaited = awaited.unwrap();
    assert_eq!((awaited.end, awaited.looks), (AwaitEnd::TimedOut, 1));
    let said = format!("`{0}/there/not` is not there, and `{0}/there` is", root.display());
    assert_eq!(awaited.last_seen, said);
    fs::write(root.join("log"), "12345").unwrap();
    let awaited = guest
        .channel
        .await_condition(&file(&root.join("log"), FileState::Contains("6".into())), Duration::ZERO)
        .await
        .unwrap();
    assert!(awaited.last_seen.ends_with("its 5 bytes do not contain the text"), "{awaited:?}");
}

#[tokio::test]
async fn what_nobody_tells_of_is_refused() {
    let guest = Guest::start().await;
    for path in ["/proc/no-such-file", "/sys/no-such-file", "relative"] {
        let refused = start(&guest.channel, &file(Path::new(path), FileState::Present)).await.unwrap().unwrap_err();
        assert!(refused.is_refused(RefusalReason::Invalid), "{path}: {refused:?}");
    }
    // What is there already needs nobody to tell of it.
    let there = start(&guest.channel, &file(Path::new("/proc/self/status"), FileState::Present)).await.unwrap();
    assert_eq!(there.unwrap().told_by, ToldBy::FirstLook);
    symlink("loop", guest.scratch.path().join("loop")).unwrap();
    let endless = file(&guest.scratch.path().join("loop/x"), FileState::Present);
    assert!(start(&guest.channel, &endless).await.unwrap().is_err());
    if !Path::new("/run/systemd/system").exists() {
        let unit = Condition::Unit { name: "x.service".into(), state: "active".into() };
        let refused = start(&guest.channel, &unit).await.unwrap().unwrap_err();
        assert!(refused.is_refused(RefusalReason::NotFound), "{refused:?}");
    }
}

#[tokio::test]
async fn a_wait_that_is_taken_back_ends_in_the_guest() {
    let guest = Guest::start().await;
    let condition = file(&guest.scratch.path().join("never"), FileState::Present);
    let before = polling(guest.agent.id());
    let waiting = begun(&guest, &condition).await;
    assert!(polling(guest.agent.id()) > before);
    waiting.abort();
    let ended = async {
        while polling(guest.agent.id()) > before {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, ended).await.expect("the agent's thread ends");
}

#[tokio::test]
async fn a_port_is_noticed_when_it_listens() {
    let guest = Guest::start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [None, Some(free.ip())] {
        let condition = Condition::Port { port: free.port(), address };
        let waiting = begun(&guest, &condition).await;
        let listener = TcpListener::bind(free).unwrap();
        let awaited = waiting.await.unwrap().unwrap();
        assert_eq!(awaited.end, AwaitEnd::Held);
        assert_ne!(awaited.told_by, ToldBy::FirstLook);
        assert_eq!(awaited.last_seen, format!("port {} listens on 127.0.0.1", free.port()));
        drop(listener);
    }
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let elsewhere = Condition::Port { port, address: Some([127, 0, 0, 3].into()) };
    let awaited = guest.channel.await_condition(&elsewhere, Duration::from_millis(50)).await.unwrap();
    assert_eq!(awaited.end, AwaitEnd::TimedOut);
    assert!(awaited.last_seen.starts_with(&format!("port {port} listens on 127.0.0.2 only")), "{awaited:?}");
}
