//! What a line must contain before a regular expression can match it.

use regex_syntax::hir::{Hir, HirKind};

/// Shorter literals turn up too often to be worth looking for.
const SHORTEST: usize = 3;
const MOST: usize = 32;

/// Literals of which every match contains at least one; `None` where the pattern promises nothing useful.
///
/// `pattern` is one that `regex` accepts with its default settings.
pub fn required_literals(pattern: &str) -> Option<Vec<Vec<u8>>> {
    let hir = regex_syntax::parse(pattern).ok()?;
    required(&hir).filter(|literals| worth(literals) >= SHORTEST)
}

fn required(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min >= 1 => required(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(required).max_by_key(|literals| worth(literals)),
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                all.extend(required(branch)?);
            }
            (all.len() <= MOST).then_some(all)
        }
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

/// A set is as good as its shortest literal.
fn worth(literals: &[Vec<u8>]) -> usize {
    literals.iter().map(Vec::len).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(pattern: &str) -> Option<Vec<String>> {
        let found = required_literals(pattern)?;
        Some(found.into_iter().map(|literal| String::from_utf8(literal).unwrap()).collect())
    }

    #[test]
    fn the_longest_inner_literal_is_found() {
        assert_eq!(literals(r"^\[ *[0-9]+\] Kernel panic").unwrap(), ["] Kernel panic"]);
        assert_eq!(literals("^(grub rescue>|Entering)").unwrap(), ["grub rescue>", "Entering"]);
        assert_eq!(literals("(?:abc)+x").unwrap(), ["abc"]);
    }

    #[test]
    fn nothing_is_promised_where_nothing_is_certain() {
        for pattern in ["", "a|b", "(?:login)?", "[0-9]+", "(?i)login", "login|[0-9]+", ".*"] {
            assert_eq!(literals(pattern), None, "{pattern}");
        }
    }
}
