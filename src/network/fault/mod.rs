//! What can be wrong with a link. Pure: frames are lengths, time is a number, chance is a seeded stream.
//!
//! A link is directed: from one port to another. It holds the faults that are set on it, in a fixed order (partition,
//! loss, corruption, duplication, rate limit, delay, reordering; of one kind, in the order in which they were set), so
//! that what happens to a frame does not depend on which fault came first.
//!
//! What always holds:
//! - Every fault on every link draws from a stream of its own, which follows from the run's seed, the network's name,
//!   the fault's label and the link's two ends. Other links' frames and other faults change nothing in it.
//! - Frames leave a link in the order in which they came, unless a fault was asked to reorder.

mod counters;
mod kind;
mod link;
mod random;

pub use counters::FaultCounters;
pub use kind::{Fault, Jitter, LONGEST_DELAY, MOST_BITS, Probability};
pub use link::{Decision, Link};
pub use random::LinkIdentity;

/// Time since the switch was started.
pub type Nanoseconds = u64;

/// Names a fault that was set, for healing it and reading its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId(pub u64);
