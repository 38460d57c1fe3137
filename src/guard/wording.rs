//! What unfinished things are called in text of any kind. Found also where a line break parts the words.
//!
//! In the patterns here `_` stands for what may part two words, and a letter in brackets for itself: so this file does not
//! hold what it looks for.

use std::sync::LazyLock;

use regex::Regex;

use super::finding::Rule;

/// Blanks, or a line break with whatever begins a line of a comment or a quotation.
const GAP: &str = r"(?:[ \t]+|[ \t]*\r?\n[ \t]*(?:(?://[/!]?|#+|\*|>|--|;)[ \t]*)?)";

/// Marks by which people find their own open ends again; written in capitals.
const OPEN_TASKS: &[&str] = &[r"TO[D]O", r"FIX[M]E", r"XX[X]", r"TB[D]"];

const WORDINGS: &[&str] = &[
    r"(?P<status>50\d[ :-]+)?not(?:_yet|_been)?_implemented",
    r"yet_to_be_(?:implemented|written|done|decided)",
    r"to_be_(?:implemented|determined|announced)",
    r"coming_soon",
    r"work_in_progress",
    r"lorem_ipsum",
    r"under_construction",
    r"(?:a|as|is|are|just|only|mere|empty|temporary)_placeholde[r]s?",
    r"placeholde[r]_(?:text|values?|content|implementation|answer|until|for_now)",
    r"change[-_]?m[e]",
    r"(?:fix|implement|finish|remove|replace|rewrite)_(?:this|it|me)_(?:later|soon|properly)",
    r"(?:quick|temporary|ugly)_(?:hack|workaround)",
    r"does_nothing_yet",
    r"left_as_an_exercise",
];

const STUBS: &[&str] = &[
    r"stub(?:bed)?_(?:answer|implementation|response|result|value)s?",
    r"(?:fake|dummy|canned|hard-?coded|mocked)_(?:answer|implementation|response|result)s?",
    r"no-?op_for_now",
    r"always_returns?_(?:ok|true|success)_for_now",
];

/// Digests of nothing, which Nix takes until somebody fills in the real one.
const NIX_STUBS: &[&str] = &[r"lib\.fake(?:Hash|Sha256|Sha512)", r"sha256-A{43}=", r"sha256:?0{52}"];

static PATTERNS: LazyLock<Vec<(Rule, Regex)>> = LazyLock::new(|| {
    let words = |patterns: &[&str], flags: &str| {
        let alternatives: Vec<String> = patterns.iter().map(|pattern| pattern.replace('_', GAP)).collect();
        pattern(&format!(r"{flags}\b(?:{})\b", alternatives.join("|")))
    };
    let nix = pattern(&NIX_STUBS.join("|"));
    vec![
        (Rule::OpenTask, words(OPEN_TASKS, "")),
        (Rule::OpenTask, pattern(r"(?i)\bto[d]o:")),
        (Rule::UnfinishedWording, words(WORDINGS, "(?i)")),
        (Rule::UnfinishedWording, pattern(r"\bWI[P]\b|\bPLACEHOLDE[R]\b")),
        (Rule::StubAnswer, words(STUBS, "(?i)")),
        (Rule::StubAnswer, nix),
    ]
});

#[allow(clippy::expect_used, reason = "the patterns are constants, and a test compiles them")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of the guard is a regular expression")
}

/// A wording that offends a rule, by its bytes in the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wording {
    pub rule: Rule,
    pub start: usize,
    pub said: String,
}

/// All unfinished wording of a text. `extension` tells what kind of text it is.
pub(super) fn find(text: &str, extension: &str) -> Vec<Wording> {
    let mut found: Vec<Wording> = Vec::new();
    for (rule, pattern) in PATTERNS.iter() {
        for captures in pattern.captures_iter(text) {
            let Some(whole) = captures.get(0) else { continue };
            // The name of a status of HTTP.
            let is_status = captures.name("status").is_some();
            let is_known = found.iter().any(|other| other.start == whole.start());
            if is_status || is_known || is_mention(text, whole.start(), extension) {
                continue;
            }
            let said = whole.as_str().split_whitespace().collect::<Vec<_>>().join(" ");
            found.push(Wording { rule: *rule, start: whole.start(), said });
        }
    }
    found.sort_by_key(|wording| wording.start);
    found
}

/// What stands between backquotes in prose is spoken of, not said.
fn is_mention(text: &str, start: usize, extension: &str) -> bool {
    let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let before = &text[line_start..start];
    let is_prose = match extension {
        "md" => true,
        "rs" => before.trim_start().starts_with("//"),
        _ => false,
    };
    is_prose && before.matches('`').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parted here, so that this file stays clean.
    fn rules(parts: &[&str], extension: &str) -> Vec<Rule> {
        find(&parts.concat(), extension).into_iter().map(|wording| wording.rule).collect()
    }

    #[test]
    fn every_pattern_finds_what_it_is_for() {
        let planted: &[(&[&str], Rule)] = &[
            (&["TO", "DO write it"], Rule::OpenTask),
            (&["(FIX", "ME)"], Rule::OpenTask),
            (&["to", "do: write it"], Rule::OpenTask),
            (&["this is not", " yet implemented"], Rule::UnfinishedWording),
            (&["not", " implemented yet"], Rule::UnfinishedWording),
            (&["Coming", " soon!"], Rule::UnfinishedWording),
            (&["// work in\n    // ", "progress"], Rule::UnfinishedWording),
            (&["> lorem\n> ", "ipsum"], Rule::UnfinishedWording),
            (&["the text is a place", "holder"], Rule::UnfinishedWording),
            (&["PLACE", "HOLDER"], Rule::UnfinishedWording),
            (&["change", "me"], Rule::UnfinishedWording),
            (&["fix this ", "later"], Rule::UnfinishedWording),
            (&["WI", "P"], Rule::UnfinishedWording),
            (&["gives a stub ", "answer"], Rule::StubAnswer),
            (&["a hard-coded ", "result"], Rule::StubAnswer),
            (&["sha256 = lib.fake", "Sha256;"], Rule::StubAnswer),
        ];
        for (parts, rule) in planted {
            assert_eq!(rules(parts, "txt"), [*rule], "{}", parts.concat());
        }
    }

    #[test]
    fn what_only_looks_like_it_is_left_alone() {
        for parts in [
            &["mktemp /x.XX", "XXXX"] as &[&str],
            &["501 Not ", "Implemented"],
            &["secret place", "holders of a command"],
            &["a kernel with an EFI ", "stub"],
            &["mas", "todon"],
            &["let to", "do = 1;"],
        ] {
            assert_eq!(rules(parts, "txt"), [], "{}", parts.concat());
        }
        let mention = ["says `TO", "DO` and nothing"];
        assert_eq!(rules(&mention, "md"), []);
        assert_eq!(rules(&mention, "sh"), [Rule::OpenTask], "there it runs a command");
        assert_eq!(rules(&["    /// ", "`TO", "DO`"], "rs"), []);
        assert_eq!(rules(&["`a` and TO", "DO"], "md"), [Rule::OpenTask]);
    }
}
