//! Chance that comes out the same each time.

use std::time::Duration;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::kind::{Jitter, Probability};

/// What a stream of chance follows from.
#[derive(Clone, Copy, Debug)]
pub struct LinkIdentity<'a> {
    pub seed: u64,
    pub network: &'a str,
    pub label: &'a str,
    pub from: &'a str,
    pub to: &'a str,
}

/// One stream. Nothing in it is rounded in a way of the host's own, so that every host decides alike.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(identity: LinkIdentity<'_>) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"bootproof network fault 1\0");
        digest.update(identity.seed.to_be_bytes());
        for name in [identity.network, identity.label, identity.from, identity.to] {
            // With its length, so that no two different identities give the same bytes.
            digest.update((name.len() as u64).to_be_bytes());
            digest.update(name.as_bytes());
        }
        Self(ChaCha8Rng::from_seed(digest.finalize().into()))
    }

    /// Draws once whatever the probability, so that what follows does not depend on it.
    pub fn hits(&mut self, probability: Probability) -> bool {
        // 53 bits: what a double holds exactly. Below 1, always.
        let draw = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        draw < probability.value()
    }

    /// From 0 up to but not `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// How far this frame is from the delay, in nanoseconds.
    pub fn jitter(&mut self, jitter: Jitter) -> i64 {
        match jitter {
            Jitter::None => 0,
            Jitter::Uniform(span) => {
                let span = nanoseconds(span);
                self.below(2 * span + 1) as i64 - span as i64
            }
            Jitter::Normal(deviation) => {
                // The sum of twelve uniform numbers less six is close to normal with a deviation of 1, needs no
                // logarithm that every host rounds in its own way, and has an end.
                let sum: i64 = (0..12).map(|_| i64::from(self.0.next_u32())).sum();
                let standard = i128::from(sum - (6 << 32));
                ((standard * i128::from(nanoseconds(deviation))) >> 32) as i64
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: LinkIdentity<'_> =
        LinkIdentity { seed: 7, network: "lan", label: "loss", from: "node01", to: "node02" };

    fn draws(identity: LinkIdentity<'_>) -> Vec<u64> {
        let mut random = Random::new(identity);
        (0..8).map(|_| random.below(u64::MAX)).collect()
    }

    #[test]
    fn the_stream_follows_from_the_identity_and_from_all_of_it() {
        let base = draws(IDENTITY);
        assert_eq!(base, draws(IDENTITY));
        for other in [
            LinkIdentity { seed: 8, ..IDENTITY },
            LinkIdentity { network: "wan", ..IDENTITY },
            LinkIdentity { label: "los", ..IDENTITY },
            LinkIdentity { from: "node02", to: "node01", ..IDENTITY },
            LinkIdentity { label: "lossn", from: "ode01", ..IDENTITY },
        ] {
            assert_ne!(base, draws(other), "{other:?}");
        }
    }

    /// A change of the generator or of the derivation would make old runs irreproducible: it has to be seen.
    #[test]
    fn the_stream_is_the_same_as_ever() {
        assert_eq!(draws(IDENTITY)[..2], [1_538_840_986_423_425_687, 9_131_419_065_278_189_675]);
    }

    #[test]
    fn certainty_and_impossibility_are_exact() {
        let mut random = Random::new(IDENTITY);
        let never = Probability::new(0.0).unwrap();
        for _ in 0..10_000 {
            assert!(random.hits(Probability::ALWAYS));
            assert!(!random.hits(never));
        }
    }

    #[test]
    fn distributions_are_what_they_are_called() {
        let mut random = Random::new(IDENTITY);
        let count = 100_000;
        let third = Probability::new(0.3).unwrap();
        let hits = (0..count).filter(|_| random.hits(third)).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
        let millisecond = Duration::from_millis(1);
        let uniform: Vec<i64> = (0..count).map(|_| random.jitter(Jitter::Uniform(millisecond))).collect();
        let normal: Vec<i64> = (0..count).map(|_| random.jitter(Jitter::Normal(millisecond))).collect();
        let mean = |values: &[i64]| values.iter().sum::<i64>() as f64 / values.len() as f64;
        let deviation = |values: &[i64]| {
            let squares: f64 = values.iter().map(|value| (*value as f64).powi(2)).sum();
            (squares / values.len() as f64).sqrt()
        };
        assert!(mean(&uniform).abs() < 10_000.0 && mean(&normal).abs() < 20_000.0);
        assert!(uniform.iter().all(|value| value.abs() <= 1_000_000));
        assert!(normal.iter().all(|value| value.abs() <= 6_000_000));
        // A uniform distribution's deviation is its half width divided by the root of three.
        assert!((deviation(&uniform) - 577_350.0).abs() < 5_000.0, "{}", deviation(&uniform));
        assert!((deviation(&normal) - 1_000_000.0).abs() < 10_000.0, "{}", deviation(&normal));
    }

    #[test]
    fn what_is_no_probability_is_none() {
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Probability::new(value).is_none(), "{value}");
        }
    }
}
