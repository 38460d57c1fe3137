//! Reading a recording again: the whole of it as a log for people, or the lines around one place.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use memchr::{memchr, memchr_iter, memrchr};

use super::decode::{Boundary, LineDecoder, plain_lines};
use crate::error::{Context, Result};
use crate::text::shortened;

const BUFFER: usize = 64 << 10;

/// How far around a place an excerpt looks for line ends, in bytes.
const EXCERPT_REACH: u64 = 64 << 10;

/// The longest line of an excerpt, in bytes.
const EXCERPT_WIDTH: usize = 400;

/// Writes the recording `raw` as readable text to `log` (which is replaced): one line each, only text, over-long lines
/// shortened with a note. Of texts that overwrote one another on a line the last that is not blank stays. Gives the
/// number of bytes written.
pub fn decode_file(raw: &Path, log: &Path) -> Result<u64> {
    let reading = || format!("failed to read the console recording `{}`", raw.display());
    let writing = || format!("failed to write the console log `{}`", log.display());
    let mut source = File::open(raw).infrastructure(reading)?;
    let target = File::create(log).infrastructure(writing)?;
    let mut lines = ReadableLines::default();
    let mut output = BufWriter::with_capacity(BUFFER, Counting { inner: target, bytes: 0 });
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match source.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.infrastructure(reading)?,
        };
        if count == 0 {
            break;
        }
        lines.feed(&buffer[..count], &mut output).infrastructure(writing)?;
    }
    lines.finish(&mut output).infrastructure(writing)?;
    let counting = output.into_inner().map_err(|error| error.into_error()).infrastructure(writing)?;
    Ok(counting.bytes)
}

/// Turns raw bytes into readable lines, however they were cut.
#[derive(Default)]
pub struct ReadableLines {
    decoder: LineDecoder,
    /// The last text of the open line that was not blank, with the bytes that did not fit.
    best: String,
    best_overflow: u64,
    /// The open line has had any text or boundary at all.
    open: bool,
}

impl ReadableLines {
    /// Writes the lines that these bytes end.
    pub fn feed(&mut self, mut bytes: &[u8], output: &mut impl Write) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.decoder.is_at_boundary() && !self.open {
                let plain = plain_lines(bytes);
                if plain > 0 {
                    copy_plain(&bytes[..plain], output)?;
                    bytes = &bytes[plain..];
                    continue;
                }
            }
            let (taken, boundary) = self.decoder.push(bytes);
            bytes = &bytes[taken..];
            self.open = true;
            match boundary {
                Some(Boundary::Return | Boundary::Moved) => self.keep_text(),
                Some(Boundary::Line) => self.end_line(output)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Writes the line that was not ended, if any.
    pub fn finish(&mut self, output: &mut impl Write) -> std::io::Result<()> {
        if self.open { self.end_line(output) } else { Ok(()) }
    }

    fn keep_text(&mut self) {
        let text = self.decoder.text();
        if !text.trim().is_empty() {
            self.best.clear();
            self.best.push_str(&text);
            self.best_overflow = self.decoder.overflow();
        }
        self.decoder.clear();
    }

    fn end_line(&mut self, output: &mut impl Write) -> std::io::Result<()> {
        self.keep_text();
        output.write_all(self.best.as_bytes())?;
        if self.best_overflow > 0 {
            write!(output, " [{} more bytes of this line are in the recording]", self.best_overflow)?;
        }
        output.write_all(b"\n")?;
        self.best.clear();
        self.best_overflow = 0;
        self.open = false;
        Ok(())
    }
}

/// Plain lines are their own text, but for their carriage returns and for a line that is too long.
fn copy_plain(lines: &[u8], output: &mut impl Write) -> std::io::Result<()> {
    if lines.len() <= super::LINE_LIMIT && memchr(b'\r', lines).is_none() {
        return output.write_all(lines);
    }
    let mut start = 0;
    for feed in memchr_iter(b'\n', lines) {
        let mut text = &lines[start..feed];
        while let [head @ .., b'\r'] = text {
            text = head;
        }
        let kept = text.len().min(super::LINE_LIMIT);
        output.write_all(&text[..kept])?;
        if kept < text.len() {
            write!(output, " [{} more bytes of this line are in the recording]", text.len() - kept)?;
        }
        output.write_all(b"\n")?;
        start = feed + 1;
    }
    Ok(())
}

/// Counts what goes through.
struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Some lines of a console, safe to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    pub lines: Vec<String>,
    /// Which of them holds the place that was asked for.
    pub at: Option<usize>,
}

/// The line of the recording at `offset`, with up to `before` lines before and `after` lines after it. Blank lines are
/// left out (except the one asked for), lines are cut after 400 bytes, and no more than 64 KiB to either side are read.
/// An offset at or past the end gives the last lines.
pub fn excerpt(raw: &Path, offset: u64, before: usize, after: usize) -> Result<Excerpt> {
    let reading = || format!("failed to read the console recording `{}`", raw.display());
    let mut source = File::open(raw).infrastructure(reading)?;
    let length = source.metadata().infrastructure(reading)?.len();
    let start = offset.min(length).saturating_sub(EXCERPT_REACH);
    source.seek(SeekFrom::Start(start)).infrastructure(reading)?;
    let mut window = Vec::new();
    source.take(2 * EXCERPT_REACH).read_to_end(&mut window).infrastructure(reading)?;
    let place = (offset.saturating_sub(start) as usize).min(window.len().saturating_sub(1));
    Ok(around(&window, place, before, after))
}

fn around(window: &[u8], place: usize, before: usize, after: usize) -> Excerpt {
    let line_start = memrchr(b'\n', &window[..place]).map_or(0, |feed| feed + 1);
    let line_end = memchr(b'\n', &window[place..]).map_or(window.len(), |feed| place + feed);
    let mut lines = Vec::new();
    let mut end = line_start;
    while lines.len() < before && end > 0 {
        let start = memrchr(b'\n', &window[..end - 1]).map_or(0, |feed| feed + 1);
        lines.extend(Some(readable(&window[start..end - 1])).filter(|line| !line.trim().is_empty()));
        end = start;
    }
    lines.reverse();
    let at = lines.len();
    if !window.is_empty() {
        lines.push(readable(&window[line_start..line_end]));
    }
    let mut start = line_end + 1;
    while lines.len() <= at + after && start < window.len() {
        let end = memchr(b'\n', &window[start..]).map_or(window.len(), |feed| start + feed);
        lines.extend(Some(readable(&window[start..end])).filter(|line| !line.trim().is_empty()));
        start = end + 1;
    }
    let at = (!window.is_empty()).then_some(at);
    Excerpt { lines, at }
}

/// One raw line as the log would have it, shortened.
fn readable(raw: &[u8]) -> String {
    let mut lines = ReadableLines::default();
    let mut output = Vec::new();
    // Writing to memory cannot fail.
    let written = lines.feed(raw, &mut output).and_then(|()| lines.finish(&mut output));
    debug_assert!(written.is_ok());
    let text = String::from_utf8_lossy(&output);
    let text = text.trim_end_matches('\n');
    match text.len() > EXCERPT_WIDTH {
        true => format!("{}...", shortened(text, EXCERPT_WIDTH)),
        false => text.to_owned(),
    }
}
