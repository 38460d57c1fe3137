//! The weighted score of a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::Outcome;

/// What the score needs to know of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateResult {
    pub hard: bool,
    pub weight: u32,
    pub outcome: Outcome,
}

/// What the weighted gates gave, out of what they could have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Sum of the weights of those that passed.
    pub earned: u64,
    /// Sum of the weights of all that were not skipped.
    pub possible: u64,
    /// `earned` of `possible` in percent, rounded down: 100 means all of them.
    pub percent: u8,
}

impl Score {
    /// Whether at least `minimum` percent were earned; exact, not by the rounded percentage.
    pub fn reaches(self, minimum: u8) -> bool {
        u128::from(self.earned) * 100 >= u128::from(minimum) * u128::from(self.possible)
    }
}

/// The score, or `None` where no weighted gate counts.
///
/// Hard gates decide by themselves and do not count. A skipped gate counts neither for nor against; one that never ran
/// counts against, because what was not shown is not proven.
pub fn score(gates: impl IntoIterator<Item = GateResult>) -> Option<Score> {
    let (mut earned, mut possible) = (0u64, 0u64);
    for gate in gates.into_iter().filter(|gate| !gate.hard) {
        let weight = u64::from(gate.weight);
        match gate.outcome {
            Outcome::Passed => {
                earned = earned.saturating_add(weight);
                possible = possible.saturating_add(weight);
            }
            Outcome::Failed | Outcome::NotRun => possible = possible.saturating_add(weight),
            Outcome::Skipped => {}
        }
    }
    let percent = (u128::from(earned) * 100).checked_div(u128::from(possible))?;
    Some(Score { earned, possible, percent: percent as u8 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gate(weight: u32, outcome: Outcome) -> GateResult {
        GateResult { hard: false, weight, outcome }
    }

    #[test]
    fn weights_count_and_hard_gates_do_not() {
        let hard = GateResult { hard: true, weight: 50, outcome: Outcome::Failed };
        let result = score([hard, gate(3, Outcome::Passed), gate(1, Outcome::Failed)]).unwrap();
        assert_eq!(result, Score { earned: 3, possible: 4, percent: 75 });
        assert!(result.reaches(75));
        assert!(!result.reaches(76));
    }

    #[test]
    fn not_run_counts_against_and_skipped_not_at_all() {
        assert_eq!(score([gate(1, Outcome::Passed), gate(1, Outcome::NotRun)]).unwrap().percent, 50);
        assert_eq!(score([gate(1, Outcome::Passed), gate(1, Outcome::Skipped)]).unwrap().percent, 100);
        assert_eq!(score([gate(1, Outcome::Skipped)]), None);
        assert_eq!(score([gate(0, Outcome::Passed)]), None);
        assert_eq!(score([]), None);
    }

    #[test]
    fn rounding_never_shows_a_full_score_that_is_not_one() {
        let result = score([gate(999, Outcome::Passed), gate(1, Outcome::Failed)]).unwrap();
        assert_eq!(result.percent, 99);
        assert!(!result.reaches(100));
        let third = score([gate(1, Outcome::Passed), gate(2, Outcome::Failed)]).unwrap();
        assert!(third.reaches(33), "33.3 percent reach 33");
        assert!(!third.reaches(34));
    }

    proptest! {
        #[test]
        fn passing_one_more_gate_never_lowers_the_score(
            weights in prop::collection::vec((any::<u32>(), any::<bool>()), 1..20), at in any::<prop::sample::Index>()
        ) {
            let results = |weights: &[(u32, bool)]| score(weights.iter().map(|&(weight, passed)| {
                gate(weight, if passed { Outcome::Passed } else { Outcome::Failed })
            }));
            let before = results(&weights);
            let mut better = weights.clone();
            let at = at.index(better.len());
            better[at].1 = true;
            let after = results(&better);
            prop_assert_eq!(before.is_some(), after.is_some());
            if let (Some(before), Some(after)) = (before, after) {
                prop_assert!(after.percent >= before.percent && after.percent <= 100);
                prop_assert_eq!(after.reaches(100), after.earned == after.possible);
            }
        }
    }
}
