//! Text that a guest wrote, made safe to show: nothing in it can control a terminal or reorder what is read.
//!
//! Owns the one recogniser of escape sequences, which `console` uses on bytes and [`sanitize`] on text.

use std::borrow::Cow;

/// Whether a terminal shows this character and does nothing else with it. Tab and line feed are safe; carriage return,
/// the other control characters, and what changes the direction of text are not.
pub fn is_safe(character: char) -> bool {
    match character {
        '\t' | '\n' => true,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        other => !other.is_control(),
    }
}

/// The text's first `limit` bytes, cut between characters.
pub(crate) fn shortened(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Makes text from a guest safe for a terminal: escape sequences are taken out whole, a carriage return before a line
/// feed is dropped, any other unsafe character is replaced by U+FFFD. Lines and tabs stay.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_safe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    let mut state = EscapeState::Ground;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if matches!(character, '\n' | '\r') {
            state = EscapeState::Ground;
        }
        if character == '\r' && characters.peek() == Some(&'\n') {
            continue;
        }
        // Above ASCII there is no difference to the recogniser.
        let byte = u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or(0x80);
        match state.step(byte) {
            Effect::Sequence | Effect::Moved => {}
            Effect::Outside if is_safe(character) => safe.push(character),
            Effect::Outside => safe.push(char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(safe)
}

/// How far into an escape sequence a stream is. A line feed or carriage return always leads back to `Ground`: that is
/// the caller's to do, so that no unfinished sequence swallows the lines after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EscapeState {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte (`ESC ( B`).
    Intermediate,
    /// Inside a control sequence (CSI), with its last byte.
    Control { last: u8 },
    /// Inside a string (OSC, DCS, SOS, PM, APC).
    String,
    /// After an ESC inside a string, which ends the string.
    StringEscape,
}

/// What a byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Part of a sequence.
    Sequence,
    /// The last byte of a sequence after which text goes on elsewhere on the screen.
    Moved,
    /// Not part of any sequence.
    Outside,
}

impl EscapeState {
    /// Takes one byte of the stream; bytes from 0x80 on belong to text.
    pub(crate) fn step(&mut self, byte: u8) -> Effect {
        use EscapeState::*;
        const ESCAPE: u8 = 0x1b;
        let (next, effect) = match (*self, byte) {
            (Ground, ESCAPE) => (Escape, Effect::Sequence),
            (Ground, _) => (Ground, Effect::Outside),
            (String, 0x07 | 0x18 | 0x1a) => (Ground, Effect::Sequence),
            (String, ESCAPE) => (StringEscape, Effect::Sequence),
            (String, _) => (String, Effect::Sequence),
            (StringEscape, b'\\') => (Ground, Effect::Sequence),
            (_, ESCAPE) => (Escape, Effect::Sequence),
            (_, 0x18 | 0x1a) => (Ground, Effect::Sequence),
            // Control characters do their work inside a sequence too; they do not end it.
            (state, 0..0x20 | 0x7f) => (state, Effect::Outside),
            (_, 0x80..) => (Ground, Effect::Outside),
            (Escape | StringEscape, b'[') => (Control { last: b'[' }, Effect::Sequence),
            (Escape | StringEscape, b']' | b'P' | b'X' | b'^' | b'_') => (String, Effect::Sequence),
            // Reset, and next line.
            (Escape | StringEscape, b'c' | b'E') => (Ground, Effect::Moved),
            (Escape | StringEscape | Intermediate, 0x20..0x30) => (Intermediate, Effect::Sequence),
            (Escape | StringEscape | Intermediate, _) => (Ground, Effect::Sequence),
            (Control { .. }, 0x20..0x40) => (Control { last: byte }, Effect::Sequence),
            // Cursor to a position or a column.
            (Control { .. }, b'H' | b'f' | b'G') => (Ground, Effect::Moved),
            // The whole screen erased.
            (Control { last: b'2' | b'3' }, b'J') => (Ground, Effect::Moved),
            (Control { .. }, _) => (Ground, Effect::Sequence),
        };
        *self = next;
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_left_alone() {
        assert!(matches!(sanitize("plain\ttext\nand é ● 日本"), Cow::Borrowed(_)));
    }

    #[test]
    fn nothing_that_controls_a_terminal_is_left() {
        for (text, safe) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]8;;http://e\x1b\\link", "link"),
            ("\x1bP1$r\x1b\\x\x1bc", "x"),
            ("a\r\nb\rc", "a\nb\u{fffd}c"),
            ("nul\0bel\x07del\x7f", "nul\u{fffd}bel\u{fffd}del\u{fffd}"),
            ("c1\u{9b}31m", "c1\u{fffd}31m"),
            ("\u{202e}txt", "\u{fffd}txt"),
            ("\x1b]0;never ended\nnext", "\nnext"),
            ("\x1b[1;\u{e9}x", "\u{e9}x"),
            ("\x1b(B\x1b=x", "x"),
            ("\x1b[3\x1b[1mx", "x"),
        ] {
            assert_eq!(sanitize(text), safe, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_safe(text in ".*|(\\PC|[\\x00-\\x1f\\x7f-\\x9f\\x1b\\[\\]P;mH]){0,200}") {
            assert!(sanitize(&text).chars().all(is_safe));
        }
    }
}
