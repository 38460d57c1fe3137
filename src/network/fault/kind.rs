//! The kinds of faults and what they are made of.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::error::{Error, Result};

/// No delay, jitter or hold is longer.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// Bits that one corruption flips at most.
pub const MOST_BITS: u32 = 64;

/// From 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Probability(f64);

impl Probability {
    pub const ALWAYS: Self = Self(1.0);

    /// `None` for what is no probability.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    pub fn value(self) -> f64 {
        self.0
    }
}

/// How much a delay varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    None,
    /// Anything up to so much less or more, all equally likely.
    Uniform(Duration),
    /// Around the delay, with this standard deviation, and never further from it than six times that.
    Normal(Duration),
}

/// One thing that is wrong with a directed link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing passes, what is on its way neither.
    Partition,
    Loss {
        probability: Probability,
    },
    /// Flips so many different bits of a frame, anywhere behind its Ethernet header: it still arrives where it was sent.
    Corruption {
        probability: Probability,
        bits: NonZeroU32,
    },
    /// The frame comes twice, one right behind the other.
    Duplication {
        probability: Probability,
    },
    /// A token bucket: `burst` bytes at once, then so many per second. What would have to wait behind more than `queue`
    /// bytes is dropped, as a router does it.
    RateLimit {
        bytes_per_second: NonZeroU64,
        burst: u64,
        queue: u64,
    },
    /// With `reorder`, frames overtake each other where jitter has it so; without, each waits for those before it.
    Delay {
        delay: Duration,
        jitter: Jitter,
        reorder: bool,
    },
    /// Holds a frame back for so long; what comes meanwhile overtakes it.
    Reordering {
        probability: Probability,
        hold: Duration,
    },
}

impl Fault {
    /// Whether the numbers make sense; usage errors.
    pub fn validate(&self) -> Result<()> {
        let bounded = |what: &str, duration: Duration| match duration <= LONGEST_DELAY {
            true => Ok(()),
            false => Err(Error::usage(format!("the {what} of a link is longer than an hour"))),
        };
        match *self {
            Fault::Partition | Fault::Loss { .. } | Fault::Duplication { .. } => Ok(()),
            Fault::Corruption { bits, .. } if bits.get() > MOST_BITS => {
                Err(Error::usage(format!("a corruption flips at most {MOST_BITS} bits, not {bits}")))
            }
            Fault::Corruption { .. } => Ok(()),
            Fault::RateLimit { burst, queue, .. } if burst.max(queue) > u64::from(u32::MAX) => {
                Err(Error::usage("the burst or queue of a rate limit is larger than 4 GiB"))
            }
            Fault::RateLimit { .. } => Ok(()),
            Fault::Delay { delay, jitter, .. } => {
                bounded("delay", delay)?;
                match jitter {
                    Jitter::None => Ok(()),
                    Jitter::Uniform(jitter) | Jitter::Normal(jitter) => bounded("jitter", jitter),
                }
            }
            Fault::Reordering { hold, .. } => bounded("hold", hold),
        }
    }

    /// The place in a link's order; see the module.
    pub(super) fn stage(&self) -> u8 {
        match self {
            Fault::Partition => 0,
            Fault::Loss { .. } => 1,
            Fault::Corruption { .. } => 2,
            Fault::Duplication { .. } => 3,
            Fault::RateLimit { .. } => 4,
            Fault::Delay { .. } => 5,
            Fault::Reordering { .. } => 6,
        }
    }

    /// Whether frames may have to wait because of it.
    pub(super) fn holds_frames(&self) -> bool {
        match self {
            Fault::Partition | Fault::Loss { .. } | Fault::Corruption { .. } | Fault::Duplication { .. } => false,
            Fault::RateLimit { .. } | Fault::Delay { .. } | Fault::Reordering { .. } => true,
        }
    }
}
