//! One command in a guest, for a caller at the other end of a socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

use super::protocol::{FromCaller, ToCaller};
use crate::channel::{AgentChannel, ChannelError, ExecRequest, Execution, PipeReader, PipeWriter, RefusalReason};
use crate::lane::units::Span;

/// Frames that wait for a caller that does not read.
const QUEUE: usize = 16;

/// Runs the first of these commands that is there, and carries its streams until it has ended or the caller is gone.
/// `patience`: how long the agent may take to answer.
///
/// # Errors
/// The caller cannot be written to any more; its command is ended then.
pub async fn serve_command(
    channel: &AgentChannel,
    requests: Vec<ExecRequest>,
    patience: Duration,
    stream: UnixStream,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    // Bounded by its patience, so the caller's end is noticed soon enough when it is told what came of it.
    let mut execution = match start(channel, requests, patience).await {
        Ok(execution) => execution,
        Err(refused) => return refused.write(&mut writer).await,
    };
    ToCaller::Started { terminal: execution.has_terminal() }.write(&mut writer).await?;
    let (stdin, stdout, stderr) = (execution.stdin.take(), execution.stdout.take(), execution.stderr.take());
    let (frames, mut queue) = mpsc::channel(QUEUE);
    let (outputs, errors) = (frames.clone(), frames.clone());
    let ending = async {
        let (status, (), ()) = tokio::join!(
            execution.wait(),
            carry(stdout, outputs, ToCaller::Output),
            carry(stderr, errors, ToCaller::Error)
        );
        let last = match status {
            Ok(status) => ToCaller::Exited(status),
            Err(error) => ToCaller::Lost { message: error.to_string() },
        };
        let _ = frames.send(last).await;
        drop(frames);
    };
    let writing = async {
        while let Some(frame) = queue.recv().await {
            frame.write(&mut writer).await?;
        }
        writer.shutdown().await
    };
    tokio::select! {
        ((), written) = async { tokio::join!(ending, writing) } => written,
        () = take_input(&mut reader, stdin, &execution) => {
            execution.cancel();
            Ok(())
        }
    }
}

async fn start(channel: &AgentChannel, requests: Vec<ExecRequest>, patience: Duration) -> Result<Execution, ToCaller> {
    let refused = |error: ChannelError| match error {
        ChannelError::Refused { reason, message } => ToCaller::Refused { reason, message },
        error => ToCaller::Lost { message: error.to_string() },
    };
    match tokio::time::timeout(patience, channel.ready()).await {
        Ok(ready) => drop(ready.map_err(refused)?),
        Err(_) => {
            let message = format!("the guest's agent did not answer within {}", Span(patience));
            return Err(ToCaller::Lost { message });
        }
    }
    let mut last = ToCaller::Refused { reason: RefusalReason::Invalid, message: "no command was named".into() };
    for request in requests {
        match channel.exec(request).await {
            Ok(execution) => return Ok(execution),
            Err(error) if error.is_refused(RefusalReason::NotFound) => last = refused(error),
            Err(error) => return Err(refused(error)),
        }
    }
    Err(last)
}

async fn carry(from: Option<PipeReader>, to: mpsc::Sender<ToCaller>, frame: fn(Vec<u8>) -> ToCaller) {
    let Some(mut from) = from else { return };
    loop {
        let mut bytes = vec![0; 32 << 10];
        match read(&mut from, &mut bytes).await {
            0 => return,
            count => bytes.truncate(count),
        }
        if to.send(frame(bytes)).await.is_err() {
            return;
        }
    }
}

/// 0 at the end; that the guest was lost is told by the command's own end.
async fn read(from: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> usize {
    from.read(bytes).await.unwrap_or(0)
}

/// Until the caller is gone, or says what makes no sense.
async fn take_input(reader: &mut OwnedReadHalf, mut stdin: Option<PipeWriter>, execution: &Execution) {
    while let Ok(Some(frame)) = FromCaller::read(reader).await {
        match frame {
            FromCaller::Input(bytes) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    // The command takes no more; what it says is still to come.
                    stdin = None;
                }
            }
            FromCaller::InputEnd => stdin = None,
            FromCaller::Resize(size) => execution.resize(size),
        }
    }
}
