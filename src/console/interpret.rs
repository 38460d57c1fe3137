//! From a stream of bytes to findings.

use std::sync::Arc;

use memchr::{memchr, memrchr};

use super::decode::{Boundary, LINE_LIMIT, LineDecoder, plain_lines};
use crate::marker::{CompiledRules, Line, LineFinding};

/// Reads one console's bytes and reports what its lines mean.
#[derive(Debug)]
pub struct Interpreter {
    rules: Arc<CompiledRules>,
    file: String,
    /// Where in the recording the next byte stands.
    offset: u64,
    decoder: LineDecoder,
    /// Patterns that the open line has matched already.
    reported: Vec<usize>,
    /// Bytes have come since the open line was last tried.
    untried: bool,
}

impl Interpreter {
    /// `file` is the recording's path as evidence names it.
    pub fn new(rules: Arc<CompiledRules>, file: impl Into<String>) -> Self {
        let decoder = LineDecoder::default();
        Self { rules, file: file.into(), offset: 0, decoder, reported: Vec::new(), untried: false }
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads more bytes and reports what the lines that they complete mean.
    pub fn feed(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(LineFinding)) {
        while !bytes.is_empty() {
            if self.decoder.is_at_boundary() {
                // Most lines by far are plain text that needs no decoding, and most of those mean nothing.
                let plain = plain_lines(bytes);
                if plain > 0 {
                    self.scan(&bytes[..plain], emit);
                    self.offset += plain as u64;
                    bytes = &bytes[plain..];
                    continue;
                }
            }
            let (taken, boundary) = self.decoder.push(bytes);
            self.offset += taken as u64;
            bytes = &bytes[taken..];
            if let Some(boundary) = boundary {
                // One more raw byte than the text has: the boundary's own.
                self.examine(self.offset - self.decoder.length() - 1, Some(boundary), emit);
                self.decoder.clear();
                self.reported.clear();
            }
            self.untried = boundary.is_none();
        }
    }

    /// A line is open whose text has not been searched yet: worth calling [`Interpreter::quiet`] when nothing follows.
    pub fn has_untried_text(&self) -> bool {
        self.untried && !self.decoder.is_empty()
    }

    /// The console has gone quiet, or its end has come: searches the open line for patterns, as prompts need.
    /// What it reports is not reported again when the line is completed.
    pub fn quiet(&mut self, emit: &mut impl FnMut(LineFinding)) {
        if self.has_untried_text() {
            self.examine(self.offset - self.decoder.length(), None, emit);
        }
        self.untried = false;
    }

    /// Looks at the lines of plain text that have one of the rules' literals in them.
    fn scan(&self, lines: &[u8], emit: &mut impl FnMut(LineFinding)) {
        let mut from = 0;
        while let Some(candidate) = self.rules.next_candidate(lines, from) {
            let start = memrchr(b'\n', &lines[..candidate]).map_or(0, |feed| feed + 1);
            let end = memchr(b'\n', &lines[candidate..]).map_or(lines.len(), |feed| candidate + feed);
            let mut text = &lines[start..end];
            while let [head @ .., b'\r'] = text {
                text = head;
            }
            let kept = &text[..text.len().min(LINE_LIMIT)];
            if let (false, Ok(kept_text)) = (kept.is_empty(), std::str::from_utf8(kept)) {
                let line = Line {
                    text: kept_text,
                    offset: self.offset + start as u64,
                    length: text.len() as u64,
                    complete: true,
                    intact: kept.len() == text.len(),
                };
                self.rules.examine(line, &self.file, &mut Vec::new(), emit);
            }
            from = end + 1;
            if from >= lines.len() {
                break;
            }
        }
    }

    fn examine(&mut self, offset: u64, boundary: Option<Boundary>, emit: &mut impl FnMut(LineFinding)) {
        if self.decoder.is_empty() {
            return;
        }
        let text = self.decoder.text();
        if self.rules.next_candidate(text.as_bytes(), 0).is_none() {
            return;
        }
        let line = Line {
            text: &text,
            offset,
            length: self.decoder.length(),
            complete: boundary.is_some(),
            // Replaced characters are a change too, and firmware that clears the screen after a reset cuts off what the
            // guest was printing.
            intact: boundary != Some(Boundary::Moved)
                && self.decoder.is_intact()
                && !text.contains(char::REPLACEMENT_CHARACTER),
        };
        self.rules.examine(line, &self.file, &mut self.reported, emit);
    }
}
