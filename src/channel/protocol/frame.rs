//! Frames: `magic[4] kind[1] pipe[1] length[2] stream[4] crc[4] payload[length]`, integers little-endian.
//!
//! The CRC-32 covers the eight bytes after the magic and the payload. The longest frame has exactly 32 KiB, because that
//! is the most that the kernel's virtio-serial driver takes in one write.

use serde::Serialize;

pub const MAGIC: [u8; 4] = [0xb0, 0x07, 0xf4, 0x1d];
pub const HEADER_LENGTH: usize = 16;
pub const MAX_FRAME: usize = 32 << 10;
pub const MAX_PAYLOAD: usize = MAX_FRAME - HEADER_LENGTH;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Host: say HELLO.
    Solicit = 1,
    /// Agent: here I am.
    Hello = 2,
    /// Host: the session with this nonce is on.
    HelloAck = 3,
    /// Host: a new stream with a request.
    Open = 4,
    /// Agent: the request is under way.
    Opened = 5,
    /// Bytes of a pipe.
    Data = 6,
    /// No more bytes on this pipe in this direction.
    End = 7,
    /// The payload's `u32` of credit for a pipe.
    Credit = 8,
    /// Agent: how the request came out. Pipes may still have data.
    Finished = 9,
    /// The stream is over, with a reason.
    Reset = 10,
    /// Host: answer with the same payload.
    Ping = 11,
    Pong = 12,
    /// Host: the stream's terminal has another size, in the payload's two `u16`: rows and columns.
    Resize = 13,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => FrameKind::Solicit,
            2 => FrameKind::Hello,
            3 => FrameKind::HelloAck,
            4 => FrameKind::Open,
            5 => FrameKind::Opened,
            6 => FrameKind::Data,
            7 => FrameKind::End,
            8 => FrameKind::Credit,
            9 => FrameKind::Finished,
            10 => FrameKind::Reset,
            11 => FrameKind::Ping,
            12 => FrameKind::Pong,
            13 => FrameKind::Resize,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub pipe: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One frame as bytes.
///
/// # Panics
///
/// When the payload is longer than [`MAX_PAYLOAD`]: whoever sends bulk has to cut it.
pub fn encode(kind: FrameKind, pipe: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= MAX_PAYLOAD, "a frame's payload has at most {MAX_PAYLOAD} bytes");
    let mut bytes = Vec::with_capacity(HEADER_LENGTH + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(kind as u8);
    bytes.push(pipe);
    bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&stream.to_le_bytes());
    let crc = checksum(&bytes[4..12], payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame with a JSON message; `None` when the message does not fit into one.
pub fn encode_json(kind: FrameKind, stream: u32, message: &impl Serialize) -> Option<Vec<u8>> {
    let payload = serde_json::to_vec(message).ok()?;
    (payload.len() <= MAX_PAYLOAD).then(|| encode(kind, 0, stream, &payload))
}

/// What a side sends before its first frame: completes, and so spoils, whatever frame its predecessor left unfinished.
/// (One whose missing bytes were zeros comes out whole, which is what it was.)
pub fn preamble() -> Vec<u8> {
    vec![0; MAX_FRAME]
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// Finds frames in a stream of bytes, however they are cut, and skips what is none.
///
/// Holds at most one frame and what was pushed last.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    skipped: u64,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets a frame that has only half arrived.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.start = 0;
    }

    /// Bytes that belonged to no valid frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole frame. Frames of a kind that this version does not know are skipped.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            self.seek_magic();
            let bytes = &self.buffer[self.start..];
            if bytes.len() < HEADER_LENGTH {
                return None;
            }
            let length = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
            if length > MAX_PAYLOAD || usize::from(bytes[5]) >= super::PIPES {
                self.skip(1);
                continue;
            }
            if bytes.len() < HEADER_LENGTH + length {
                return None;
            }
            let (header, rest) = bytes.split_at(HEADER_LENGTH);
            let payload = &rest[..length];
            let expected = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
            if checksum(&header[4..12], payload) != expected {
                // The length may be wrong as well: a whole frame may begin inside.
                self.skip(1);
                continue;
            }
            let frame = FrameKind::from_byte(header[4]).map(|kind| Frame {
                kind,
                pipe: header[5],
                stream: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
                payload: payload.to_vec(),
            });
            self.start += HEADER_LENGTH + length;
            if frame.is_some() {
                return frame;
            }
        }
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.skipped += count as u64;
    }

    /// Moves to the next place where a magic begins, or could begin once more bytes are there.
    fn seek_magic(&mut self) {
        let bytes = &self.buffer[self.start..];
        let found = (0..bytes.len())
            .find(|&index| {
                let rest = &bytes[index..];
                let seen = rest.len().min(MAGIC.len());
                rest[..seen] == MAGIC[..seen]
            })
            .unwrap_or(bytes.len());
        self.skip(found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(chunks: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame() {
                frames.push(frame);
            }
        }
        frames
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        (1u8..=12, 0u8..3, any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(kind, pipe, stream, payload)| Frame { kind: FrameKind::from_byte(kind).unwrap(), pipe, stream, payload },
        )
    }

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        encode(frame.kind, frame.pipe, frame.stream, &frame.payload)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn however_the_bytes_are_cut_the_frames_are_the_same(
            frames in prop::collection::vec(any_frame(), 0..8),
            cuts in prop::collection::vec(1usize..700, 1..40),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
            let mut chunks = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(decode_all(&chunks), frames);
        }

        #[test]
        fn a_frame_is_found_after_a_predecessor_that_was_cut_off_anywhere(
            length in 0usize..=MAX_PAYLOAD,
            cut in 0usize..MAX_FRAME,
            frame in any_frame(),
        ) {
            let unfinished = encode(FrameKind::Data, 1, 7, &vec![0x5a; length]);
            let unfinished = &unfinished[..cut.min(unfinished.len() - 1)];
            let frames = decode_all(&[unfinished, &preamble(), &bytes_of(&frame)]);
            prop_assert_eq!(frames, vec![frame]);
        }

        #[test]
        fn noise_is_survived_and_never_taken_for_a_frame(
            noise in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xb0), Just(0x07), Just(0xf4), Just(0x1d)], 0..2000),
            frame in any_frame(),
        ) {
            let frames = decode_all(&[&noise, &preamble(), &bytes_of(&frame)]);
            prop_assert_eq!(frames, vec![frame]);
        }

        #[test]
        fn a_flipped_bit_loses_one_frame_and_not_the_next(
            first in any_frame(), second in any_frame(), position in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = bytes_of(&first);
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
            let frames = decode_all(&[&bytes, &preamble(), &bytes_of(&second)]);
            prop_assert_eq!(frames, vec![second]);
        }
    }

    #[test]
    fn a_kind_from_the_future_is_skipped_whole() {
        let mut unknown = encode(FrameKind::Ping, 0, 0, &encode(FrameKind::Pong, 0, 0, b"inside"));
        unknown[4] = 99;
        let crc = checksum(&unknown[4..12], &unknown[HEADER_LENGTH..]).to_le_bytes();
        unknown[12..16].copy_from_slice(&crc);
        let after = encode(FrameKind::Ping, 0, 3, b"after");
        let frames = decode_all(&[&unknown, &after]);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].stream, 3);
    }

    #[test]
    fn the_decoder_does_not_grow_with_garbage() {
        let mut decoder = Decoder::default();
        for _ in 0..1000 {
            decoder.push(&[0xb0; 4096]);
            assert!(decoder.next_frame().is_none());
        }
        assert!(decoder.buffer.capacity() < 64 << 10, "{}", decoder.buffer.capacity());
    }
}
