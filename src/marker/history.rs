//! What one machine has shown since the last wait was satisfied, over all its consoles.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use super::rules::{CompiledRules, Found, LineFinding};
use crate::event::MarkerStanding;

/// Findings kept for waits to come; beyond that the oldest go.
const MOST_ENTRIES: usize = 4096;
/// Bytes of text in them.
const MOST_TEXT: usize = 4 << 20;
/// Ranges of sequence numbers remembered; an honest guest needs one.
const MOST_RANGES: usize = 4096;
/// Texts of bare markers remembered.
const MOST_TEXTS: usize = 1 << 16;
/// How often in an epoch one failure pattern, and damaged and duplicate markers each, are worth an event.
const MOST_REPEATED_EVENTS: u64 = 64;

/// How many markers that count are worth an event, in the whole run.
const MOST_MARKER_EVENTS: u64 = 1 << 18;

/// What [`MarkerHistory::observe`] made of a finding.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The finding with its marker's final standing.
    pub finding: Arc<LineFinding>,
    /// Worth an event. False where the guest floods the log: of damaged markers, of duplicates and of each failure
    /// pattern the first 64 in an epoch are, of markers that count the first 262,144 in the run. What is not worth an
    /// event satisfies or ends a wait all the same.
    pub worth_recording: bool,
}

/// One machine's findings: decides what is a duplicate and keeps what a wait may still want. Memory is bounded.
#[derive(Debug)]
pub struct MarkerHistory {
    rules: Arc<CompiledRules>,
    entries: VecDeque<Arc<LineFinding>>,
    /// Number of the first entry, counted over the whole run.
    first: u64,
    text: usize,
    /// The first entry that no wait has gone past.
    cursor: u64,
    sequences: Sequences,
    texts: RecentTexts,
    last_marker: Option<String>,
    damaged: BTreeMap<String, u64>,
    repeated: BTreeMap<String, u64>,
    /// Markers that counted, in the whole run.
    events: u64,
    capped: bool,
}

impl MarkerHistory {
    pub fn new(rules: Arc<CompiledRules>) -> Self {
        Self {
            rules,
            entries: VecDeque::new(),
            first: 0,
            text: 0,
            cursor: 0,
            sequences: Sequences::default(),
            texts: RecentTexts::default(),
            last_marker: None,
            damaged: BTreeMap::new(),
            repeated: BTreeMap::new(),
            events: 0,
            capped: false,
        }
    }

    /// Takes a finding from any of the machine's consoles, in the order in which they came.
    pub fn observe(&mut self, mut finding: LineFinding) -> Observed {
        let standing = self.standing(&finding);
        if let Some(standing) = standing {
            finding.set_standing(standing);
        }
        let worth_recording = self.is_worth_recording(&finding);
        let wanted = match (&finding.found, standing) {
            (Found::Marker(marker), Some(MarkerStanding::Counted)) => {
                self.last_marker = Some(match &marker.node {
                    Some(node) => format!("{}.{node}", marker.name),
                    None => marker.name.clone(),
                });
                self.rules.is_known(&marker.name)
            }
            (Found::Marker(marker), _) => {
                if standing == Some(MarkerStanding::Damaged) && self.rules.is_known(&marker.name) {
                    *self.damaged.entry(marker.name.clone()).or_default() += 1;
                }
                false
            }
            (Found::FailurePattern { .. } | Found::ConsoleMatch { .. }, _) => true,
        };
        let finding = Arc::new(finding);
        if wanted {
            self.keep(finding.clone());
        }
        Observed { finding, worth_recording }
    }

    /// A new boot of the machine began: what it showed before belongs to the epoch before, and satisfies nothing now.
    pub fn begin_epoch(&mut self) {
        self.first += self.entries.len() as u64;
        self.cursor = self.first;
        self.entries.clear();
        self.text = 0;
        self.sequences = Sequences::default();
        self.texts = RecentTexts::default();
        self.damaged.clear();
        self.repeated.clear();
    }

    /// One of the machine's consoles has reached its limit: every wait from now on ends, since it would be blind.
    pub fn console_capped(&mut self) {
        self.capped = true;
    }

    pub fn is_capped(&self) -> bool {
        self.capped
    }

    /// Name of the last marker that counted, in any epoch.
    pub fn last_marker(&self) -> Option<&str> {
        self.last_marker.as_deref()
    }

    /// How many damaged lines carried this name in this epoch.
    pub fn damaged(&self, name: &str) -> u64 {
        self.damaged.get(name).copied().unwrap_or(0)
    }

    pub fn rules(&self) -> &CompiledRules {
        &self.rules
    }

    /// Where a wait that starts now begins to look.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The first entry at or after `position`, with its own position.
    pub(super) fn next(&self, position: u64) -> Option<(u64, Arc<LineFinding>)> {
        let position = position.max(self.first);
        let entry = self.entries.get((position - self.first) as usize)?;
        Some((position, entry.clone()))
    }

    /// A wait matched or ended on the entry before `position`.
    pub(super) fn advance_cursor(&mut self, position: u64) {
        self.cursor = self.cursor.max(position);
    }

    fn standing(&mut self, finding: &LineFinding) -> Option<MarkerStanding> {
        let marker = finding.marker()?;
        if marker.standing == MarkerStanding::Damaged {
            return Some(MarkerStanding::Damaged);
        }
        let is_new = match marker.sequence {
            Some(sequence) => self.sequences.insert(sequence),
            None => self.texts.insert(&finding.text),
        };
        Some(if is_new { MarkerStanding::Counted } else { MarkerStanding::Duplicate })
    }

    fn is_worth_recording(&mut self, finding: &LineFinding) -> bool {
        let kind = match &finding.found {
            Found::Marker(marker) => match marker.standing {
                MarkerStanding::Counted => {
                    self.events += 1;
                    return self.events <= MOST_MARKER_EVENTS;
                }
                MarkerStanding::Duplicate => "duplicate marker",
                MarkerStanding::Damaged => "damaged marker",
            },
            Found::FailurePattern { name } => name,
            Found::ConsoleMatch { .. } => return false,
        };
        let count = self.repeated.entry(kind.to_owned()).or_default();
        *count += 1;
        *count <= MOST_REPEATED_EVENTS
    }

    fn keep(&mut self, finding: Arc<LineFinding>) {
        let end = self.first + self.entries.len() as u64;
        let repeats = |last: &Arc<LineFinding>| match (&last.found, &finding.found) {
            (Found::FailurePattern { name: last }, Found::FailurePattern { name }) => last == name,
            _ => false,
        };
        // A flood of one failure ends the next wait as surely as its first line does.
        if end > self.cursor && self.entries.back().is_some_and(repeats) {
            return;
        }
        self.text += finding.text.len();
        self.entries.push_back(finding);
        while self.entries.len() > MOST_ENTRIES || self.text > MOST_TEXT {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.text -= oldest.text.len();
            self.first += 1;
        }
    }
}

/// Sequence numbers seen, as ranges: a guest that counts needs one, and one that does not is bounded.
#[derive(Debug, Default)]
struct Sequences {
    /// First -> last, both included, apart from each other.
    ranges: BTreeMap<u64, u64>,
}

impl Sequences {
    /// False where the number was there already.
    fn insert(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = match number.checked_add(1).and_then(|next| self.ranges.remove(&next)) {
            Some(last) => last,
            None => number,
        };
        self.ranges.insert(first, last);
        if self.ranges.len() > MOST_RANGES {
            // The gap that lies furthest back is given up: numbers in it will be taken for duplicates.
            if let (Some((first, _)), Some((_, last))) = (self.ranges.pop_first(), self.ranges.pop_first()) {
                self.ranges.insert(first, last);
            }
        }
        true
    }
}

/// The texts seen last, by their hashes.
#[derive(Debug, Default)]
struct RecentTexts {
    hasher: RandomState,
    seen: HashSet<u64>,
    order: VecDeque<u64>,
}

impl RecentTexts {
    /// False where the text was there already.
    fn insert(&mut self, text: &str) -> bool {
        let hash = self.hasher.hash_one(text);
        if !self.seen.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > MOST_TEXTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_are_new_once() {
        let mut sequences = Sequences::default();
        for number in [5, 3, 4, 0, u64::MAX, 1, 2] {
            assert!(sequences.insert(number), "{number}");
            assert!(!sequences.insert(number), "{number}");
        }
        assert_eq!(sequences.ranges.len(), 2);
        assert!((0..=5).all(|number| !sequences.insert(number)));
    }

    #[test]
    fn a_guest_that_does_not_count_is_bounded() {
        let mut sequences = Sequences::default();
        let mut texts = RecentTexts::default();
        for number in 0..200_000u64 {
            assert!(sequences.insert(number * 2));
            assert!(texts.insert(&number.to_string()));
        }
        assert!(sequences.ranges.len() <= MOST_RANGES && texts.seen.len() <= MOST_TEXTS);
        assert!(!sequences.insert(1), "given up gaps count as seen");
        assert!(!texts.insert("199999"));
    }

    proptest::proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(0..60u64, 0..200)) {
            let mut sequences = Sequences::default();
            let mut set = HashSet::new();
            for number in numbers {
                assert_eq!(sequences.insert(number), set.insert(number));
            }
        }
    }
}
