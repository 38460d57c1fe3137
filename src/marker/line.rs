//! One marker line as the host reads it: `PREFIX name[.node] [key=value ...] [seq=N crc=XXXXXXXX]`. How one is written
//! stands in `channel::marker_line`.

use std::collections::BTreeMap;

use super::names::NameTable;
use crate::channel::marker_line::{crc_of, decode_value};
use crate::event::MarkerStanding;
use crate::text::{is_safe, shortened};

/// A marker line longer than this many bytes is damaged: no agent writes one, and what is kept of markers is bounded.
pub const MARKER_LIMIT: usize = 4096;

/// A marker as a line carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The lane's name for it, aliases applied, without the node.
    pub name: String,
    /// One of the lane's machines, where the line names one.
    pub node: Option<String>,
    /// Percent-decoded, except values that would hold a control character: those stay as they were written.
    pub arguments: BTreeMap<String, String>,
    /// The agent's sequence number; only a line whose checksum fits has one.
    pub sequence: Option<u64>,
    /// `Counted` or `Damaged`; whether it is a `Duplicate` is for the history to say.
    pub standing: MarkerStanding,
}

/// Reads a line as a marker; `None` where it is none at all.
///
/// `intact` says that the text is, byte for byte, what stood on the console.
pub fn parse_marker(text: &str, prefix: &str, names: &NameTable, require_crc: bool, intact: bool) -> Option<Marker> {
    let after_prefix = text.strip_prefix(prefix)?;
    if !after_prefix.starts_with([' ', '\t']) {
        return None;
    }
    let text = text.trim_end();
    let whole = intact && text.len() <= MARKER_LIMIT;
    // What is too long to be one of ours is read as far as it could be.
    let text = shortened(text, MARKER_LIMIT);
    let mut words = text.get(prefix.len()..)?.split_ascii_whitespace();
    let word = words.next()?;
    let checksum = Checksum::read(text);
    let mut arguments = BTreeMap::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if checksum.is_some() && matches!(key, "seq" | "crc") {
            continue;
        }
        arguments.insert(decoded(key), decoded(value));
    }
    let (name, node) = names.resolve(&decoded(word));
    let (sequence, sound) = match checksum {
        Some(checksum) => (checksum.sequence, checksum.sequence.is_some()),
        None => (None, !require_crc),
    };
    let standing = if whole && sound { MarkerStanding::Counted } else { MarkerStanding::Damaged };
    let sequence = sequence.filter(|_| standing == MarkerStanding::Counted);
    Some(Marker { name, node, arguments, sequence, standing })
}

/// What the line says about its own integrity.
struct Checksum {
    /// Present where the checksum fits and covers a sequence number.
    sequence: Option<u64>,
}

impl Checksum {
    /// `None` where the line claims no checksum at all.
    fn read(text: &str) -> Option<Self> {
        let claims = text.split_ascii_whitespace().any(|word| word.starts_with("crc="));
        claims.then(|| Self { sequence: Self::verify(text) })
    }

    /// The line's last word has to be the checksum, and the one before it the sequence number.
    fn verify(text: &str) -> Option<u64> {
        let (covered, written) = text.rsplit_once(" crc=")?;
        let digits = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if written.len() != 8 || !written.as_bytes().iter().all(digits) {
            return None;
        }
        let (_, sequence) = covered.rsplit_once(" seq=")?;
        if !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let sequence = sequence.parse().ok()?;
        (u32::from_str_radix(written, 16).ok()? == crc_of(covered)).then_some(sequence)
    }
}

/// Undoes percent-encoding, except where that would bring control characters or lose bytes.
fn decoded(word: &str) -> String {
    let text = decode_value(word);
    let shown = |character| is_safe(character) && !matches!(character, '\n' | char::REPLACEMENT_CHARACTER);
    if text.chars().all(shown) { text } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::marker_line::format_marker;

    fn parse(text: &str) -> Option<Marker> {
        parse_marker(text, "BOOTPROOF_MARKER", &NameTable::default(), false, true)
    }

    fn sealed(text: &str) -> String {
        format!("{text} crc={:08x}", crc_of(text))
    }

    #[test]
    fn what_the_agent_writes_is_what_is_read() {
        let line = format_marker("BOOTPROOF_MARKER", "boot", None, [("note", "a b=c \"d\" 50% é"), ("a b", "")], 3);
        let marker = parse(&line).unwrap();
        assert_eq!((marker.standing, marker.sequence), (MarkerStanding::Counted, Some(3)));
        assert_eq!(marker.arguments["note"], "a b=c \"d\" 50% é");
        assert_eq!(marker.arguments["a b"], "");
        assert_eq!(marker.arguments.len(), 2);
    }

    #[test]
    fn a_bare_marker_counts_and_keeps_its_arguments() {
        let marker = parse("BOOTPROOF_MARKER boot phase=2 note=a%20b odd=100% flag seq=7").unwrap();
        assert_eq!(marker.name, "boot");
        assert_eq!(marker.standing, MarkerStanding::Counted);
        assert_eq!(marker.sequence, None, "without a checksum a sequence number is nobody's word");
        let arguments: Vec<_> = marker.arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(arguments, ["flag=", "note=a b", "odd=100%", "phase=2", "seq=7"]);
    }

    #[test]
    fn a_checksum_must_fit_the_text_before_it() {
        let good = sealed("BOOTPROOF_MARKER services.ready node=3 seq=12");
        assert!(good[good.len() - 8..].contains(|digit: char| digit.is_ascii_alphabetic()));
        let marker = parse(&good).unwrap();
        assert_eq!((marker.standing, marker.sequence), (MarkerStanding::Counted, Some(12)));
        assert_eq!(marker.arguments.len(), 1);
        for bad in [
            good.replace("node=3", "node=4"),
            good.replace("seq=12", "seq=13"),
            format!("{} crc={}", &good[..good.len() - 13], good[good.len() - 8..].to_uppercase()),
            format!("{good} more=1"),
            sealed("BOOTPROOF_MARKER boot"),
            sealed("BOOTPROOF_MARKER boot seq=x"),
            sealed("BOOTPROOF_MARKER boot seq=1 later=1"),
            "BOOTPROOF_MARKER boot seq=1 crc=".into(),
            "BOOTPROOF_MARKER boot seq=1 crc=+1234567".into(),
        ] {
            let marker = parse(&bad).unwrap_or_else(|| panic!("{bad}"));
            assert_eq!((marker.standing, marker.sequence), (MarkerStanding::Damaged, None), "{bad}");
        }
    }

    #[test]
    fn a_lane_may_demand_checksums() {
        let bare = parse_marker("P boot", "P", &NameTable::default(), true, true).unwrap();
        assert_eq!(bare.standing, MarkerStanding::Damaged);
        let changed = parse_marker("P boot", "P", &NameTable::default(), false, false).unwrap();
        assert_eq!(changed.standing, MarkerStanding::Damaged);
        let long = format!("P boot a={}", "x".repeat(MARKER_LIMIT));
        assert_eq!(
            parse_marker(&long, "P", &NameTable::default(), false, true).unwrap().standing,
            MarkerStanding::Damaged
        );
    }

    #[test]
    fn other_lines_are_no_markers() {
        for text in ["BOOTPROOF_MARKERS boot", "BOOTPROOF_MARKER", "BOOTPROOF_MARKER ", " BOOTPROOF_MARKER boot", "x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_never_smuggles_control_characters() {
        let marker = parse("BOOTPROOF_MARKER boot a=%1b[31m b=x%0Ay c=%ff d=%C3%A9").unwrap();
        assert_eq!(marker.arguments["a"], "%1b[31m");
        assert_eq!(marker.arguments["b"], "x%0Ay");
        assert_eq!(marker.arguments["c"], "%ff");
        assert_eq!(marker.arguments["d"], "é");
    }
}
