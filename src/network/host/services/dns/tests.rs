//! Messages are written by hand here, so that smoltcp does not only agree with itself.

use proptest::prelude::*;

use super::*;

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const OPT_TYPE: u16 = 41;
const ANY_TYPE: u16 = 255;

const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

fn names(pairs: &[(&str, [u8; 4])]) -> BTreeMap<String, Ipv4Addr> {
    pairs.iter().map(|(name, address)| ((*name).to_owned(), Ipv4Addr::from(*address))).collect()
}

fn zone() -> Zone {
    let pairs = [("node01", [10, 77, 0, 1]), ("Node02.lan", [10, 77, 0, 2]), ("node02", [10, 77, 0, 2])];
    Zone::new(&names(&pairs)).unwrap()
}

fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn question(name: &[u8], kind: u16) -> Vec<u8> {
    [name, &kind.to_be_bytes(), &[0, 1]].concat()
}

/// With RD set, and so many of the four kinds of entries as are said.
fn message(counts: [u8; 4], body: &[u8]) -> Vec<u8> {
    let [questions, answers, authorities, additional] = counts;
    let head = [0xbe, 0xef, 1, 0, 0, questions, 0, answers, 0, authorities, 0, additional];
    [&head[..], body].concat()
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    message([1, 0, 0, 0], &question(&wire(name), kind))
}

fn option_record(version: u8, dnssec_ok: bool) -> Vec<u8> {
    let flags = if dnssec_ok { 0x80 } else { 0 };
    // With a client's cookie, which nobody here takes.
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    [&[0, 0, OPT_TYPE as u8, 4, 0xd0, 0, version, flags, 0, 0, 12][..], &cookie].concat()
}

#[derive(Debug, PartialEq)]
struct Said {
    code: u8,
    /// Type and data.
    answer: Option<(u16, Vec<u8>)>,
}

/// Reads the answer to a query with one question and no EDNS.
fn ask(name: &str, kind: u16) -> Said {
    let query = query(name, kind);
    let answer = zone().answer(&query).unwrap();
    assert_eq!(answer[..3], [0xbe, 0xef, 0x85], "its own number; a final answer to a query that wished for one");
    assert_eq!(answer[3] & 0xf0, 0x80);
    assert_eq!(answer[4..6], [0, 1]);
    assert_eq!(answer[8..12], [0; 4]);
    assert_eq!(answer[12..query.len()], query[12..], "the question comes back as it was, each letter");
    let record = &answer[query.len()..];
    let said = (answer[7] == 1).then(|| {
        assert_eq!(record[..2], [0xc0, 12], "of the name that was asked for");
        assert_eq!(record[4..10], [0, 1, 0, 0, 0, 0]);
        assert_eq!(record.len(), 12 + usize::from(record[11]));
        (u16::from_be_bytes([record[2], record[3]]), record[12..].to_vec())
    });
    assert_eq!(said.is_some(), !record.is_empty());
    Said { code: answer[3] & 0xf, answer: said }
}

fn address(last: u8) -> Said {
    Said { code: NO_ERROR, answer: Some((A, vec![10, 77, 0, last])) }
}

fn nothing(code: u8) -> Said {
    Said { code, answer: None }
}

#[test]
fn names_have_addresses_however_they_are_written() {
    for (name, last) in [("node01", 1), ("NODE01", 1), ("node01.", 1), ("nOdE02.lAn", 2), ("node02", 2)] {
        assert_eq!(ask(name, A), address(last), "{name}");
        assert_eq!(ask(name, ANY_TYPE), address(last), "{name}");
    }
    let absolute = Zone::new(&names(&[("node01.", [10, 77, 0, 1])])).unwrap();
    assert_eq!(absolute.answer(&query("node01", A)), zone().answer(&query("node01", A)));
}

#[test]
fn of_a_name_there_is_nothing_but_its_address() {
    for kind in [AAAA, PTR, 2, 6, 15, 16, 33, 65, 257, 0xfffe] {
        assert_eq!(ask("node01", kind), nothing(NO_ERROR), "{kind}");
    }
    // What is above a name is there and has nothing.
    for name in ["lan", "", "in-addr.arpa", "77.10.in-addr.arpa"] {
        assert_eq!(ask(name, A), nothing(NO_ERROR), "{name}");
    }
    for name in ["node03", "node01.lan", "x.node01", "example.org", "lan.node02", "node0", "node011"] {
        assert_eq!(ask(name, A), nothing(NO_SUCH_NAME), "{name}");
        assert_eq!(ask(name, AAAA), nothing(NO_SUCH_NAME), "{name}");
    }
    // A dot within a label parts nothing.
    let answer = zone().answer(&message([1, 0, 0, 0], &question(b"\x0anode02.lan\0", A))).unwrap();
    assert_eq!(answer[3] & 0xf, NO_SUCH_NAME);
}

#[test]
fn addresses_have_names() {
    let said = |name| Said { code: NO_ERROR, answer: Some((PTR, wire(name))) };
    assert_eq!(ask("1.0.77.10.in-addr.arpa", PTR), said("node01"));
    assert_eq!(ask("1.0.77.10.IN-ADDR.ARPA.", PTR), said("node01"));
    // The first of two in alphabetical order, capitals first.
    assert_eq!(ask("2.0.77.10.in-addr.arpa", PTR), said("node02.lan"));
    assert_eq!(ask("1.0.77.10.in-addr.arpa", A), nothing(NO_ERROR));
    assert_eq!(ask("3.0.77.10.in-addr.arpa", PTR), nothing(NO_SUCH_NAME));
    assert_eq!(ask("01.0.77.10.in-addr.arpa", PTR), nothing(NO_SUCH_NAME));
}

#[test]
fn who_extends_the_protocol_is_answered_in_kind() {
    let extended = |version, dnssec_ok| {
        let body = [question(&wire("node01"), A), option_record(version, dnssec_ok)].concat();
        zone().answer(&message([1, 0, 0, 1], &body)).unwrap()
    };
    let answer = extended(0, true);
    assert_eq!(answer[3..12], [0x80, 0, 1, 0, 1, 0, 0, 0, 1]);
    assert_eq!(answer[answer.len() - 15..answer.len() - 11], [10, 77, 0, 1]);
    assert_eq!(answer[answer.len() - 11..], [0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    // A version that there is not: its code is in two parts.
    let answer = extended(1, false);
    assert_eq!(answer[3..12], [0x80, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(answer[answer.len() - 11..], [0, 0, 41, 4, 0xd0, 1, 0, 0, 0, 0, 0]);
    // Other additional records do not matter; two of these contradict each other.
    let other = [&[0xc0, 12][..], &[0, 16, 0, 1, 0, 0, 0, 0, 0, 1, 0]].concat();
    let body = [question(&wire("node01"), A), other.clone(), option_record(0, false)].concat();
    assert_eq!(zone().answer(&message([1, 0, 0, 2], &body)).unwrap()[3..12], [0x80, 0, 1, 0, 1, 0, 0, 0, 1]);
    assert_eq!(zone().answer(&message([1, 1, 0, 1], &body)).unwrap()[3..12], [0x80, 0, 1, 0, 1, 0, 0, 0, 1]);
    let twice = [question(&wire("node01"), A), option_record(0, false), option_record(0, false)].concat();
    assert_eq!(code(&message([1, 0, 0, 2], &twice)), FORMAT_ERROR);
}

fn code(message: &[u8]) -> u8 {
    zone().answer(message).unwrap()[3] & 0xf
}

#[test]
fn what_is_no_good_query_is_told_so_and_what_is_none_is_passed_over() {
    let good = query("node01", A);
    for length in 0..HEADER {
        assert_eq!(zone().answer(&good[..length]), None);
    }
    for length in HEADER..good.len() {
        let answer = zone().answer(&good[..length]).unwrap();
        assert_eq!(answer, [0xbe, 0xef, 0x85, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], "{length}");
    }
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(zone().answer(&response), None, "or two servers would talk for ever");
    for opcode in 1..16u8 {
        let mut other = good.clone();
        other[2] = opcode << 3;
        let answer = zone().answer(&other).unwrap();
        assert_eq!((answer[2] >> 3 & 0xf, answer[3] & 0xf), (opcode, NOT_IMPLEMENTED));
    }
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), REFUSED);
    let both = [question(&wire("node01"), A), question(&wire("node02"), A)].concat();
    assert_eq!(code(&message([2, 0, 0, 0], &both)), FORMAT_ERROR);
    assert_eq!(code(&message([0, 0, 0, 0], &[])), FORMAT_ERROR);
    // A name that points at itself, one with a label of a kind that there is not, and one that is too long.
    for name in [&[0xc0, 12][..], &[0x40, 0], &[0x80, 0], &[&[1, b'a'][..]; 127].concat()] {
        let name = [name, &[0]].concat();
        assert_eq!(code(&message([1, 0, 0, 0], &question(&name, A))), if name.len() == 255 { 3 } else { FORMAT_ERROR });
    }
    let long = [&[&[1, b'a'][..]; 128].concat()[..], &[0]].concat();
    assert_eq!(code(&message([1, 0, 0, 0], &question(&long, A))), FORMAT_ERROR);
    // A record that claims more than there is.
    let body = [question(&wire("node01"), A), vec![0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 9]].concat();
    assert_eq!(code(&message([1, 0, 0, 1], &body)), FORMAT_ERROR);
}

#[test]
fn names_make_sense_or_are_told_to_make_none() {
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    assert!(Zone::new(&names(&[(&long, [10, 77, 0, 1])])).is_ok());
    let (too_long, label) = (format!("{long}d"), "a".repeat(64));
    for name in ["", ".", "a..b", ".a", "a b", "ä", &too_long, &label] {
        let error = Zone::new(&names(&[(name, [10, 77, 0, 1])])).unwrap_err();
        assert_eq!(error.to_string(), format!("`{name}` is no name for a machine"));
    }
    let error = Zone::new(&names(&[("NODE", [10, 77, 0, 1]), ("node", [10, 77, 0, 2])])).unwrap_err();
    assert_eq!(error.to_string(), "the name `node` is there for two addresses");
    assert!(Zone::new(&names(&[("NODE", [10, 77, 0, 1]), ("node", [10, 77, 0, 1])])).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Any bytes; a good query that was damaged, with anything behind it.
    #[test]
    fn no_bytes_make_it_panic_and_answers_are_short(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        counts in any::<[u8; 4]>(),
        name in proptest::sample::select(vec!["node01", "node02.lan", "1.0.77.10.in-addr.arpa", "x"]),
        (at, value, additional) in (any::<proptest::sample::Index>(), any::<u8>(), 0u8..3),
    ) {
        let mut damaged = message([1, 0, 0, additional], &[question(&wire(name), A), bytes.clone()].concat());
        let at = at.index(damaged.len());
        damaged[at] = value;
        for query in [bytes.clone(), message(counts, &bytes), damaged] {
            if let Some(answer) = zone().answer(&query) {
                prop_assert!(answer.len() <= 512);
                prop_assert_eq!(&answer[..2], &query[..2]);
                prop_assert_eq!(answer[2] & 0x80, 0x80);
                // Answers are not answered.
                prop_assert_eq!(zone().answer(&answer), None);
            }
        }
    }
}
