//! What waits to be written to a port. Pure: it hands out slices and is told how much of them was taken.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Frames of one source are put together up to so many bytes.
const SEGMENT: usize = 64 << 10;

/// What a segment costs besides its bytes.
const OVERHEAD: usize = 64;

/// Emptied segments that are kept for reuse.
const SPARES: usize = 4;

#[derive(Debug)]
struct Segment {
    from: usize,
    bytes: Vec<u8>,
    /// What it counts for: its bytes and what it costs besides.
    cost: usize,
}

/// Whole frames in the order in which they came; only the first may be written in part. Counts what each source has in
/// it, so that whoever floods a port is held up before anyone else is.
#[derive(Debug, Default)]
pub struct OutputQueue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been written.
    written: usize,
    cost_by_source: Vec<usize>,
    spares: Vec<Vec<u8>>,
}

impl OutputQueue {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes that a source has in the queue, what they cost besides included.
    #[inline]
    pub fn held_of(&self, from: usize) -> usize {
        self.cost_by_source.get(from).copied().unwrap_or(0)
    }

    /// Appends whole frames, or the rest of one that was written in part and is the first.
    pub fn push(&mut self, from: usize, bytes: &[u8]) {
        if self.cost_by_source.len() <= from {
            self.cost_by_source.resize(from + 1, 0);
        }
        if let Some(last) = self.segments.back_mut()
            && last.from == from
            && last.bytes.len() + bytes.len() <= SEGMENT
        {
            last.bytes.extend_from_slice(bytes);
            last.cost += bytes.len();
            self.cost_by_source[from] += bytes.len();
            return;
        }
        let mut segment = self.spares.pop().unwrap_or_default();
        segment.extend_from_slice(bytes);
        let cost = bytes.len() + OVERHEAD;
        self.cost_by_source[from] += cost;
        self.segments.push_back(Segment { from, bytes: segment, cost });
    }

    /// Fills `slices` with what is to be written next and says how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.written;
        let mut count = 0;
        for (slot, segment) in slices.iter_mut().zip(&self.segments) {
            *slot = IoSlice::new(&segment.bytes[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// So many bytes of the slices were written.
    pub fn consume(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.segments.front().expect("no more is written than there was");
            let rest = first.bytes.len() - self.written;
            if count < rest {
                self.written += count;
                return;
            }
            count -= rest;
            self.written = 0;
            let Segment { from, mut bytes, cost } = self.segments.pop_front().expect("it was just there");
            self.cost_by_source[from] -= cost;
            if self.spares.len() < SPARES && bytes.capacity() <= 2 * SEGMENT {
                bytes.clear();
                self.spares.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However it is written, what comes out is what went in, in order, and the sources' accounts end at nothing.
        #[test]
        fn what_goes_in_comes_out(pushes in proptest::collection::vec((0usize..4, 1usize..70_000), 1..40), takes in proptest::collection::vec(1usize..100_000, 1..20)) {
            let mut queue = OutputQueue::default();
            let mut expected = Vec::new();
            let mut written = Vec::new();
            let mut takes = takes.into_iter().cycle();
            let mut take = |queue: &mut OutputQueue, written: &mut Vec<u8>| {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = queue.slices(&mut slices);
                let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = all.len().min(takes.next().unwrap());
                written.extend_from_slice(&all[..taken]);
                queue.consume(taken);
            };
            for (index, (from, length)) in pushes.iter().enumerate() {
                let bytes = vec![index as u8; *length];
                queue.push(*from, &bytes);
                expected.extend_from_slice(&bytes);
                prop_assert!(queue.held_of(*from) >= *length);
                if index % 3 == 0 {
                    take(&mut queue, &mut written);
                }
            }
            while !queue.is_empty() {
                take(&mut queue, &mut written);
            }
            prop_assert!(written == expected);
            prop_assert!((0..4).all(|from| queue.held_of(from) == 0));
        }
    }

    #[test]
    fn many_small_frames_count_for_what_they_cost() {
        let mut queue = OutputQueue::default();
        for _ in 0..100 {
            queue.push(0, &[0; 18]);
            queue.push(1, &[0; 18]);
        }
        assert_eq!(queue.held_of(0), 100 * (18 + OVERHEAD), "by turns, each is a segment");
        assert_eq!(queue.held_of(7), 0);
    }
}
