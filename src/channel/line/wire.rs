//! What the host and the multiplexer say to each other.
//!
//! The host sends shell lines that the multiplexer evaluates, each a call of one of its functions, and raw bytes where it was
//! told to expect them. The multiplexer answers in lines that begin with the nonce; a chunk of output follows its line as so
//! many raw bytes and a closing line.

use std::fmt::Write as _;

use super::refused;
use crate::channel::error::ChannelError;
use crate::channel::protocol::{ExecRequest, RefusalReason};

/// Nothing that is said is longer, but for output.
const LONGEST_LINE: usize = 4 << 10;
/// More than the kernel takes of one command.
const LONGEST_COMMAND: usize = 128 << 10;

/// What the multiplexer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// It is there.
    Ready,
    /// It ends.
    Quit {
        reason: String,
    },
    /// The command's process number.
    Process {
        id: u64,
        pid: u32,
    },
    Started {
        id: u64,
    },
    Refused {
        id: u64,
        why: String,
    },
    Output {
        id: u64,
        stream: usize,
        sequence: u64,
        bytes: Vec<u8>,
    },
    EndOfOutput {
        id: u64,
        stream: usize,
        chunks: u64,
    },
    Exited {
        id: u64,
        status: i32,
    },
    /// It waits for the bytes that were announced, and nothing else.
    InputAwaited,
    InputArrived,
    InputConsumed {
        id: u64,
    },
    /// The command reads no more.
    InputBroken {
        id: u64,
    },
    InputEnded {
        id: u64,
    },
    /// A line that is not the multiplexer's.
    Noise {
        line: Vec<u8>,
    },
}

/// Finds what was said in what came.
pub struct Decoder {
    nonce: String,
    /// The line after each chunk.
    closing: Vec<u8>,
    buffer: Vec<u8>,
    chunk: Option<Chunk>,
}

struct Chunk {
    id: u64,
    stream: usize,
    sequence: u64,
    length: usize,
}

impl Decoder {
    pub fn new(nonce: &str) -> Self {
        let closing = format!("{nonce} .\n").into_bytes();
        Self { nonce: nonce.into(), closing, buffer: Vec::new(), chunk: None }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that was said; `None` when more has to come first.
    pub fn next(&mut self) -> Result<Option<Said>, ChannelError> {
        if let Some(chunk) = &self.chunk {
            let whole = chunk.length + self.closing.len();
            if self.buffer.len() < whole {
                // Nobody else knows the nonce: the chunk is over, and shorter than it was when it was sent.
                return if self.buffer.ends_with(&self.closing) { Err(damaged()) } else { Ok(None) };
            }
            if self.buffer[chunk.length..whole] != self.closing {
                return Err(damaged());
            }
            let rest = self.buffer.split_off(whole);
            let mut bytes = std::mem::replace(&mut self.buffer, rest);
            bytes.truncate(chunk.length);
            let Chunk { id, stream, sequence, .. } = *chunk;
            self.chunk = None;
            return Ok(Some(Said::Output { id, stream, sequence, bytes }));
        }
        let Some(end) = memchr::memchr(b'\n', &self.buffer) else {
            // Whatever that is, it is not the multiplexer.
            if self.buffer.len() > LONGEST_LINE {
                self.buffer.clear();
            }
            return Ok(None);
        };
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.truncate(end);
        match self.parse(&line) {
            Some(Line::Said(said)) => Ok(Some(said)),
            Some(Line::Chunk(chunk)) if chunk.length <= super::WINDOW => {
                self.chunk = Some(chunk);
                self.next()
            }
            Some(Line::Chunk(_)) => Err(damaged()),
            None => Ok(Some(Said::Noise { line })),
        }
    }

    fn parse(&self, line: &[u8]) -> Option<Line> {
        let text = std::str::from_utf8(line).ok()?;
        // Something else may have been printed before it on the same line.
        let (_, text) = text.split_once(&self.nonce)?;
        let mut words = text.strip_prefix(' ')?.trim_end_matches('\r').splitn(2, ' ');
        let (what, rest) = (words.next()?, words.next().unwrap_or_default());
        let mut words = rest.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let small = |number: u64| usize::try_from(number).ok();
        let output = |number: u64| {
            number.checked_sub(1).filter(|index| *index < 2).and_then(|index| usize::try_from(index).ok())
        };
        Some(Line::Said(match what {
            "L" => Said::Ready,
            "Q" => Said::Quit { reason: rest.into() },
            "P" => Said::Process { id: number()?, pid: u32::try_from(number()?).ok()? },
            "S" => Said::Started { id: number()? },
            "R" => Said::Refused { id: number()?, why: rest.split(' ').nth(1)?.into() },
            "O" => {
                let (id, stream, sequence) = (number()?, output(number()?)?, number()?);
                return Some(Line::Chunk(Chunk { id, stream, sequence, length: small(number()?)? }));
            }
            "E" => Said::EndOfOutput { id: number()?, stream: output(number()?)?, chunks: number()? },
            "X" => Said::Exited { id: number()?, status: i32::try_from(number()?).ok()? },
            "I" => Said::InputAwaited,
            "H" => Said::InputArrived,
            "G" => Said::InputConsumed { id: number()? },
            "B" => Said::InputBroken { id: number()? },
            "F" => Said::InputEnded { id: number()? },
            _ => return None,
        }))
    }
}

enum Line {
    Said(Said),
    Chunk(Chunk),
}

fn damaged() -> ChannelError {
    ChannelError::Protocol { detail: "output was lost or damaged on its way over the line".into() }
}

/// What the multiplexer is told of a command, after its numbers: what to prepare, then the command's words.
///
/// # Errors
/// `Refused` with `Invalid` for what no command line of a shell can hold.
pub fn command(request: &ExecRequest) -> Result<String, ChannelError> {
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(refused(RefusalReason::Invalid, "a command needs a program"));
    }
    let directory = request.directory.as_deref().unwrap_or("/");
    let mut prelude = format!("cd -- {}", quote(directory));
    for (name, value) in &request.environment {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|first: char| first.is_ascii_digit()) {
            let message = format!("a shell cannot set the variable `{name}`");
            return Err(refused(RefusalReason::Invalid, message));
        }
        // Words after `export` are not split.
        let _ = write!(prelude, " && export {name}={}", quote(value));
    }
    let mut line = quote(&prelude);
    for word in &request.argv {
        line.push(' ');
        line.push_str(&quote(word));
    }
    if line.contains('\0') {
        return Err(refused(RefusalReason::Invalid, "a command cannot hold a zero byte"));
    }
    if line.len() > LONGEST_COMMAND {
        return Err(refused(RefusalReason::Invalid, "the command is too long for a line"));
    }
    Ok(line)
}

/// One word for a POSIX shell, on one line: the multiplexer knows a line's end as `$_bp_l`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''").replace('\n', "'\"$_bp_l\"'"))
}
