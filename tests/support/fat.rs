//! The smallest FAT volume: a floppy's, with one small file in it, as a stick that an operator prepares has it. By hand, so that no
//! test needs a tool for it.

const SECTOR: usize = 512;
const SECTORS: u16 = 2880;
const FAT_SECTORS: u16 = 9;
const ROOT_ENTRIES: u16 = 224;

/// `label`: 11 characters at most. `name`: 13 at most, in lower case, longer than eight before the dot. `content`: 512 bytes.
pub fn volume(label: &str, name: &str, content: &[u8]) -> Vec<u8> {
    assert!(label.len() <= 11 && name.len() == 13 && content.len() <= SECTOR, "{label} {name} {}", content.len());
    let mut volume = vec![0; usize::from(SECTORS) * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| volume[at..at + bytes.len()].copy_from_slice(bytes);
    let padded: Vec<u8> = format!("{label:<11}").into_bytes();
    put(0, b"\xeb\x3c\x90MSWIN4.1");
    put(11, &512u16.to_le_bytes());
    put(13, &[1]); // sectors in a cluster
    put(14, &1u16.to_le_bytes()); // reserved sectors
    put(16, &[2]); // tables
    put(17, &ROOT_ENTRIES.to_le_bytes());
    put(19, &SECTORS.to_le_bytes());
    put(21, &[0xf0]);
    put(22, &FAT_SECTORS.to_le_bytes());
    put(24, &[18, 0, 2, 0]); // sectors of a track, heads
    put(38, &[0x29, 1, 2, 3, 4]);
    put(43, &padded);
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
    for table in [1, 1 + usize::from(FAT_SECTORS)] {
        // The file's only cluster is its last.
        put(table * SECTOR, &[0xf0, 0xff, 0xff, 0xff, 0x0f]);
    }
    let root = (1 + 2 * usize::from(FAT_SECTORS)) * SECTOR;
    put(root, &padded);
    put(root + 11, &[0x08]);
    // The name as it is, thirteen UTF-16 units in three places, before the short one.
    let short = b"BOOTPR~1CFG";
    let checksum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let long = root + 32;
    put(long, &[0x41]);
    put(long + 1, &units[..10]);
    put(long + 11, &[0x0f, 0, checksum]);
    put(long + 14, &units[10..22]);
    put(long + 28, &units[22..]);
    let entry = root + 64;
    put(entry, short);
    put(entry + 11, &[0x20]);
    put(entry + 26, &2u16.to_le_bytes());
    put(entry + 28, &u32::try_from(content.len()).unwrap().to_le_bytes());
    put(root + usize::from(ROOT_ENTRIES) * 32, content);
    volume
}
