//! The little of X.509 that rustls does not tell: from when on a certificate is valid.

use super::date;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the certificate begins to be valid, in seconds since 1970; `None` for what is no certificate.
pub fn valid_from(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate, Some(SEQUENCE))?;
    let (_, mut rest, _) = element(certificate, Some(SEQUENCE))?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, None)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest, None)?.2;
    }
    let (_, validity, _) = element(rest, Some(SEQUENCE))?;
    let (kind, time, _) = element(validity, None)?;
    let time = std::str::from_utf8(time).ok()?;
    match kind {
        UTC_TIME => date::of_certificate(time, false),
        GENERALIZED_TIME => date::of_certificate(time, true),
        _ => None,
    }
}

/// The first element: its kind, its content, and what comes behind it.
fn element(bytes: &[u8], wanted: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, length], rest) = bytes.split_first_chunk::<2>()?;
    if wanted.is_some_and(|wanted| wanted != kind) {
        return None;
    }
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_found_behind_everything_else_and_damage_is_no_panic() {
        let tbs: &[&[u8]] = &[
            &[VERSION, 3, 2, 1, 2],
            &[2, 1, 7],
            &[SEQUENCE, 0],
            &[SEQUENCE, 0x81, 2, 5, 0],
            &[SEQUENCE, 15, UTC_TIME, 13],
            b"700101000010Z",
        ];
        let tbs = tbs.concat();
        let certificate = [&[SEQUENCE, tbs.len() as u8 + 2, SEQUENCE, tbs.len() as u8][..], &tbs].concat();
        assert_eq!(valid_from(&certificate), Some(10));
        for length in 0..certificate.len() {
            assert_eq!(valid_from(&certificate[..length]), None);
        }
    }
}
