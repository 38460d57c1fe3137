//! What a fault has done.

use std::ops::AddAssign;

/// Frames that met a fault, and what became of them there. A broadcast counts once per link that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Came as far as this fault: faults before it on the same link may have dropped others.
    pub seen: u64,
    /// Lost to a partition or to loss, or on the link when a partition was set.
    pub dropped: u64,
    /// Lost because too much was waiting already: behind a rate limit's queue, or on a link whose delay holds more than
    /// is allowed.
    pub overflowed: u64,
    /// Left later than they came.
    pub delayed: u64,
    /// Copies added.
    pub duplicated: u64,
    /// Held back so that later ones could overtake them.
    pub reordered: u64,
    /// Left with other bits than they came with.
    pub corrupted: u64,
}

impl FaultCounters {
    /// How often the fault did something to a frame.
    pub fn affected(&self) -> u64 {
        self.dropped + self.overflowed + self.delayed + self.duplicated + self.reordered + self.corrupted
    }
}

impl AddAssign for FaultCounters {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.dropped += other.dropped;
        self.overflowed += other.overflowed;
        self.delayed += other.delayed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }
}
