//! What a marker line looks like: `PREFIX name[.node] key=value ... seq=N crc=XXXXXXXX`.
//!
//! `seq` counts the markers of one boot from 1. `crc` is the CRC-32 (IEEE) of the line's text from the first byte of the
//! prefix up to and including the word `seq=N`, in eight lower-case hexadecimal digits. Words are parted by one space.
//!
//! Names, nodes, keys and values are percent-encoded: every byte that is not printable ASCII, and space, `%`, `"` and
//! `'`, is written as `%XX` with upper-case digits; in names, nodes and keys `=` is too. So a line is always printable
//! ASCII with no escape sequence in it, splits at spaces, and a word splits at its first `=`.

/// The marker as one line, without its line ending.
pub fn format_marker<'a>(
    prefix: &str,
    name: &str,
    node: Option<&str>,
    arguments: impl IntoIterator<Item = (&'a str, &'a str)>,
    sequence: u64,
) -> String {
    let mut line = String::with_capacity(96);
    line.push_str(prefix);
    line.push(' ');
    encode(name, true, &mut line);
    if let Some(node) = node {
        line.push('.');
        encode(node, true, &mut line);
    }
    for (key, value) in arguments {
        line.push(' ');
        encode(key, true, &mut line);
        line.push('=');
        encode(value, false, &mut line);
    }
    line.push_str(" seq=");
    line.push_str(&sequence.to_string());
    let crc = crc_of(&line);
    line.push_str(&format!(" crc={crc:08x}"));
    line
}

/// The checksum over a line's text from its prefix up to and including `seq=N`.
pub fn crc_of(text_up_to_sequence: &str) -> u32 {
    crc32fast::hash(text_up_to_sequence.as_bytes())
}

fn encode(text: &str, is_name: bool, line: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_graphic() && !matches!(byte, b'%' | b'"' | b'\'') && !(is_name && byte == b'=');
        if plain {
            line.push(byte as char);
        } else {
            line.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// What `percent-encoding` of a value stood for; bytes that are no UTF-8 are replaced. A `%` that is not followed by two
/// hexadecimal digits stands for itself: products write such values.
pub fn decode_value(word: &str) -> String {
    let bytes = word.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let pair = (bytes[index] == b'%')
            .then(|| bytes.get(index + 1..index + 3))
            .flatten()
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match pair {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_word_by_word() {
        assert_eq!(
            format_marker("BOOTPROOF_MARKER", "services.ready", Some("node01"), [("unit", "etcd")], 7),
            "BOOTPROOF_MARKER services.ready.node01 unit=etcd seq=7 crc=7a722986"
        );
    }

    #[test]
    fn the_checksum_covers_everything_up_to_the_sequence_number() {
        let line = format_marker("P", "boot", None, [], 1);
        let (text, crc) = line.split_once(" crc=").unwrap();
        assert_eq!(text, "P boot seq=1");
        assert_eq!(crc, format!("{:08x}", crc_of(text)));
    }

    #[test]
    fn whatever_a_value_holds_the_line_stays_plain_and_the_value_comes_back() {
        for value in ["two words", "50%", "\u{1b}[2J\r\n", "it's \"so\"", "a=b", "größe", "", "100%25"] {
            let line = format_marker("P", "n", None, [("key", value)], 1);
            assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{line}");
            let word = line.split(' ').nth(2).unwrap();
            assert_eq!(decode_value(word.split_once('=').unwrap().1), value, "{line}");
        }
        assert_eq!(decode_value("100%"), "100%");
        assert_eq!(decode_value("%zz"), "%zz");
    }
}
