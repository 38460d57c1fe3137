//! The blocks of a pcapng file that a recording needs, after draft-ietf-opsawg-pcapng. Pure: bytes are appended.

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const LINKTYPE_ETHERNET: u16 = 1;

const END_OF_OPTIONS: u16 = 0;
const USER_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_TIMESTAMP_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// Which way a frame passed its interface, a port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The machine sent it.
    Inbound,
    /// It was handed to the machine.
    Outbound,
}

/// Begins a file.
pub fn section_header(out: &mut Vec<u8>) {
    block(out, SECTION_HEADER, |out| {
        out.extend_from_slice(&0x1a2b_3c4d_u32.to_ne_bytes());
        out.extend_from_slice(&1u16.to_ne_bytes());
        out.extend_from_slice(&0u16.to_ne_bytes());
        // How long the section is, is not known yet.
        out.extend_from_slice(&u64::MAX.to_ne_bytes());
        option(out, USER_APPLICATION, concat!("bootproof ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Interfaces are numbered from 0 in the order in which they are described.
pub fn interface_description(out: &mut Vec<u8>, name: &str, snap_length: u32) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend_from_slice(&LINKTYPE_ETHERNET.to_ne_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&snap_length.to_ne_bytes());
        option(out, INTERFACE_NAME, name.as_bytes());
        // Ten to the power of minus nine: nanoseconds.
        option(out, INTERFACE_TIMESTAMP_RESOLUTION, &[9]);
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// How many bytes [`packet`] appends for a frame of which so many bytes are kept.
pub fn packet_size(kept: usize) -> usize {
    12 + 20 + kept.next_multiple_of(4) + 8 + 4
}

/// One frame, of which at most `snap_length` bytes are kept; `nanoseconds` since 1970.
pub fn packet(
    out: &mut Vec<u8>,
    interface: u32,
    direction: Direction,
    nanoseconds: u64,
    frame: &[u8],
    snap_length: u32,
) {
    let kept = &frame[..frame.len().min(snap_length as usize)];
    block(out, ENHANCED_PACKET, |out| {
        out.extend_from_slice(&interface.to_ne_bytes());
        timestamp(out, nanoseconds);
        out.extend_from_slice(&(kept.len() as u32).to_ne_bytes());
        out.extend_from_slice(&(frame.len() as u32).to_ne_bytes());
        out.extend_from_slice(kept);
        pad(out, kept.len());
        let flags: u32 = match direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(out, PACKET_FLAGS, &flags.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// How many bytes [`statistics`] appends.
pub const STATISTICS_SIZE: usize = 12 + 12 + 2 * 12 + 4;

/// What there was at an interface, and how much of it is not in the file.
pub fn statistics(out: &mut Vec<u8>, interface: u32, nanoseconds: u64, received: u64, dropped: u64) {
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend_from_slice(&interface.to_ne_bytes());
        timestamp(out, nanoseconds);
        option(out, STATISTICS_RECEIVED, &received.to_ne_bytes());
        option(out, STATISTICS_DROPPED, &dropped.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

fn timestamp(out: &mut Vec<u8>, nanoseconds: u64) {
    out.extend_from_slice(&((nanoseconds >> 32) as u32).to_ne_bytes());
    out.extend_from_slice(&(nanoseconds as u32).to_ne_bytes());
}

/// A block has its length at both ends.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = ((out.len() - begin + 4) as u32).to_ne_bytes();
    out[begin + 4..begin + 8].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Names are a lane's; one that is longer than an option can be is cut.
    let value = &value[..value.len().min(u16::MAX as usize)];
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

/// Everything begins at a multiple of four bytes.
fn pad(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&[0; 3][..length.next_multiple_of(4) - length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks over the blocks as every reader does.
    fn kinds(bytes: &[u8]) -> Vec<u32> {
        let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let length = number(at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(number(at + length - 4) as usize, length);
            kinds.push(number(at));
            at += length;
        }
        kinds
    }

    #[test]
    fn blocks_are_framed_and_as_long_as_was_said() {
        let mut out = Vec::new();
        section_header(&mut out);
        interface_description(&mut out, "node01", 65536);
        for length in 14..40 {
            let before = out.len();
            packet(&mut out, 0, Direction::Inbound, 1_700_000_000_123_456_789, &vec![7; length], 30);
            assert_eq!(out.len() - before, packet_size(length.min(30)));
        }
        let before = out.len();
        statistics(&mut out, 0, 1, 2, 3);
        assert_eq!(out.len() - before, STATISTICS_SIZE);
        let kinds = kinds(&out);
        assert_eq!(kinds[..3], [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET]);
        assert_eq!(kinds.len(), 2 + 26 + 1);
    }
}
