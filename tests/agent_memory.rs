//! Bulk through the real agent takes constant memory. In a program of its own: peaks are the whole process's.

use std::time::Instant;

use bootproof::channel::{ChannelEvent, ExecRequest, ExitStatus};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[path = "support/guest.rs"]
mod guest;

use guest::{Guest, LONG};

const SIZE: u64 = 100_000_000;

fn pattern() -> Vec<u8> {
    (0..1 << 20).map(|index: u32| ((index * 31) >> 3) as u8).collect()
}

/// Reads to the end and compares; the answer is the length.
async fn compare(mut reader: impl AsyncRead + Unpin) -> u64 {
    let pattern = pattern();
    let mut total = 0u64;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = reader.read(&mut chunk).await.unwrap();
        if count == 0 {
            return total;
        }
        let start = (total % pattern.len() as u64) as usize;
        let whole = count.min(pattern.len() - start);
        assert_eq!(chunk[..whole], pattern[start..start + whole]);
        assert_eq!(chunk[whole..count], pattern[..count - whole]);
        total += count as u64;
    }
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_take_constant_memory() {
    let mut guest = Guest::start().await;
    let before = peak_memory("self");
    let pattern = pattern();

    let mut execution = guest.channel.exec(ExecRequest { stdin: true, ..ExecRequest::new(["cat"]) }).await.unwrap();
    let mut stdin = execution.stdin.take().unwrap();
    let stdout = execution.stdout.take().unwrap();
    let started = Instant::now();
    let write = async {
        let mut left = SIZE as usize;
        while left > 0 {
            let count = left.min(pattern.len());
            stdin.write_all(&pattern[..count]).await.unwrap();
            left -= count;
        }
        drop(stdin);
    };
    let ((), total) = timeout(LONG, async { tokio::join!(write, compare(stdout)) }).await.unwrap();
    println!("{:.0} MB/s each way", SIZE as f64 / 1e6 / started.elapsed().as_secs_f64());
    assert_eq!(total, SIZE);
    assert_eq!(execution.wait().await.unwrap(), ExitStatus::Code(0));

    // And as a file; the source is longer than what is taken of it.
    let path = guest.scratch.path().join("file");
    let path = path.to_str().unwrap();
    let (source, mut sink) = tokio::io::duplex(64 << 10);
    let fill = async { while sink.write_all(&pattern).await.is_ok() {} };
    let written = async { guest.channel.write_file(path, 0o644, source.take(SIZE)).await.unwrap() };
    let (written, ()) = timeout(LONG, async { tokio::join!(written, fill) }).await.unwrap();
    assert_eq!(written, SIZE);
    let file = guest.channel.read_file(path).await.unwrap();
    assert_eq!(timeout(LONG, compare(file)).await.unwrap(), SIZE);

    let agent = peak_memory(&guest.agent.id().to_string());
    assert!(agent < 24 << 10, "the agent took {agent} KiB");
    let grown = peak_memory("self") - before;
    assert!(grown < 16 << 10, "the client took {grown} KiB");
    assert!(matches!(guest.events.recv().await, Some(ChannelEvent::Ready(_))));
    assert!(guest.events.try_recv().is_err(), "the session did not last");
}

/// The most memory that a process has had, in KiB.
fn peak_memory(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
