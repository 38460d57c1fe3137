//! Which links a fault is set on. Pure.

use crate::error::{Error, Result};

/// Directed links of a network, by the names of their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSelection {
    from: Vec<String>,
    to: Vec<String>,
    both_ways: bool,
}

impl LinkSelection {
    /// From each of a group to each of another. An empty group stands for every port.
    pub fn one_way<T: Into<String>>(from: impl IntoIterator<Item = T>, to: impl IntoIterator<Item = T>) -> Self {
        let names = |group: &mut dyn Iterator<Item = T>| group.map(Into::into).collect();
        Self { from: names(&mut from.into_iter()), to: names(&mut to.into_iter()), both_ways: false }
    }

    /// Between two groups, both ways. An empty group stands for every port.
    pub fn both_ways<T: Into<String>>(one: impl IntoIterator<Item = T>, other: impl IntoIterator<Item = T>) -> Self {
        Self { both_ways: true, ..Self::one_way(one, other) }
    }

    /// Every link that there is.
    pub fn all() -> Self {
        Self::one_way::<String>([], [])
    }

    /// The links as numbers of ports, each once. Usage errors: a port that there is not, or no link at all.
    pub fn resolve(&self, network: &str, ports: &[String]) -> Result<Vec<(usize, usize)>> {
        let group = |names: &[String]| -> Result<Vec<usize>> {
            if names.is_empty() {
                return Ok((0..ports.len()).collect());
            }
            names
                .iter()
                .map(|name| {
                    ports.iter().position(|port| port == name).ok_or_else(|| {
                        Error::usage(format!("the network `{network}` has no `{name}`"))
                            .hint(format!("it has `{}`", ports.join("`, `")))
                    })
                })
                .collect()
        };
        let (from, to) = (group(&self.from)?, group(&self.to)?);
        let mut links = Vec::new();
        for from in &from {
            for to in to.iter().filter(|to| *to != from) {
                links.push((*from, *to));
                if self.both_ways {
                    links.push((*to, *from));
                }
            }
        }
        links.sort_unstable();
        links.dedup();
        if links.is_empty() {
            return Err(Error::usage(format!("a fault of the network `{network}` names no link"))
                .hint("a link joins two different machines"));
        }
        Ok(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(selection: &LinkSelection) -> Result<Vec<(usize, usize)>> {
        resolve_in(selection, 3)
    }

    fn resolve_in(selection: &LinkSelection, ports: usize) -> Result<Vec<(usize, usize)>> {
        selection.resolve("lan", &["a", "b", "c"].map(String::from)[..ports])
    }

    #[test]
    fn groups_become_links() {
        assert_eq!(resolve(&LinkSelection::one_way(["a"], ["b", "c"])).unwrap(), [(0, 1), (0, 2)]);
        assert_eq!(resolve(&LinkSelection::both_ways(["a"], ["b"])).unwrap(), [(0, 1), (1, 0)]);
        assert_eq!(resolve(&LinkSelection::one_way(["a", "b"], ["a", "b"])).unwrap(), [(0, 1), (1, 0)]);
        assert_eq!(resolve(&LinkSelection::both_ways(vec!["c"], vec![])).unwrap(), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(resolve(&LinkSelection::all()).unwrap().len(), 6);
    }

    #[test]
    fn a_link_that_names_no_machine_is_told_with_those_that_there_are() {
        let error = resolve(&LinkSelection::one_way(["a"], ["d"])).unwrap_err();
        assert_eq!(error.to_string(), "the network `lan` has no `d`");
        assert_eq!(error.hints(), ["it has `a`, `b`, `c`"]);
        assert!(resolve(&LinkSelection::one_way(["a"], ["a"])).is_err());
        assert!(resolve_in(&LinkSelection::all(), 1).is_err());
    }
}
