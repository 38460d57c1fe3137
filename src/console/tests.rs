//! The whole way of the bytes: property tests against a naive reading, hostile guests, and captures of real sources.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::marker::{CompiledRules, Found, LineFinding, RuleParts, built_in_failure_patterns};

fn rules_with(console_patterns: &[&str]) -> Arc<CompiledRules> {
    let parts = RuleParts {
        machine: "node01".into(),
        names: ["boot", "services.ready"].map(String::from).into(),
        nodes: ["node01".to_string()].into(),
        console_patterns: console_patterns.iter().map(|pattern| pattern.to_string()).collect(),
        ..RuleParts::default()
    };
    Arc::new(CompiledRules::from_parts(parts).unwrap())
}

static RULES: LazyLock<Arc<CompiledRules>> = LazyLock::new(|| rules_with(&["login: $", "é+x"]));
/// With a pattern that promises no literal, so that there is no quick way around any line.
static SLOW_RULES: LazyLock<Arc<CompiledRules>> = LazyLock::new(|| rules_with(&["login: $", "é+x", "[0-9]{4}"]));

fn findings(rules: &Arc<CompiledRules>, pieces: &[&[u8]]) -> Vec<LineFinding> {
    let mut interpreter = Interpreter::new(rules.clone(), "console.raw");
    let mut findings = Vec::new();
    for piece in pieces {
        interpreter.feed(piece, &mut |finding| findings.push(finding));
    }
    interpreter.quiet(&mut |finding| findings.push(finding));
    findings
}

/// A finding in few words: what, where, and how it reads.
fn told(finding: &LineFinding) -> String {
    let what = match &finding.found {
        Found::Marker(marker) => {
            format!("marker {} {:?} {:?} {:?}", marker.name, marker.node, marker.sequence, marker.standing)
        }
        Found::FailurePattern { name } => format!("failure {name}"),
        Found::ConsoleMatch { pattern } => format!("console {pattern}"),
    };
    format!("{what} at {}+{}", finding.evidence.offset, finding.evidence.length)
}

/// The naive reading: everything at once, byte by byte, each text tried against each expression by itself.
mod naive {
    use super::*;

    struct Text {
        raw: std::ops::Range<usize>,
        bytes: Vec<u8>,
        intact: bool,
    }

    type Kept = Vec<(usize, u8)>;

    fn texts(bytes: &[u8]) -> (Vec<Text>, Option<Text>) {
        let mut done = Vec::new();
        let (mut start, mut at) = (0, 0);
        let mut kept = Kept::new();
        let mut erased = false;
        let close = |raw: std::ops::Range<usize>, kept: &mut Kept, erased: &mut bool| {
            let kept = std::mem::take(kept);
            // Intact: what was kept stands side by side in the recording.
            let adjacent = kept.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
            let intact = !std::mem::take(erased) && adjacent && kept.len() <= LINE_LIMIT;
            let bytes = kept.into_iter().map(|(_, byte)| byte).take(LINE_LIMIT).collect();
            Text { raw, bytes, intact }
        };
        while at < bytes.len() {
            let byte = bytes[at];
            let (length, moved) = match byte {
                b'\n' | b'\r' => (1, true),
                0x1b => sequence(&bytes[at..]),
                _ => (1, false),
            };
            if moved {
                erased |= byte == 0x1b;
                done.push(close(start..at + length - 1, &mut kept, &mut erased));
                start = at + length;
            } else if byte == 0x08 {
                erased |= !kept.is_empty();
                for _ in 0..4 {
                    match kept.pop() {
                        Some((_, byte)) if byte & 0xc0 == 0x80 => {}
                        _ => break,
                    }
                }
            } else if byte == b'\t' || (byte >= 0x20 && byte != 0x7f) {
                kept.push((at, byte));
            }
            at += length;
        }
        let open = (start < bytes.len()).then(|| close(start..bytes.len(), &mut kept, &mut erased));
        (done, open)
    }

    /// How long the escape sequence at the beginning is, and whether it moves the cursor elsewhere. The generator
    /// below puts no other control characters than line ends inside sequences.
    fn sequence(bytes: &[u8]) -> (usize, bool) {
        static WHOLE: LazyLock<regex::bytes::Regex> = LazyLock::new(|| {
            regex::bytes::Regex::new(
                r"(?-u)^\x1b(\[[ -?]*([@-~])?|[\]PX^_][^\x07\x18\x1a\x1b\r\n]*(\x07|\x1b\\)?|[ -/]+[0-~]?|[0-OQ-WYZ\\`-~])?",
            )
            .unwrap()
        });
        let found = WHOLE.find(bytes).unwrap().as_bytes();
        static MOVED: LazyLock<regex::bytes::Regex> =
            LazyLock::new(|| regex::bytes::Regex::new(r"(?-u)^\x1b(\[[ -?]*[HfG]|\[[ -?]*[23]J|[cE])$").unwrap());
        (found.len(), MOVED.is_match(found))
    }

    /// Undoes percent-encoding, unless that would bring control characters or lose bytes. The generator below puts no
    /// other unsafe characters there.
    fn percent_decoded(word: &str) -> String {
        let mut decoded = Vec::new();
        for (index, part) in word.split('%').enumerate() {
            let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            match digits {
                Some(digits) if index > 0 => {
                    decoded.push(u8::from_str_radix(digits, 16).unwrap());
                    decoded.extend(part[2..].bytes());
                }
                _ => {
                    decoded.extend((index > 0).then_some(b'%'));
                    decoded.extend(part.bytes());
                }
            }
        }
        match String::from_utf8(decoded) {
            Ok(text) if !text.contains(|one: char| one == '\u{fffd}' || (one.is_control() && one != '\t')) => text,
            _ => word.to_owned(),
        }
    }

    /// Compiling costs more than matching here.
    fn compiled(expression: &str) -> Regex {
        thread_local!(static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default());
        COMPILED.with_borrow_mut(|compiled| {
            compiled.entry(expression.to_owned()).or_insert_with(|| Regex::new(expression).unwrap()).clone()
        })
    }

    pub fn findings(bytes: &[u8], console_patterns: &[&str]) -> Vec<String> {
        let (done, open) = texts(bytes);
        let mut told = Vec::new();
        for text in &done {
            examine(text, true, console_patterns, &mut told);
        }
        if let Some(open) = open {
            examine(&open, false, console_patterns, &mut told);
        }
        told
    }

    fn examine(text: &Text, complete: bool, console_patterns: &[&str], told: &mut Vec<String>) {
        let place = format!("at {}+{}", text.raw.start, text.raw.len());
        let decoded = String::from_utf8_lossy(&text.bytes);
        let decoded = decoded.replace(|character: char| character.is_control() && character != '\t', "\u{fffd}");
        let trimmed = decoded.trim_end();
        let short: String = trimmed
            .chars()
            .scan(0, |length, one| {
                *length += one.len_utf8();
                (*length <= 4096).then_some(one)
            })
            .collect();
        let words: Vec<_> = short.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        let is_marker = complete && decoded.starts_with("BOOTPROOF_MARKER") && words.len() > 1 && words[0].len() == 16;
        if is_marker {
            let checksum = compiled(r"^(.*) seq=([0-9]+) crc=([0-9a-f]{8})$");
            let mut sequence = None;
            let mut counted = text.intact && !decoded.contains('\u{fffd}') && trimmed.len() <= 4096;
            if words.iter().any(|word| word.starts_with("crc=")) {
                let fits = checksum.captures(&short).and_then(|found| {
                    let covered = format!("{} seq={}", &found[1], &found[2]);
                    (format!("{:08x}", crc32fast::hash(covered.as_bytes())) == found[3])
                        .then(|| found[2].parse().ok())?
                });
                counted &= fits.is_some();
                sequence = fits.filter(|_: &u64| counted);
            }
            let word = percent_decoded(words[1]);
            let (name, node) = match word.strip_suffix(".node01") {
                Some(name) if !name.is_empty() => (name, Some("node01".to_string())),
                _ => (word.as_str(), None),
            };
            let standing = if counted { "Counted" } else { "Damaged" };
            told.push(format!("marker {name} {node:?} {sequence:?} {standing} {place}"));
        }
        let mut built_in: Vec<_> = built_in_failure_patterns().iter().collect();
        built_in.sort_by_key(|pattern| pattern.name);
        for pattern in built_in {
            if !is_marker && compiled(pattern.expression).is_match(&decoded) {
                told.push(format!("failure {} {place}", pattern.name));
            }
        }
        let mut console: Vec<_> = console_patterns.to_vec();
        console.sort();
        for pattern in console {
            if compiled(pattern).is_match(&decoded) {
                told.push(format!("console {pattern} {place}"));
            }
        }
    }
}

/// Pieces that consoles are made of, good and bad.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let sealed = (0..4u64, any::<bool>()).prop_map(|(sequence, good)| {
        let text = format!("BOOTPROOF_MARKER services.ready.node01 a=b seq={sequence}");
        let checksum = crc32fast::hash(text.as_bytes()) ^ u32::from(!good);
        format!("{text} crc={checksum:08x}").into_bytes()
    });
    let fixed = prop::sample::select(vec![
        &b"\n"[..],
        b"\n",
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\r\r\n",
        b"BOOTPROOF_MARKER boot",
        b"BOOTPROOF_MARKER ",
        b"BOOTPROOF_",
        b".node01",
        b"%2e",
        b"%1b",
        b"%c3%a9",
        b"%",
        b"[    1.234567] Kernel panic - not syncing: VFS",
        b"[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39metcd\x1b[0m.",
        b"[FAILED] Failed to start etcd",
        b"grub rescue> ",
        b"(initramfs) ",
        b"debian login: ",
        b"2026",
        b"\x1b[0m",
        b"\x1b[1;31m",
        b"\x1b[2J",
        b"\x1b[01;01H",
        b"\x1b[K",
        b"\x1b]0;title\x07",
        b"\x1b]0;title\x1b\\",
        b"\x1b]0;open",
        b"\x1bP1$q",
        b"\x1b(B",
        b"\x1bc",
        b"\x1b",
        b"\x08",
        b"\0",
        b"\x7f",
        b"\xc3\xa9x",
        b"\xc3",
        b"\xa9",
        b"\xff\xfe",
        b"\xc2\x9b",
        b"\xe2\x97\x8f ",
        b"\t",
        b" ",
    ])
    .prop_map(<[u8]>::to_vec);
    let long = (LINE_LIMIT - 40..LINE_LIMIT + 40).prop_map(|length| vec![b'x'; length]);
    prop_oneof![
        240 => fixed,
        36 => sealed,
        36 => "[ -~]{0,40}".prop_map(String::into_bytes),
        1 => long,
    ]
}

/// Bytes that a failing test prints as a reader can read them.
#[derive(Clone)]
struct Stream(Vec<u8>);

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "b\"{}\"", self.0.escape_ascii())
    }
}

fn stream() -> impl Strategy<Value = Stream> {
    prop::collection::vec(fragment(), 0..60).prop_map(|fragments| {
        let mut bytes = fragments.concat();
        // The reference knows no control characters inside sequences (but their line ends).
        let mut from = 0;
        while let Some(found) = ODD.find_at(&bytes, from) {
            let last = found.end() - 1;
            from = found.start();
            bytes.remove(last);
        }
        Stream(bytes)
    })
}

/// A sequence with a control character, another sequence or a non-ASCII byte inside.
static ODD: LazyLock<regex::bytes::Regex> = LazyLock::new(|| {
    regex::bytes::Regex::new(
        r"(?-u)\x1b(\[[ -?]*|[ -/]*)[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\xff]|\x1b[\]PX^_][^\x07\x18\x1a\x1b\r\n]*(\x18|\x1a|\x1b[^\\])",
    )
    .unwrap()
});

fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.sort();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places {
        pieces.push(&bytes[start..place]);
        start = place;
    }
    pieces.push(&bytes[start..]);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_the_bytes_are_cut_the_findings_are_the_same(
        Stream(bytes) in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        for rules in [&*RULES, &*SLOW_RULES] {
            let whole = findings(rules, &[&bytes]);
            prop_assert_eq!(&whole, &findings(rules, &cut(&bytes, &cuts)));
            if bytes.len() < 2000 {
                let single: Vec<_> = bytes.chunks(1).collect();
                prop_assert_eq!(&whole, &findings(rules, &single));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_give_the_same_findings_too(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(0x1b), Just(b'[')], 0..400),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        prop_assert_eq!(findings(&SLOW_RULES, &[&bytes]), findings(&SLOW_RULES, &cut(&bytes, &cuts)));
    }

    #[test]
    fn the_quick_way_finds_what_a_naive_reading_finds(Stream(bytes) in stream()) {
        let quick: Vec<_> = findings(&RULES, &[&bytes]).iter().map(told).collect();
        prop_assert_eq!(quick, naive::findings(&bytes, &["login: $", "é+x"]));
        let slow: Vec<_> = findings(&SLOW_RULES, &[&bytes]).iter().map(told).collect();
        prop_assert_eq!(slow, naive::findings(&bytes, &["login: $", "é+x", "[0-9]{4}"]));
    }

    #[test]
    fn a_log_is_safe_and_does_not_depend_on_how_it_was_read(Stream(bytes) in stream()) {
        let folder = tempfile::tempdir().unwrap();
        let (raw, log) = (folder.path().join("raw"), folder.path().join("log"));
        std::fs::write(&raw, &bytes).unwrap();
        let written = decode_file(&raw, &log).unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        prop_assert_eq!(written, text.len() as u64);
        prop_assert!(text.chars().all(is_safe));
        let feeds = bytes.iter().filter(|byte| **byte == b'\n').count();
        let open = usize::from(bytes.last().is_some_and(|byte| *byte != b'\n'));
        prop_assert_eq!(text.lines().count(), feeds + open);
    }
}

/// What the property above once found: the naive reading took percent-encoded names as they stand.
#[test]
fn a_percent_encoded_name_reads_the_same_to_both() {
    for (bytes, name) in [
        (&b"BOOTPROOF_MARKER boot%2a\n\n"[..], "boot* None"),
        (b"BOOTPROOF_MARKER boot%2026\n", "boot 26 None"),
        (b"BOOTPROOF_MARKER boot%2enode01\n", "boot Some(\"node01\")"),
        (b"BOOTPROOF_MARKER boot%c3%a9\n", "boot\u{e9} None"),
        (b"BOOTPROOF_MARKER boot%c3\n", "boot%c3 None"),
        (b"BOOTPROOF_MARKER %2aboot%1b\n", "%2aboot%1b None"),
        (b"BOOTPROOF_MARKER %boot%2%%2a\n", "%boot%2%* None"),
    ] {
        let quick: Vec<_> = findings(&RULES, &[bytes]).iter().map(told).collect();
        let length = bytes.trim_ascii_end().len();
        assert_eq!(quick, [format!("marker {name} None Counted at 0+{length}")]);
        assert_eq!(quick, naive::findings(bytes, &["login: $", "é+x"]));
    }
}

#[test]
fn a_marker_can_neither_be_hidden_nor_pieced_together() {
    let found = |bytes: &[u8]| findings(&RULES, &[bytes]).iter().map(told).collect::<Vec<_>>();
    assert_eq!(found(b"BOOTPROOF_MARKER boot\rprinted over it\n"), ["marker boot None None Counted at 0+21"]);
    assert_eq!(found(b"50%\rBOOTPROOF_MARKER boot\r\n"), ["marker boot None None Counted at 4+21"]);
    assert_eq!(found(b"\x1b[0mBOOTPROOF_MARKER boot\x1b[0m\n"), ["marker boot None None Counted at 0+29"]);
    for pieced in [
        &b"BOOTPROOF_MARKEX\x08R boot\n"[..],
        b"BOOTPROOF_MARK\0ER boot\n",
        b"BOOTPROOF_\x1b[1mMARKER boot\n",
        b"BOOTPROOF_MARKER bo\xffot\n",
        b"BOOTPROOF_MARKER boot\x1bcSeaBIOS\n",
    ] {
        let found = found(pieced);
        assert!(found.len() == 1 && found[0].contains("Damaged"), "{found:?}");
    }
    for none in [
        &b"user said BOOTPROOF_MARKER boot\n"[..],
        b"BOOTPROOF_MARKER\rboot\n",
        b"BOOTPROOF_MARKER boot",
        b"OOTPROOF_MARKER boot\rB\n",
        b"BOOTPROOF_MARKER_2 boot\n",
    ] {
        assert_eq!(found(none), [""; 0], "{}", String::from_utf8_lossy(none));
    }
    let after_noise = b"\x1b]0;never closed\nBOOTPROOF_MARKER boot\n";
    assert_eq!(found(after_noise).len(), 1, "no sequence reaches past a line");
}

#[test]
fn a_prompt_is_seen_once_the_console_is_quiet_and_only_once() {
    let mut interpreter = Interpreter::new(RULES.clone(), "console.raw");
    let mut told_so_far = Vec::new();
    let mut emit = |finding: LineFinding| told_so_far.push(told(&finding));
    interpreter.feed(b"debian lo", &mut emit);
    assert!(interpreter.has_untried_text());
    interpreter.quiet(&mut emit);
    assert!(!interpreter.has_untried_text());
    interpreter.feed(b"gin: ", &mut emit);
    interpreter.quiet(&mut emit);
    interpreter.feed(b"\r\ngrub rescue> ", &mut emit);
    interpreter.quiet(&mut emit);
    interpreter.feed(b"ls\r\n", &mut emit);
    assert_eq!(told_so_far, ["console login: $ at 0+14", "failure grub-rescue at 16+13"]);
}

/// Captures what a source gives and returns the reports.
fn captured(source: impl Source + 'static, limit: u64, folder: &tempfile::TempDir) -> (Vec<String>, CaptureSummary) {
    let options = CaptureOptions {
        recording: folder.path().join("console.raw"),
        file: "machines/node01/console.raw".into(),
        limit,
        rules: RULES.clone(),
    };
    let (sender, reports) = mpsc::channel();
    let capture = capture(source, options, move |report| {
        let told = match report {
            ConsoleReport::Finding(finding) => told(&finding),
            ConsoleReport::Capped { limit } => format!("capped at {limit}"),
            ConsoleReport::Ended { bytes, error } => format!("ended after {bytes}: {error:?}"),
        };
        sender.send(told).unwrap();
    })
    .unwrap();
    let summary = capture.join().unwrap();
    (reports.into_iter().collect(), summary)
}

#[test]
fn a_capture_records_first_and_reports_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, host) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        guest.write_all(b"SeaBIOS\r\nBOOTPROOF_MARKER boot\r\ngrub rescue> ").unwrap();
    });
    let (reports, summary) = captured(host, 1 << 20, &folder);
    writer.join().unwrap();
    assert_eq!(
        reports,
        ["marker boot None None Counted at 9+21", "failure grub-rescue at 32+13", "ended after 45: None"]
    );
    assert_eq!(summary, CaptureSummary { bytes: 45, capped: false });
    assert_eq!(std::fs::read(folder.path().join("console.raw")).unwrap().len(), 45);
}

#[test]
fn a_prompt_is_reported_while_the_console_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, host) = UnixStream::pair().unwrap();
    let options = CaptureOptions {
        recording: folder.path().join("console.raw"),
        file: "console.raw".into(),
        limit: 1 << 20,
        rules: RULES.clone(),
    };
    let (sender, reports) = mpsc::channel();
    let capture = capture(host, options, move |report| sender.send(report).unwrap()).unwrap();
    guest.write_all(b"(initramfs) ").unwrap();
    let report = reports.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert!(matches!(report, ConsoleReport::Finding(finding) if told(&finding) == "failure initramfs-prompt at 0+12"));
    assert!(!capture.is_finished());
    drop(guest);
    capture.join().unwrap();
}

#[test]
fn a_recording_ends_at_its_limit_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let stream = b"BOOTPROOF_MARKER boot\n".repeat(100_000);
    let (reports, summary) = captured(Recorded(std::io::Cursor::new(stream)), 50, &folder);
    assert_eq!(
        reports,
        [
            "marker boot None None Counted at 0+21",
            "marker boot None None Counted at 22+21",
            "capped at 50",
            "ended after 50: None"
        ]
    );
    assert_eq!(summary, CaptureSummary { bytes: 50, capped: true });
    assert_eq!(std::fs::metadata(folder.path().join("console.raw")).unwrap().len(), 50);
}

#[test]
fn a_recording_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("console.raw"), "evidence").unwrap();
    let options = CaptureOptions {
        recording: folder.path().join("console.raw"),
        file: "console.raw".into(),
        limit: 1,
        rules: RULES.clone(),
    };
    assert!(capture(Recorded(std::io::empty()), options, |_| ()).is_err());
}

#[test]
fn a_full_disk_ends_the_capture_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let options = CaptureOptions {
        recording: folder.path().join("none"),
        file: "console.raw".into(),
        limit: u64::MAX,
        rules: RULES.clone(),
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut reports = Vec::new();
    capture::pump(Recorded(&b"BOOTPROOF_MARKER boot\n"[..]), full, options, |report| reports.push(report));
    let [ConsoleReport::Ended { bytes: 0, error: Some(error) }] = &reports[..] else { panic!("{reports:?}") };
    assert!(error.chain().contains("failed to write the console recording"), "{error:?}");
}

#[test]
fn two_hundred_megabytes_without_a_newline_are_one_bounded_line() {
    let mut interpreter = Interpreter::new(RULES.clone(), "console.raw");
    let mut told_so_far = Vec::new();
    let mut emit = |finding: LineFinding| told_so_far.push(told(&finding));
    interpreter.feed(b"[ 1.000000] Kernel panic - not syncing: ", &mut emit);
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..200 {
        interpreter.feed(&piece, &mut emit);
    }
    interpreter.feed(b"\nBOOTPROOF_MARKER boot\n", &mut emit);
    let length = 40 + (200 << 20);
    assert_eq!(
        told_so_far,
        [format!("failure kernel-panic at 0+{length}"), format!("marker boot None None Counted at {}+21", length + 1)]
    );
}

#[test]
fn a_log_reads_as_a_person_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, log) = (folder.path().join("raw"), folder.path().join("log"));
    let long = "y".repeat(LINE_LIMIT + 5);
    let bytes = format!(
        "plain\r\n\x1b[32mgreen\x1b[0m\r\n10%\r50%\rdone\r\n75%\r    \r\n\r\n{long}\n\x1b[1m{long}\nlast \x1b]0;x\x07part"
    );
    std::fs::write(&raw, bytes).unwrap();
    decode_file(&raw, &log).unwrap();
    let kept = "y".repeat(LINE_LIMIT);
    let note = "[5 more bytes of this line are in the recording]";
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!("plain\ngreen\ndone\n75%\n\n{kept} {note}\n{kept} {note}\nlast part\n")
    );
}

#[test]
fn an_excerpt_shows_the_lines_around_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let text: String = (0..50_000).map(|line| format!("line {line}\r\n\r\n")).collect();
    std::fs::write(&raw, &text).unwrap();
    let shown = |offset: usize, before, after| {
        let excerpt = excerpt(&raw, offset as u64, before, after).unwrap();
        (excerpt.lines.join("|"), excerpt.at)
    };
    let place = text.find("line 30000").unwrap();
    assert_eq!(shown(place + 3, 2, 1), ("line 29998|line 29999|line 30000|line 30001".into(), Some(2)));
    assert_eq!(shown(0, 3, 1), ("line 0|line 1".into(), Some(0)));
    assert_eq!(shown(text.len() + 99, 1, 3), ("line 49999|".into(), Some(1)));

    std::fs::write(&raw, format!("\x1b[31m{}\nx\x1b]0;evil\x07y", "z".repeat(1000))).unwrap();
    let excerpt = excerpt(&raw, 1007, 1, 0).unwrap();
    assert_eq!(excerpt.lines[1], "xy");
    assert!(excerpt.lines[0].len() == 403 && excerpt.lines[0].ends_with("z..."));
    std::fs::write(&raw, "").unwrap();
    assert_eq!(super::excerpt(&raw, 5, 3, 3).unwrap(), Excerpt::default());
}
