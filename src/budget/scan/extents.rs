//! Extents that several files share: copies by reflink, snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use rustix::fs::FsWord;
use rustix::ioctl::{self, Updater};

/// A stretch of the disk that the file system says more than one file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedExtent {
    pub group: u32,
    /// Where its group stands in the order of paths.
    pub rank: usize,
    /// Which stretch of which file it is: two names of a file tell of the same.
    pub inode: u64,
    pub logical: u64,
    /// Bytes from the start of the disk.
    pub start: u64,
    pub end: u64,
}

/// What a group has of what is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes that were counted already, in this group or another.
    pub again: u64,
    /// Bytes that are counted here and that other groups, or somebody whom nobody has met, hold too.
    pub held_elsewhere: u64,
}

/// Goes over the disk once and charges each stretch to the first group that has it.
pub fn counted_again(extents: Vec<SharedExtent>) -> BTreeMap<u32, Counted> {
    let mut edges: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, extent) in extents.iter().enumerate().filter(|(_, extent)| extent.start < extent.end) {
        edges.entry(extent.start).or_default().0.push(index);
        edges.entry(extent.end).or_default().1.push(index);
    }
    let mut result: BTreeMap<u32, Counted> = BTreeMap::new();
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut before = 0;
    for (at, (begin, end)) in edges {
        let length = at - before;
        if let Some((_, first)) = open.first() {
            let owner = extents[*first].group;
            for (_, other) in open.iter().skip(1) {
                result.entry(extents[*other].group).or_default().again += length;
            }
            // One file alone with it: whoever shares it is not here.
            let within = open.iter().all(|(_, other)| extents[*other].group == owner) && open.len() > 1;
            if !within {
                result.entry(owner).or_default().held_elsewhere += length;
            }
        }
        for index in end {
            open.remove(&(extents[index].rank, index));
        }
        for index in begin {
            open.insert((extents[index].rank, index));
        }
        before = at;
    }
    result
}

/// Whether files can share extents there: only then is it worth a question for each file.
pub fn may_share(magic: FsWord) -> bool {
    const BTRFS: FsWord = 0x9123_683e;
    const XFS: FsWord = 0x5846_5342;
    const BCACHEFS: FsWord = 0xca45_1a4e;
    matches!(magic, BTRFS | XFS | BCACHEFS)
}

/// Extents that are asked for at a time.
const BATCH: usize = 64;
/// `FIEMAP_EXTENT_LAST`, `FIEMAP_EXTENT_SHARED` and those that have no place on the disk that could be compared
/// (`UNKNOWN`, `DELALLOC`, `DATA_INLINE`).
const LAST: u32 = 0x1;
const SHARED: u32 = 0x2000;
const NO_PLACE: u32 = 0x2 | 0x4 | 0x200;

/// `struct fiemap` of `linux/fiemap.h` with room for answers.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `FS_IOC_FIEMAP`, whose size is that of the request without room: `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: ioctl::Opcode = ioctl::opcode::read_write::<[u8; 32]>(b'f', 11);

/// What of a file is shared; nothing where the file system does not say.
pub fn shared_of(file: impl AsFd, group: u32, inode: u64) -> Vec<SharedExtent> {
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let mut request = Request {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            room: BATCH as u32,
            reserved: 0,
            extents: [Extent::default(); BATCH],
        };
        // SAFETY: the kernel writes at most as many extents as there is room for, into memory that is ours.
        let answer = unsafe { ioctl::ioctl(&file, Updater::<FIEMAP, Request>::new(&mut request)) };
        let mapped = (request.mapped as usize).min(BATCH);
        let (Ok(()), Some(last)) = (answer, request.extents[..mapped].last()) else { return found };
        for extent in &request.extents[..mapped] {
            if extent.flags & SHARED != 0 && extent.flags & NO_PLACE == 0 {
                let end = extent.physical.saturating_add(extent.length);
                let Extent { logical, physical: start, .. } = *extent;
                found.push(SharedExtent { group, rank: 0, inode, logical, start, end });
            }
        }
        let next = last.logical.saturating_add(last.length);
        if last.flags & LAST != 0 || next <= start {
            return found;
        }
        start = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(group: u32, inode: u64, start: u64, end: u64) -> SharedExtent {
        SharedExtent { group, rank: group as usize, inode, logical: start, start, end }
    }

    #[test]
    fn each_stretch_is_charged_to_the_first_that_has_it() {
        // Two files of one group and one of another, which overlap: 0-10, 5-15, 8-20.
        let counted = counted_again(vec![extent(2, 3, 8, 20), extent(1, 1, 0, 10), extent(1, 2, 5, 15)]);
        // 5-10 in group 1 twice; 8-15 in group 2 again.
        assert_eq!(counted[&1], Counted { again: 5, held_elsewhere: 5 + 7 });
        assert_eq!(counted[&2], Counted { again: 7, held_elsewhere: 5 });
    }

    #[test]
    fn what_two_files_of_one_folder_share_goes_with_it() {
        let counted = counted_again(vec![extent(1, 1, 100, 200), extent(1, 2, 100, 200)]);
        assert_eq!(counted[&1], Counted { again: 100, held_elsewhere: 0 });
        let alone = counted_again(vec![extent(1, 1, 100, 200), extent(1, 1, 200, 300)]);
        assert_eq!(alone[&1], Counted { again: 0, held_elsewhere: 200 });
        assert!(counted_again(vec![extent(1, 1, 7, 7)]).is_empty());
    }

    #[test]
    fn a_request_looks_as_the_kernel_has_it() {
        assert_eq!(std::mem::size_of::<Extent>(), 56);
        assert_eq!(std::mem::offset_of!(Request, extents), 32);
        assert_eq!(FIEMAP, 0xc020_660b);
    }
}
