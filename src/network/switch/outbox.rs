//! What one round of the switch is going to hand to each port: mostly ranges of the bytes that were just read, which go
//! out from where they lie.

use std::ops::Range;

use crate::network::frame::{HEADER, Item, item_at};

/// Frames for a port, in order.
#[derive(Debug)]
pub enum Piece {
    /// Whole frames one behind the other in the buffer that was read.
    Range(Range<usize>),
    /// One frame that is not as it came.
    Owned(Box<[u8]>),
}

#[derive(Debug)]
pub struct Entry {
    pub from: usize,
    pub frames: u64,
    pub piece: Piece,
}

impl Entry {
    pub fn bytes<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match &self.piece {
            Piece::Range(range) => &buffer[range.clone()],
            Piece::Owned(bytes) => bytes,
        }
    }

    /// Each frame, without its length.
    pub fn frames<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes(buffer);
        let mut at = 0;
        std::iter::from_fn(move || match item_at(bytes, at) {
            Item::Frame(range) => {
                at = range.end;
                Some(&bytes[range.start + HEADER..range.end])
            }
            Item::TooShort(_) | Item::Incomplete | Item::Garbage { .. } => None,
        })
    }
}

/// By port.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: Vec<Vec<Entry>>,
    /// Ports that have some.
    touched: Vec<usize>,
}

impl Outbox {
    pub fn add_port(&mut self) {
        self.entries.push(Vec::new());
    }

    /// A frame as it was read. Behind the one before it, it makes one range with it.
    #[inline]
    pub fn push_range(&mut self, to: usize, from: usize, range: &Range<usize>) {
        let entries = &mut self.entries[to];
        if let Some(Entry { from: before, frames, piece: Piece::Range(last) }) = entries.last_mut()
            && last.end == range.start
            && *before == from
        {
            last.end = range.end;
            *frames += 1;
            return;
        }
        if entries.is_empty() {
            self.touched.push(to);
        }
        entries.push(Entry { from, frames: 1, piece: Piece::Range(range.clone()) });
    }

    pub fn push_owned(&mut self, to: usize, from: usize, framed: Box<[u8]>) {
        if self.entries[to].is_empty() {
            self.touched.push(to);
        }
        self.entries[to].push(Entry { from, frames: 1, piece: Piece::Owned(framed) });
    }

    /// A port that has something, and what that is; give it back with [`Outbox::reuse`].
    pub fn take_next(&mut self) -> Option<(usize, Vec<Entry>)> {
        let to = self.touched.pop()?;
        Some((to, std::mem::take(&mut self.entries[to])))
    }

    pub fn reuse(&mut self, to: usize, mut entries: Vec<Entry>) {
        entries.clear();
        self.entries[to] = entries;
    }
}
