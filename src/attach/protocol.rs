//! What a caller and whoever serves it say to each other.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::channel::{ExecRequest, ExitStatus, RefusalReason, TerminalSize};

/// The first line of a caller, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Both ways from then on, as they are. `console`: its recording's name without the ending.
    Console { machine: String, console: String },
    /// The first of these that is there; frames from then on.
    /// `patience_ms`: how long the guest's agent may take to answer.
    Command { machine: String, requests: Vec<ExecRequest>, patience_ms: u64 },
}

/// The line that answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Connected,
    Refused { message: String },
}

/// No line is longer.
pub const LONGEST_LINE: usize = 256 << 10;
/// No frame's payload is longer.
const LONGEST_PAYLOAD: usize = 1 << 20;

/// One JSON document and a line feed.
pub async fn write_line(writer: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

/// Reads no byte more than the line has.
pub async fn read_line<T: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut line = Vec::new();
    loop {
        match reader.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            _ if line.len() == LONGEST_LINE => return Err(io::Error::other("the line is too long")),
            byte => line.push(byte),
        }
    }
}

/// What the caller of a command sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromCaller {
    Input(Vec<u8>),
    /// No more input comes.
    InputEnd,
    Resize(TerminalSize),
}

/// What it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCaller {
    Started {
        terminal: bool,
    },
    Output(Vec<u8>),
    Error(Vec<u8>),
    /// The last one, as those below.
    Exited(ExitStatus),
    Refused {
        reason: RefusalReason,
        message: String,
    },
    Lost {
        message: String,
    },
}

const INPUT: u8 = 1;
const INPUT_END: u8 = 2;
const RESIZE: u8 = 3;
const STARTED: u8 = 16;
const OUTPUT: u8 = 17;
const ERROR: u8 = 18;
const EXITED: u8 = 19;
const REFUSED: u8 = 20;
const LOST: u8 = 21;

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// `None` at an end between two frames.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u8, Vec<u8>)>> {
    let kind = match reader.read_u8().await {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(reader.read_u32_le().await?).map_err(io::Error::other)?;
    if length > LONGEST_PAYLOAD {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(Some((kind, payload)))
}

impl FromCaller {
    pub async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            FromCaller::Input(bytes) => write_frame(writer, INPUT, bytes).await,
            FromCaller::InputEnd => write_frame(writer, INPUT_END, &[]).await,
            FromCaller::Resize(size) => write_frame(writer, RESIZE, &size.to_bytes()).await,
        }
    }

    /// `None`: the caller is gone.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let Some((kind, payload)) = read_frame(reader).await? else { return Ok(None) };
        let unknown = || io::Error::other(format!("a frame of kind {kind}"));
        Ok(Some(match kind {
            INPUT => FromCaller::Input(payload),
            INPUT_END => FromCaller::InputEnd,
            RESIZE => FromCaller::Resize(TerminalSize::from_bytes(&payload).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        }))
    }
}

#[derive(Serialize, Deserialize)]
struct Refused {
    reason: RefusalReason,
    message: String,
}

impl ToCaller {
    pub async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            ToCaller::Started { terminal } => write_frame(writer, STARTED, &[u8::from(*terminal)]).await,
            ToCaller::Output(bytes) => write_frame(writer, OUTPUT, bytes).await,
            ToCaller::Error(bytes) => write_frame(writer, ERROR, bytes).await,
            ToCaller::Exited(status) => write_frame(writer, EXITED, &serde_json::to_vec(status)?).await,
            ToCaller::Refused { reason, message } => {
                let refused = Refused { reason: *reason, message: message.clone() };
                write_frame(writer, REFUSED, &serde_json::to_vec(&refused)?).await
            }
            ToCaller::Lost { message } => write_frame(writer, LOST, message.as_bytes()).await,
        }
    }

    /// `None`: whoever serves is gone.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let Some((kind, payload)) = read_frame(reader).await? else { return Ok(None) };
        Ok(Some(match kind {
            STARTED => ToCaller::Started { terminal: payload == [1] },
            OUTPUT => ToCaller::Output(payload),
            ERROR => ToCaller::Error(payload),
            EXITED => ToCaller::Exited(serde_json::from_slice(&payload)?),
            REFUSED => {
                let Refused { reason, message } = serde_json::from_slice(&payload)?;
                ToCaller::Refused { reason, message }
            }
            LOST => ToCaller::Lost { message: String::from_utf8_lossy(&payload).into_owned() },
            _ => return Err(io::Error::other(format!("a frame of kind {kind}"))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_frame_and_line_comes_out_as_it_went_in() {
        let size = TerminalSize { rows: 24, columns: 512 };
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let call = Call::Command { machine: "m".into(), requests: vec![ExecRequest::new(["true"])], patience_ms: 9 };
        write_line(&mut near, &call).await.unwrap();
        for frame in [FromCaller::Input(vec![0, 10, 255]), FromCaller::InputEnd, FromCaller::Resize(size)] {
            frame.write(&mut near).await.unwrap();
        }
        assert_eq!(read_line::<Call>(&mut far).await.unwrap(), call);
        assert_eq!(FromCaller::read(&mut far).await.unwrap(), Some(FromCaller::Input(vec![0, 10, 255])));
        assert_eq!(FromCaller::read(&mut far).await.unwrap(), Some(FromCaller::InputEnd));
        assert_eq!(FromCaller::read(&mut far).await.unwrap(), Some(FromCaller::Resize(size)));
        let frames = [
            ToCaller::Started { terminal: true },
            ToCaller::Output(Vec::new()),
            ToCaller::Error(vec![7; 1000]),
            ToCaller::Exited(ExitStatus::Signal(9)),
            ToCaller::Refused { reason: RefusalReason::NotFound, message: "none".into() },
            ToCaller::Lost { message: "gone".into() },
        ];
        for frame in &frames {
            frame.write(&mut far).await.unwrap();
        }
        drop(far);
        for frame in frames {
            assert_eq!(ToCaller::read(&mut near).await.unwrap(), Some(frame));
        }
        assert_eq!(ToCaller::read(&mut near).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error_and_takes_no_memory() {
        for bytes in [&[INPUT, 255, 255, 255, 255][..], &[99, 0, 0, 0, 0], &[RESIZE, 1, 0, 0, 0, 7]] {
            assert!(FromCaller::read(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
        assert!(read_line::<Call>(&mut tokio::io::repeat(b'x')).await.is_err());
    }
}
