//! What travels on a port's socket, as QEMU's `-netdev stream` has it: four bytes of length (big-endian), then the
//! Ethernet frame without its check sequence. Pure.

use std::ops::Range;

/// Bytes before each frame.
pub const HEADER: usize = 4;

/// A frame without addresses and type is none.
pub const SHORTEST: usize = 14;

/// QEMU's `NET_BUFSIZE`: a longer frame makes QEMU give up the connection, so none may reach it, and none comes from it.
pub const LONGEST: usize = 4096 + 65536;

/// What stands at a place of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole frame; the range holds its length too.
    Frame(Range<usize>),
    /// So many bytes that announced themselves well but are too few for a frame: they are skipped.
    TooShort(Range<usize>),
    /// More has to come.
    Incomplete,
    /// The length is none that an Ethernet frame can have: whoever sends this does not speak our language, and where
    /// the next frame begins nobody can say.
    Garbage { length: u32 },
}

/// Looks at the stream's bytes from `at` on. Ranges count from the stream's beginning.
#[inline]
pub fn item_at(bytes: &[u8], at: usize) -> Item {
    let Some(header) = bytes.get(at..at + HEADER) else { return Item::Incomplete };
    let length = u32::from_be_bytes(header.try_into().expect("four bytes were asked for"));
    let size = length as usize;
    if size > LONGEST {
        return Item::Garbage { length };
    }
    let range = at..at + HEADER + size;
    if range.end > bytes.len() {
        return Item::Incomplete;
    }
    if size < SHORTEST { Item::TooShort(range) } else { Item::Frame(range) }
}

/// Puts the length before a frame. Panics when it is longer than [`LONGEST`].
pub fn framed(frame: &[u8]) -> Vec<u8> {
    assert!(frame.len() <= LONGEST, "no frame is so long");
    let mut bytes = Vec::with_capacity(HEADER + frame.len());
    bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    bytes.extend_from_slice(frame);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_boundaries_of_length_are_exact() {
        let of = |length: usize| {
            let mut bytes = (length as u32).to_be_bytes().to_vec();
            bytes.resize(HEADER + length, 0);
            item_at(&bytes, 0)
        };
        assert_eq!(of(0), Item::TooShort(0..4));
        assert_eq!(of(13), Item::TooShort(0..17));
        assert_eq!(of(14), Item::Frame(0..18));
        assert_eq!(of(LONGEST), Item::Frame(0..HEADER + LONGEST));
        assert_eq!(of(LONGEST + 1), Item::Garbage { length: LONGEST as u32 + 1 });
        assert_eq!(item_at(&[0xff; 4], 0), Item::Garbage { length: u32::MAX });
        assert_eq!(item_at(&[0xff; 3], 0), Item::Incomplete);
        assert_eq!(item_at(&[], 0), Item::Incomplete);
    }

    /// Bytes that are frames, too short for one, and garbage, in any mixture.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let bytes = |longest| proptest::collection::vec(any::<u8>(), 0..longest);
        let item = prop_oneof![
            10 => bytes(100).prop_map(|frame| framed(&frame)),
            2 => bytes(8),
            1 => (0..2 * LONGEST as u32).prop_map(|length| length.to_be_bytes().to_vec()),
        ];
        proptest::collection::vec(item, 0..20).prop_map(|items| items.concat())
    }

    /// Reads as whoever has a socket does: what is not whole waits for the next piece. Gives the items, their places
    /// counted from the stream's beginning, what is kept in the end, and the most that ever was.
    fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Vec<u8>, usize) {
        let (mut items, mut kept, mut most, mut begin) = (Vec::new(), Vec::new(), 0, 0);
        for piece in pieces {
            kept.extend_from_slice(piece);
            let mut at = 0;
            loop {
                match item_at(&kept, at) {
                    Item::Frame(range) => {
                        items.push(Item::Frame(begin + range.start..begin + range.end));
                        at = range.end;
                    }
                    Item::TooShort(range) => {
                        items.push(Item::TooShort(begin + range.start..begin + range.end));
                        at = range.end;
                    }
                    Item::Incomplete => break,
                    Item::Garbage { length } => {
                        items.push(Item::Garbage { length });
                        return (items, Vec::new(), most);
                    }
                }
            }
            kept.drain(..at);
            begin += at;
            most = most.max(kept.len());
        }
        (items, kept, most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// The fuzz of the frame reader: any bytes in any pieces give the same items, and less than one frame is kept.
        #[test]
        fn any_bytes_give_the_same_items_however_they_are_cut(stream in stream(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20)) {
            let whole = read(std::iter::once(&stream[..]));
            prop_assert!(whole.2 < HEADER + LONGEST);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = read(cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]));
            prop_assert!(pieces.2 < HEADER + LONGEST);
            prop_assert_eq!(&pieces.0, &whole.0);
            prop_assert_eq!(&pieces.1, &whole.1);
            let bytes = read(stream.chunks(1));
            prop_assert_eq!(&bytes.0, &whole.0);
            prop_assert_eq!(&bytes.1, &whole.1);
            // Nothing is passed over: items follow each other, and what is kept is the rest.
            let mut at = 0;
            for item in &whole.0 {
                match item {
                    Item::Frame(range) | Item::TooShort(range) => {
                        prop_assert_eq!(range.start, at);
                        at = range.end;
                    }
                    Item::Garbage { length } => {
                        prop_assert_eq!(&stream[at..at + HEADER], &length.to_be_bytes());
                        at = stream.len();
                    }
                    Item::Incomplete => unreachable!("it is no item"),
                }
            }
            prop_assert_eq!(&stream[at..], &whole.1[..]);
        }
    }

    proptest! {
        /// Any bytes at all give items that lie within them and follow each other.
        #[test]
        fn any_bytes_are_read_without_a_panic_and_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..600), small in any::<bool>()) {
            let mut bytes = bytes;
            if small {
                // Random lengths are nearly always garbage: make them small now and then.
                bytes.chunks_mut(40).for_each(|chunk| chunk.iter_mut().take(3).for_each(|byte| *byte = 0));
            }
            let mut at = 0;
            loop {
                match item_at(&bytes, at) {
                    Item::Frame(range) | Item::TooShort(range) => {
                        prop_assert_eq!(range.start, at);
                        prop_assert!(range.end > at && range.end <= bytes.len());
                        at = range.end;
                    }
                    Item::Incomplete => {
                        prop_assert!(bytes.len() - at < HEADER + LONGEST);
                        break;
                    }
                    Item::Garbage { length } => {
                        prop_assert!(length as usize > LONGEST);
                        break;
                    }
                }
            }
        }

        #[test]
        fn what_was_framed_comes_out_again_however_it_is_cut(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), SHORTEST..80), 1..10), cut in 1usize..300) {
            let stream: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
            let mut seen = Vec::new();
            let mut kept = Vec::new();
            for piece in stream.chunks(cut) {
                kept.extend_from_slice(piece);
                let mut at = 0;
                while let Item::Frame(range) = item_at(&kept, at) {
                    seen.push(kept[range.start + HEADER..range.end].to_vec());
                    at = range.end;
                }
                kept.drain(..at);
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(kept.is_empty());
        }
    }
}
