//! `SHA256SUMS`, as `sha256sum -c` reads it.

use super::digest;

pub const SUMS_FILE: &str = "SHA256SUMS";

/// One line: a digest and a name relative to the proof root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// 64 lower-case hexadecimal digits.
    pub digest: String,
    pub name: Vec<u8>,
}

/// The file's bytes. Names with a backslash, a newline or a carriage return are escaped, and their lines begin with a
/// backslash, as coreutils does.
pub fn write(sums: &[Sum]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Sum { digest, name } in sums {
        if name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
            bytes.push(b'\\');
        }
        bytes.extend_from_slice(digest.as_bytes());
        bytes.extend_from_slice(b"  ");
        // `sha256sum -c` takes a lone `-` for its standard input.
        if name == b"-" {
            bytes.extend_from_slice(b"./");
        }
        for &byte in name {
            match byte {
                b'\\' => bytes.extend_from_slice(b"\\\\"),
                b'\n' => bytes.extend_from_slice(b"\\n"),
                b'\r' => bytes.extend_from_slice(b"\\r"),
                byte => bytes.push(byte),
            }
        }
        bytes.push(b'\n');
    }
    bytes
}

/// Reads it back.
///
/// # Errors
/// The number of the first line that is wrong, and what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Vec<Sum>, (usize, &'static str)> {
    let mut sums: Vec<Sum> = Vec::new();
    let Some(body) = bytes.strip_suffix(b"\n") else {
        return if bytes.is_empty() {
            Ok(sums)
        } else {
            Err((bytes.split(|&byte| byte == b'\n').count(), "it is cut off"))
        };
    };
    for (at, line) in body.split(|&byte| byte == b'\n').enumerate() {
        let wrong = |what| (at + 1, what);
        let (escaped, line) = match line.strip_prefix(b"\\") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (Some(digest), Some(b"  "), Some(name)) = (line.get(..64), line.get(64..66), line.get(66..)) else {
            return Err(wrong("it is not a digest, two spaces and a name"));
        };
        if !digest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong("its digest is not 64 lower-case hexadecimal digits"));
        }
        let name = if escaped { unescape(name).ok_or(wrong("its name has an unknown escape"))? } else { name.to_vec() };
        let name = if name == b"./-" { b"-".to_vec() } else { name };
        if !stays_inside(&name) {
            return Err(wrong("its name leads out of the proof root"));
        }
        if sums.last().is_some_and(|last| last.name >= name) {
            return Err(wrong("its name is out of order or repeated"));
        }
        sums.push(Sum { digest: String::from_utf8_lossy(digest).into_owned(), name });
    }
    Ok(sums)
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut input = name.iter();
    while let Some(&byte) = input.next() {
        bytes.push(match byte {
            b'\\' => match input.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(bytes)
}

fn stays_inside(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// `sha256:<hex>` of the file's bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", digest::of_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_names_survive(names in prop::collection::btree_set("[a\\\\\n\r /é-]{1,8}", 0..6)) {
            let sums: Vec<Sum> = names
                .into_iter()
                .filter(|name| stays_inside(name.as_bytes()))
                .map(|name| Sum { digest: digest::of_bytes(name.as_bytes()), name: name.into_bytes() })
                .collect();
            prop_assert_eq!(read(&write(&sums)).unwrap(), sums);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        let good = write(&[Sum { digest: digest::of_bytes(b""), name: b"a".to_vec() }]);
        let line = String::from_utf8(good).unwrap();
        assert_eq!(read(line.trim_end().as_bytes()), Err((1, "it is cut off")));
        assert_eq!(read(format!("{line}{line}").as_bytes()), Err((2, "its name is out of order or repeated")));
        let outside = line.replace("  a", "  ../a");
        assert_eq!(read(outside.as_bytes()), Err((1, "its name leads out of the proof root")));
        assert_eq!(read(b"zz\n"), Err((1, "it is not a digest, two spaces and a name")));
    }
}
