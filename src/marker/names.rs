//! Which of the lane's names a marker's first word carries.

use std::collections::{BTreeMap, BTreeSet};

/// The names that a lane knows. Names contain dots, and so may the nodes appended to them.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    /// Names that the lane expects or forbids.
    pub(super) known: BTreeSet<String>,
    pub(super) nodes: BTreeSet<String>,
    /// A product's own name -> the lane's.
    pub(super) aliases: BTreeMap<String, String>,
}

impl NameTable {
    /// Splits a word into the lane's name and a node: the whole word as a known name first, then the longest known
    /// name that a node follows, then any name that a node follows, else the word as it is.
    pub fn resolve(&self, word: &str) -> (String, Option<String>) {
        if let Some(name) = self.known_name(word) {
            return (name.to_owned(), None);
        }
        let with_node = || {
            word.rmatch_indices('.')
                .map(|(dot, _)| (&word[..dot], &word[dot + 1..]))
                .filter(|(name, node)| !name.is_empty() && self.nodes.contains(*node))
        };
        let known = with_node().find_map(|(name, node)| Some((self.known_name(name)?, node)));
        match known.or_else(|| with_node().next()) {
            Some((name, node)) => (name.to_owned(), Some(node.to_owned())),
            None => (word.to_owned(), None),
        }
    }

    /// Whether the lane expects or forbids a marker of this name: others are logged and then forgotten.
    pub fn is_known(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    fn known_name<'a>(&'a self, word: &'a str) -> Option<&'a str> {
        // A lane that waits for a product's own name means that one.
        if self.known.contains(word) { Some(word) } else { self.aliases.get(word).map(String::as_str) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> NameTable {
        let set = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
        NameTable {
            known: set(&["boot", "services.ready", "services.ready.node02", "disk.a"]),
            nodes: set(&["node01", "node02", "a", "a.b"]),
            aliases: [("UP", "boot"), ("disk.a", "boot")].map(|(theirs, ours)| (theirs.into(), ours.into())).into(),
        }
    }

    #[test]
    fn the_longest_known_name_wins_then_the_node() {
        let table = table();
        let resolve = |word| {
            let (name, node) = table.resolve(word);
            format!("{name} {}", node.as_deref().unwrap_or("-"))
        };
        assert_eq!(resolve("boot"), "boot -");
        assert_eq!(resolve("boot.node01"), "boot node01");
        assert_eq!(resolve("services.ready.node01"), "services.ready node01");
        assert_eq!(resolve("services.ready.node02"), "services.ready.node02 -");
        assert_eq!(resolve("disk.a"), "disk.a -");
        assert_eq!(resolve("boot.a.b"), "boot a.b");
        assert_eq!(resolve("other.node01"), "other node01");
        assert_eq!(resolve("other.name"), "other.name -");
        assert_eq!(resolve("UP"), "boot -");
        assert_eq!(resolve("UP.node02"), "boot node02");
        assert_eq!(resolve(".node01"), ".node01 -");
    }
}
