//! Sums by folder, in which nothing is counted twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::extents::{self, SharedExtent};

/// What is in a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated. What several places hold counts for the first of them, in the order of their paths.
    pub bytes: u64,
    /// Of these, what is held from elsewhere too: it stays when this folder alone goes.
    pub held_elsewhere: u64,
    /// All that is no folder, each name of it.
    pub files: u64,
    pub folders: u64,
}

impl Usage {
    pub fn add(&mut self, other: &Usage) {
        self.bytes += other.bytes;
        self.held_elsewhere += other.held_elsewhere;
        self.files += other.files;
        self.folders += other.folders;
    }

    /// What is free when this goes and nothing else.
    pub fn freed(&self) -> u64 {
        self.bytes.saturating_sub(self.held_elsewhere)
    }
}

/// One file of those that have several names.
struct Linked {
    bytes: u64,
    names: u32,
    /// How many of its names were met, by group.
    met: BTreeMap<u32, u32>,
}

/// What one thread has counted. Groups are folders, by number.
#[derive(Default)]
pub struct Tally {
    plain: Vec<Usage>,
    linked: HashMap<u64, Linked>,
    shared: Vec<SharedExtent>,
}

impl Tally {
    pub fn group(&mut self, group: u32) -> &mut Usage {
        let index = group as usize;
        if index >= self.plain.len() {
            self.plain.resize(index + 1, Usage::default());
        }
        &mut self.plain[index]
    }

    /// A file with this many names. Gives whether it is met for the first time.
    pub fn linked(&mut self, group: u32, inode: u64, names: u32, bytes: u64) -> bool {
        self.group(group).files += 1;
        let linked = self.linked.entry(inode).or_insert_with(|| Linked { bytes, names, met: BTreeMap::new() });
        *linked.met.entry(group).or_default() += 1;
        linked.met.len() == 1 && linked.met[&group] == 1
    }

    /// What a file holds together with others.
    pub fn shared(&mut self, extents: impl IntoIterator<Item = SharedExtent>) {
        self.shared.extend(extents);
    }

    pub fn merge(&mut self, other: Tally) {
        for (group, usage) in other.plain.iter().enumerate() {
            self.group(group as u32).add(usage);
        }
        for (inode, theirs) in other.linked {
            let ours = self.linked.entry(inode).or_insert_with(|| Linked { met: BTreeMap::new(), ..theirs });
            for (group, count) in theirs.met {
                *ours.met.entry(group).or_default() += count;
            }
        }
        self.shared.extend(other.shared);
    }

    /// The sums. `rank`: of each group, where its path stands in their order; that decides who is charged, so that the figures do
    /// not depend on who was faster.
    pub fn finish(mut self, rank: &[usize]) -> Vec<Usage> {
        self.plain.resize(rank.len(), Usage::default());
        let place = |group: u32| rank[group as usize];
        let mut owners = HashMap::new();
        for (inode, linked) in self.linked {
            let Some(first) = linked.met.keys().copied().min_by_key(|group| place(*group)) else { continue };
            owners.insert(inode, first);
            let usage = &mut self.plain[first as usize];
            usage.bytes += linked.bytes;
            if linked.met.len() > 1 || linked.met[&first] < linked.names {
                usage.held_elsewhere += linked.bytes;
            }
        }
        // Two threads may have met two names of one file.
        let mut known = HashSet::new();
        self.shared.retain(|extent| known.insert((extent.inode, extent.logical)));
        for extent in &mut self.shared {
            extent.group = owners.get(&extent.inode).copied().unwrap_or(extent.group);
            extent.rank = place(extent.group);
        }
        for (group, counted) in extents::counted_again(self.shared) {
            let usage = &mut self.plain[group as usize];
            usage.bytes = usage.bytes.saturating_sub(counted.again);
            // A file's own figure may be less than its extents, where the file system compresses.
            usage.held_elsewhere = (usage.held_elsewhere + counted.held_elsewhere).min(usage.bytes);
        }
        self.plain
    }
}
