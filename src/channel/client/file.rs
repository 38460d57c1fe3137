//! A file that is being read from the guest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::stream::PipeReader;

/// A file's bytes. The end is only given once the guest has read the whole file: anything else is an error.
pub struct FileReader {
    pipe: PipeReader,
    size: u64,
    mode: u32,
}

impl FileReader {
    pub(super) fn new(pipe: PipeReader, size: u64, mode: u32) -> Self {
        Self { pipe, size, mode }
    }

    /// In bytes, when the file was opened; 0 for files that have none, such as those under `/proc`.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}
