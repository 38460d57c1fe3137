//! Frames that wait on their links. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::fault::Nanoseconds;

/// What a waiting frame costs besides its bytes.
const OVERHEAD: usize = 96;

/// A frame, its length before it, and where it is on its way to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFrame {
    pub release: Nanoseconds,
    /// Frames that leave at the same time leave in the order in which they came.
    sequence: u64,
    pub from: usize,
    pub to: usize,
    pub framed: Box<[u8]>,
}

impl Ord for HeldFrame {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.release, self.sequence).cmp(&(other.release, other.sequence))
    }
}

impl PartialOrd for HeldFrame {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All frames that wait on any link of a network; bounded per link and in all.
#[derive(Debug)]
pub struct HeldFrames {
    heap: BinaryHeap<Reverse<HeldFrame>>,
    sequence: u64,
    bytes: usize,
    bytes_by_link: HashMap<(usize, usize), usize>,
    limit: usize,
    link_limit: usize,
}

impl HeldFrames {
    /// With at most so many bytes in all and on one link, what a frame costs besides its own bytes included.
    pub fn new(limit: usize, link_limit: usize) -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, bytes: 0, bytes_by_link: HashMap::new(), limit, link_limit }
    }

    /// Whether there is room for a frame of so many bytes on a link.
    pub fn has_room(&self, from: usize, to: usize, length: usize) -> bool {
        let cost = length + OVERHEAD;
        let on_link = self.bytes_by_link.get(&(from, to)).copied().unwrap_or(0);
        self.bytes + cost <= self.limit && on_link + cost <= self.link_limit
    }

    pub fn push(&mut self, release: Nanoseconds, from: usize, to: usize, framed: Box<[u8]>) {
        let cost = framed.len() + OVERHEAD;
        self.bytes += cost;
        *self.bytes_by_link.entry((from, to)).or_default() += cost;
        self.sequence += 1;
        self.heap.push(Reverse(HeldFrame { release, sequence: self.sequence, from, to, framed }));
    }

    /// When the next frame leaves.
    pub fn next_release(&self) -> Option<Nanoseconds> {
        self.heap.peek().map(|Reverse(frame)| frame.release)
    }

    /// The next frame whose time has come.
    pub fn pop_due(&mut self, now: Nanoseconds) -> Option<HeldFrame> {
        if self.next_release()? > now {
            return None;
        }
        let Reverse(frame) = self.heap.pop()?;
        self.uncount(&frame);
        Some(frame)
    }

    /// Takes out what waits on the links that the predicate names, in the order in which it would leave.
    pub fn take(&mut self, mut of: impl FnMut(usize, usize) -> bool) -> Vec<HeldFrame> {
        let (mut taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heap)
            .into_iter()
            .map(|Reverse(frame)| frame)
            .partition(|frame| of(frame.from, frame.to));
        self.heap = kept.into_iter().map(Reverse).collect();
        taken.iter().for_each(|frame| self.uncount(frame));
        taken.sort_unstable();
        taken
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn uncount(&mut self, frame: &HeldFrame) {
        let cost = frame.framed.len() + OVERHEAD;
        self.bytes -= cost;
        if let Some(bytes) = self.bytes_by_link.get_mut(&(frame.from, frame.to)) {
            *bytes -= cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_time_then_in_turn() {
        let mut held = HeldFrames::new(usize::MAX, usize::MAX);
        for (release, mark) in [(5, 1), (3, 2), (5, 3), (4, 4)] {
            held.push(release, 0, 1, [mark; 20].into());
        }
        assert_eq!(held.next_release(), Some(3));
        assert!(held.pop_due(2).is_none());
        let order: Vec<u8> = std::iter::from_fn(|| held.pop_due(5)).map(|frame| frame.framed[0]).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn one_links_frames_can_be_taken_out_and_both_limits_hold() {
        let mut held = HeldFrames::new(1000, 500);
        let mut pushed = 0;
        for from in 0..8 {
            while held.has_room(from, 9, 100) {
                held.push(10 - from as u64, from, 9, [from as u8; 100].into());
                pushed += 1;
            }
        }
        assert_eq!(pushed, 5, "196 bytes each: two on a link, five in all");
        let taken = held.take(|from, _| from == 1);
        assert_eq!(taken.len(), 2);
        assert!(taken.iter().all(|frame| frame.from == 1));
        assert_eq!(held.len(), 3);
        assert!(held.has_room(1, 9, 100), "the room is free again");
        assert_eq!(held.take(|_, _| true).len(), 3);
        assert!(held.is_empty() && held.bytes == 0);
    }
}
