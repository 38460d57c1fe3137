//! Every report of every way to end, and reports of logs that make no sense.

use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::document::Document;
use super::testing::snapshot;
use super::text::is_harmless;
use super::*;
use crate::event::{Event, sample};

const CONSOLE: &str = "machines/node01/console.raw";

/// A proof root with the files that the sample logs point to.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("machines/node01")).unwrap();
    let mut console = String::new();
    for number in 0..30 {
        console.push_str(&format!("[{number:3}.000] systemd[1]: line {number}\r\n"));
        if number == 12 {
            console.push_str("\x1b[31mFAILED\x1b[0m `etcd` <b>did</b> not | start ```\r\n");
        }
    }
    std::fs::write(root.path().join(CONSOLE), console).unwrap();
    std::fs::write(root.path().join("machines/node01/qemu.stderr"), "qemu: unexpected signal 6\n").unwrap();
    root
}

fn story(events: &[Event]) -> Story {
    thread_local! {
        // One for all the cases of a test, and gone with its thread.
        static ROOT: tempfile::TempDir = root();
    }
    ROOT.with(|root| Story::of(&View::of(events), root.path()))
}

fn style(color: bool) -> terminal::Style {
    terminal::Style {
        root: "work/proofs/quickstart/20261121T101756+0000-3fa9c17e".into(),
        show_command: "bootproof proof show 3fa9c17e".into(),
        color,
    }
}

#[test]
fn the_terminal_tells_each_way_to_end() {
    for (name, events) in sample::all() {
        snapshot(&format!("terminal_{name}"), &terminal::summary(&story(&events), &style(false)));
    }
    let colored = terminal::summary(&story(&sample::failed_gate()), &style(true));
    snapshot("terminal_color", &colored.replace('\x1b', "ESC"));
}

#[test]
fn details_markdown_and_junit_tell_it_too() {
    for (name, events) in [
        ("passed", sample::passed()),
        ("failed_deadline", sample::failed_deadline()),
        ("blocked", sample::blocked()),
        ("control_reproduced", sample::control_reproduced()),
    ] {
        let story = story(&events);
        let document = Document::of(&story);
        snapshot(&format!("markdown_{name}"), &markdown::markdown(&document));
        snapshot(&format!("junit_{name}"), &junit::junit(&story).unwrap());
        snapshot(&format!("details_{name}"), &terminal::details(&document, &style(false)));
    }
}

#[test]
fn a_flood_is_told_with_a_gap() {
    let mut log = sample::LogBuilder::new(None);
    log.preflight();
    for number in 0..1000 {
        log.after(1).marker(&format!("m{number}"), number * 30);
    }
    let story = story(&log.unclosed());
    let at = story.timeline.iter().position(|row| matches!(row.what, story::TimelineEntry::Omitted { .. })).unwrap();
    let text = |at: usize| match &story.timeline[at].what {
        story::TimelineEntry::Marker { text, .. } => text.split(' ').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!((text(at - 1).as_str(), text(at + 1).as_str()), ("m199", "m800"));
    assert_eq!(story.timeline[at].what, story::TimelineEntry::Omitted { markers: 600 });
}

/// What Python's expat, a parser without mercy, says of some documents.
fn expat(documents: &[String]) -> Result<(), String> {
    let script = "import sys, json, xml.parsers.expat as e\n\
                  for d in json.load(sys.stdin): e.ParserCreate().Parse(d.encode('utf-8', 'surrogatepass'), True)";
    let mut child =
        match Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            // A host without Python has the other parser's word, in the same test.
            Err(_) => return Ok(()),
        };
    serde_json::to_writer(child.stdin.take().unwrap(), documents).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// What XML 1.0 allows.
fn is_xml(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_a_guest_prints_gets_out_of_a_report(events in sample::any_log()) {
        let story = story(&events);
        let document = Document::of(&story);

        for text in [terminal::summary(&story, &style(false)), terminal::details(&document, &style(false))] {
            prop_assert!(text.chars().all(|character| character == '\n' || is_harmless(character)), "{text:?}");
        }
        for event in &events {
            let line = progress::plain_line(event);
            prop_assert!(line.chars().all(is_harmless), "{line:?}");
        }

        let page = html::html(&document);
        // Whatever the texts are, the page has the tags that the document's shape gives it, and no others.
        for tag in page.split('<').skip(1) {
            let name: String = tag.chars().take_while(|character| character.is_ascii_alphanumeric() || matches!(character, '/' | '!')).collect();
            prop_assert!(TAGS.contains(&name.trim_start_matches('/')), "<{tag}");
        }
        prop_assert!(page.chars().all(|character| character == '\n' || is_harmless(character)));

        let xml = junit::junit(&story).unwrap();
        prop_assert!(xml.chars().all(is_xml), "{xml:?}");
        let report = quick_junit::Report::deserialize_from_str(&xml).unwrap();
        prop_assert_eq!(report.failures + report.errors == 0, story.result.exit_code == 0, "{}", xml);
        prop_assert_eq!(report.tests, 1 + story.result.gates.len() + story.result.steps.len());

        // Every heading, table row and fence of the Markdown is ours.
        let page = markdown::markdown(&document);
        prop_assert!(page.chars().all(|character| character == '\n' || is_harmless(character)));
        for line in page.lines().filter(|line| line.starts_with('#')) {
            let ours = document.sections.iter().any(|section| line.strip_prefix("## ") == Some(section.title));
            prop_assert!(ours || line.starts_with("# "), "{}", line);
        }
        let expected: usize = document.sections.iter().flat_map(|section| &section.blocks).map(|block| match block {
            document::Block::Table { rows, .. } => rows.len() + 2,
            document::Block::Facts(_) | document::Block::Excerpt { .. } | document::Block::Text(_) => 0,
        }).sum();
        prop_assert_eq!(page.lines().filter(|line| line.starts_with('|')).count(), expected, "{}", page);
    }
}

const TAGS: [&str; 31] = [
    "!DOCTYPE",
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "h1",
    "span",
    "p",
    "dl",
    "dt",
    "dd",
    "main",
    "section",
    "h2",
    "figure",
    "figcaption",
    "code",
    "pre",
    "div",
    "table",
    "thead",
    "tr",
    "th",
    "tbody",
    "td",
    "footer",
    "!--",
    "br",
];

#[test]
fn strict_parsers_accept_what_hostile_guests_print() {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let logs = sample::any_log();
    let mut documents: Vec<String> =
        sample::all().iter().map(|(_, events)| junit::junit(&story(events)).unwrap()).collect();
    for _ in 0..100 {
        let events = logs.new_tree(&mut runner).unwrap().current();
        documents.push(junit::junit(&story(&events)).unwrap());
    }
    if let Err(complaint) = expat(&documents) {
        panic!("{complaint}");
    }
    assert!(expat(&["<a>\u{1}</a>".into()]).is_err() || Command::new("python3").arg("-V").output().is_err());
}
