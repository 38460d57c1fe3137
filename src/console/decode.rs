//! From raw bytes to the text of lines, one line at a time, in bounded memory.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memrchr};

use crate::text::{Effect, EscapeState, is_safe};

/// How much of a text is kept, in bytes; what follows is counted and dropped.
pub const LINE_LIMIT: usize = 16 << 10;

/// What ended a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// A line feed.
    Line,
    /// A carriage return: the line goes on with another text.
    Return,
    /// A cursor movement: so too, but nobody said that the text was at its end.
    Moved,
}

/// Collects the text between two boundaries.
#[derive(Debug, Default)]
pub(super) struct LineDecoder {
    /// Text bytes so far: no control characters but tab, not yet checked to be UTF-8.
    text: Vec<u8>,
    /// Text bytes that did not fit.
    overflow: u64,
    state: EscapeState,
    /// Something was dropped after the text's first byte; a change once more text follows.
    dropped: bool,
    /// The text is not what stood on the console.
    changed: bool,
    /// Raw bytes since the last boundary.
    length: u64,
}

impl LineDecoder {
    /// Nothing has come since the last boundary.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.length == 0
    }

    /// Raw bytes since the last boundary.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of text that were dropped because they did not fit.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text is, byte for byte, what stood on the console from its first to its last character.
    pub(super) fn is_intact(&self) -> bool {
        !self.changed && self.overflow == 0
    }

    /// The text so far, safe for a terminal.
    pub(super) fn text(&self) -> Cow<'_, str> {
        safe_text(&self.text)
    }

    /// Takes bytes up to the next boundary, that included; gives how many it took and what ended them. After a
    /// boundary the text stays to be read until [`LineDecoder::clear`].
    pub(super) fn push(&mut self, bytes: &[u8]) -> (usize, Option<Boundary>) {
        let mut index = 0;
        while index < bytes.len() {
            if self.state == EscapeState::Ground {
                let run = first_control(&bytes[index..]);
                if run > 0 {
                    self.append(&bytes[index..index + run]);
                    index += run;
                    continue;
                }
            }
            let byte = bytes[index];
            index += 1;
            let boundary = match byte {
                b'\n' => Some(Boundary::Line),
                b'\r' => Some(Boundary::Return),
                _ => self.push_control(byte),
            };
            if boundary.is_some() {
                self.state = EscapeState::Ground;
                self.length += (index - 1) as u64;
                return (index, boundary);
            }
        }
        self.length += index as u64;
        (index, None)
    }

    /// Forgets the text; the next one begins.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.overflow = 0;
        self.dropped = false;
        self.changed = false;
        self.length = 0;
    }

    /// Takes a byte that is no text, or is inside a sequence.
    fn push_control(&mut self, byte: u8) -> Option<Boundary> {
        match self.state.step(byte) {
            Effect::Moved => return Some(Boundary::Moved),
            Effect::Sequence => self.dropped = !self.text.is_empty(),
            Effect::Outside if byte == 0x08 => self.backspace(),
            Effect::Outside if byte >= 0x80 || byte == b'\t' => self.append(&[byte]),
            Effect::Outside => self.dropped = !self.text.is_empty(),
        }
        None
    }

    fn append(&mut self, run: &[u8]) {
        self.changed |= self.dropped;
        self.dropped = false;
        let room = run.len().min(LINE_LIMIT - self.text.len());
        self.text.extend_from_slice(&run[..room]);
        self.overflow += (run.len() - room) as u64;
    }

    /// Takes the last character back.
    fn backspace(&mut self) {
        self.changed |= !self.text.is_empty();
        if self.overflow > 0 {
            self.overflow -= 1;
        } else if !self.text.is_empty() {
            let mut length = self.text.len() - 1;
            let earliest = length.saturating_sub(3);
            while length > earliest && self.text[length] & 0xc0 == 0x80 {
                length -= 1;
            }
            self.text.truncate(length);
        }
    }
}

/// Text bytes as text that is safe for a terminal: invalid UTF-8 and unsafe characters become U+FFFD.
pub(super) fn safe_text(bytes: &[u8]) -> Cow<'_, str> {
    // Asking first is worth it: making lossy text is slow even where nothing is lost.
    let text = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed);
    if text.is_ascii() || text.chars().all(is_safe) {
        return text;
    }
    let safe = |character| if is_safe(character) { character } else { char::REPLACEMENT_CHARACTER };
    Cow::Owned(text.chars().map(safe).collect())
}

/// How many of the first bytes are text: up to the first control character other than tab.
fn first_control(bytes: &[u8]) -> usize {
    let control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    // Between two escape sequences there are few bytes.
    first::<32>(bytes.len(), |range, marks| {
        for (mark, &byte) in marks.iter_mut().zip(&bytes[range]) {
            *mark = u8::from(control(byte));
        }
    })
}

/// How many of the first bytes are whole lines of plain ASCII: no control characters but tabs, line feeds, and
/// carriage returns directly before a line feed. Such lines are their own decoded text.
pub(super) fn plain_lines(bytes: &[u8]) -> usize {
    let line_end = |byte: u8| (byte == b'\n') | (byte == b'\r');
    let plain = |byte: u8, next: u8| {
        (byte.wrapping_sub(b' ') < 0x5f) | (byte == b'\t') | (byte == b'\n') | ((byte == b'\r') & line_end(next))
    };
    // The last byte has no successor to look at, and needs none: if it is not a line feed its line is not whole.
    let pairs = bytes.len().saturating_sub(1);
    let first_odd = first::<256>(pairs, |range, marks| {
        let following = &bytes[range.start + 1..range.end + 1];
        for ((mark, &byte), &next) in marks.iter_mut().zip(&bytes[range]).zip(following) {
            *mark = u8::from(!plain(byte, next));
        }
    });
    let whole = if first_odd == pairs { bytes.len() } else { first_odd };
    memrchr(b'\n', &bytes[..whole]).map_or(0, |last| last + 1)
}

/// The first index that `mark` marks with 1, or `length`. It is given ranges of at most `BLOCK` indices, which the
/// compiler can turn into vector instructions.
fn first<const BLOCK: usize>(length: usize, mark: impl Fn(Range<usize>, &mut [u8])) -> usize {
    let mut marks = [0; BLOCK];
    let mut start = 0;
    while start < length {
        let end = length.min(start + BLOCK);
        let marks = &mut marks[..end - start];
        mark(start..end, marks);
        if let Some(hit) = memchr(1, marks) {
            return start + hit;
        }
        start = end;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> Vec<(String, bool)> {
        let mut decoder = LineDecoder::default();
        let mut texts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, boundary) = decoder.push(rest);
            rest = &rest[taken..];
            if boundary.is_some() || rest.is_empty() {
                if !decoder.is_empty() {
                    texts.push((decoder.text().into_owned(), decoder.is_intact()));
                }
                decoder.clear();
            }
        }
        texts
    }

    #[test]
    fn texts_are_what_a_reader_would_see() {
        for (bytes, expected) in [
            (&b"plain\r\n"[..], vec![("plain", true)]),
            (b"\x1b[32mgreen\x1b[0m\r\n", vec![("green", true)]),
            (b"[\x1b[0;1;31mFAILED\x1b[0m] x", vec![("[FAILED] x", false)]),
            (b"10%\r50%\r100%\r\n", vec![("10%", true), ("50%", true), ("100%", true)]),
            (b"abX\x08c", vec![("abc", false)]),
            (b"\xc3\xa9\x08e", vec![("e", false)]),
            (b"\0\0boot\0\n", vec![("boot", true)]),
            (b"bo\0ot", vec![("boot", false)]),
            (b"a\xffb", vec![("a\u{fffd}b", true)]),
            (b"\x1b]0;title\x07text", vec![("text", true)]),
            (b"\x1b]0;open\nnext", vec![("next", true)]),
            (b"\x1b[2J\x1b[01;01Hone\x1b[5;1Htwo", vec![("one", true), ("two", true)]),
            (b"a\tb\x7f", vec![("a\tb", true)]),
            (b"\xc2\x9b31m", vec![("\u{fffd}31m", true)]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(text, intact)| (text.to_owned(), intact)).collect();
            assert_eq!(texts(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn plain_lines_end_at_the_first_line_that_is_not() {
        let plain = "x".repeat(300);
        for (text, expected) in [
            ("a\nb\n".to_owned(), 4),
            ("a\r\nb\r\r\nc".to_owned(), 7),
            ("a\nb\rc\n".to_owned(), 2),
            ("a\nb\r".to_owned(), 2),
            ("a\r".to_owned(), 0),
            (format!("{plain}\n{plain}\n\x1b[0m\n"), 602),
            (format!("{plain}\né\n"), 301),
            ("a\n\x7f".to_owned(), 2),
            (String::new(), 0),
        ] {
            assert_eq!(plain_lines(text.as_bytes()), expected, "{text:?}");
        }
    }
}
