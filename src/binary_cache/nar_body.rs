//! A NAR as the body of an answer: made piece by piece when the client has taken the piece before.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::nix_store::{NarReader, PathInfo};

/// Bytes of compressed NAR that are made at a time.
const PIECE: usize = 256 << 10;
/// Fast; installers sit on the same host or network, and every level above costs more time than it saves.
const LEVEL: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    Zstd,
    None,
}

/// Hears which path's stream broke, and why.
pub(super) type OnFailure = Arc<dyn Fn(&PathInfo, &io::Error) + Send + Sync>;

enum Source {
    Plain(NarReader),
    Zstd(zstd::stream::read::Encoder<'static, NarReader>),
}

impl Source {
    fn open(path: &std::path::Path, info: &PathInfo, compression: Compression) -> io::Result<Self> {
        let reader = NarReader::open(path, info.nar_hash.clone(), info.nar_size)?;
        Ok(match compression {
            Compression::None => Self::Plain(reader),
            Compression::Zstd => Self::Zstd(zstd::stream::read::Encoder::with_buffer(reader, LEVEL)?),
        })
    }

    /// The next piece; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Plain(reader) => {
                let piece = Bytes::copy_from_slice(reader.fill_buf()?);
                reader.consume(piece.len());
                Ok(piece)
            }
            Self::Zstd(encoder) => {
                let mut piece = Vec::with_capacity(PIECE);
                encoder.take(PIECE as u64).read_to_end(&mut piece)?;
                Ok(piece.into())
            }
        }
    }
}

/// What a stream holds on to between pieces.
struct Stream {
    path: PathBuf,
    info: Arc<PathInfo>,
    compression: Compression,
    /// Opened with the first piece: an answer to HEAD reads nothing.
    source: Option<Source>,
    /// Given back when the client has all or is gone.
    _place: OwnedSemaphorePermit,
    processors: Arc<Semaphore>,
    on_failure: OnFailure,
}

/// The NAR of `path`. `processors` bounds how many pieces are made at once, of all streams together; `on_failure` hears
/// why a stream broke.
pub(super) fn nar_body(
    path: PathBuf,
    info: Arc<PathInfo>,
    compression: Compression,
    place: OwnedSemaphorePermit,
    processors: Arc<Semaphore>,
    on_failure: OnFailure,
) -> Body {
    let stream = Stream { path, info, compression, source: None, _place: place, processors, on_failure };
    Body::from_stream(futures_util::stream::try_unfold(stream, |mut stream| async move {
        let _processor = stream.processors.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (mut stream, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = stream.next();
            (stream, outcome)
        })
        .await
        .map_err(io::Error::other)?;
        match outcome {
            Ok(piece) if piece.is_empty() => Ok(None),
            Ok(piece) => Ok(Some((piece, stream))),
            Err(error) => {
                stream.source = None;
                (stream.on_failure)(&stream.info, &error);
                Err(error)
            }
        }
    }))
}

impl Stream {
    fn next(&mut self) -> io::Result<Bytes> {
        let source = match &mut self.source {
            Some(source) => source,
            None => self.source.insert(Source::open(&self.path, &self.info, self.compression)?),
        };
        source.next()
    }
}
