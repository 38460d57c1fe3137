//! Small renderings that every report shares: texts that can be shown, lengths of time, amounts of bytes.

use crate::text::{is_safe, sanitize};

/// Whether a character is shown within a line and does nothing else: safe for a terminal, and not among those that XML
/// or editors stumble over.
pub fn is_harmless(character: char) -> bool {
    is_safe(character) && !matches!(character, '\n' | '\t' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// One line that can be shown anywhere: escape sequences are taken out, line ends and tabs become spaces, whatever else
/// is not harmless becomes U+FFFD.
pub fn one_line(text: &str) -> String {
    sanitize(text)
        .chars()
        .map(|character| match character {
            '\n' | '\t' => ' ',
            character if is_harmless(character) => character,
            _ => char::REPLACEMENT_CHARACTER,
        })
        .collect()
}

/// `text`, cut to `limit` characters with an ellipsis where it is longer.
pub fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => {
            let keep = text.char_indices().nth(limit.saturating_sub(1)).map_or(0, |(at, _)| at);
            format!("{}…", &text[..keep])
        }
    }
}

/// The parts of a text in turn: plain, literal, plain, ... Texts write what is literal in backticks; an odd one out stays
/// as it is. Within a literal there may be what other programs said, and some of them quote `` `like this' ``: a backtick
/// between a space and a word ends no literal.
pub fn literals(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((plain, (literal, after))) =
        rest.split_once('`').and_then(|(plain, after)| Some((plain, split_at_closing(after)?)))
    {
        parts.extend([plain, literal]);
        rest = after;
    }
    parts.push(rest);
    parts
}

fn split_at_closing(text: &str) -> Option<(&str, &str)> {
    let splits = || text.match_indices('`').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let opens = |(before, after): &(&str, &str)| {
        before.ends_with(char::is_whitespace) && after.starts_with(|next: char| next.is_alphanumeric() || next == '/')
    };
    // Where none closes, nothing was quoted within, and the texts just stand close together.
    splits().find(|split| !opens(split)).or_else(|| splits().next())
}

/// A length of time as people read it: `850ms`, `2.3s`, `61.0s`, `5m 02s`, `1h 04m 05s`.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..120_000 => format!("{seconds}.{}s", milliseconds % 1000 / 100),
        120_000..3_600_000 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m {:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// A short length of time with its tenths: `0.3ms`, and as [`duration`] from a second on.
pub fn microseconds(microseconds: u64) -> String {
    match microseconds {
        0..1_000_000 => format!("{}.{}ms", microseconds / 1000, microseconds % 1000 / 100),
        _ => duration(microseconds / 1000),
    }
}

/// Time since the run began, for timelines: seconds with three decimals.
pub fn since_start(nanoseconds: u64) -> String {
    format!("{}.{:03}s", nanoseconds / 1_000_000_000, nanoseconds / 1_000_000 % 1000)
}

/// `1 marker`, `2 markers`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// An amount of bytes as people read it.
pub fn bytes(amount: u64) -> String {
    bytesize::ByteSize(amount).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shorten("grün", 4), "grün");
        assert_eq!(shorten("grüner", 4), "grü…");
        assert_eq!(shorten("ab", 0), "…");
        assert_eq!(shorten("", 0), "");
    }

    #[test]
    fn a_literal_may_hold_what_quotes_by_backtick_and_apostrophe() {
        for (text, expected) in [
            ("", &[""][..]),
            ("no literal", &["no literal"]),
            ("`a` and (`b c`).", &["", "a", " and (", "b c", ")."]),
            ("`a`/`b`", &["", "a", "/", "b", ""]),
            ("one `odd", &["one `odd"]),
            ("the prefix ` ` or `x ` is", &["the prefix ", " ", " or ", "x ", " is"]),
            ("said `q: Assertion `a == b' failed.`; so", &["said ", "q: Assertion `a == b' failed.", "; so"]),
            ("said `cannot stat `/x': none`", &["said ", "cannot stat `/x': none", ""]),
            ("`open `x", &["", "open ", "x"]),
        ] {
            assert_eq!(literals(text), expected, "{text}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_at_a_glance() {
        let read: Vec<String> =
            [0, 999, 1000, 2349, 119_999, 120_000, 302_500, 3_845_000].into_iter().map(duration).collect();
        assert_eq!(read, ["0ms", "999ms", "1.0s", "2.3s", "119.9s", "2m 00s", "5m 02s", "1h 04m 05s"]);
        assert_eq!(since_start(12_003_999_999), "12.003s");
    }
}
