//! What Nix says while it builds (`--log-format internal-json`): which derivation, how many, and what its builder prints.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// How many lines of a builder's are kept for the error.
const TAIL: usize = 12;

// Numbers of Nix's own, from its `logging.hh`: kinds of activities, and of what they report.
const BUILD: u64 = 105;
const BUILDS: u64 = 104;
const COPY_PATH: u64 = 100;
const SUBSTITUTE: u64 = 108;
const BUILD_LOG_LINE: u64 = 101;
const PROGRESS: u64 = 105;
/// Messages of a higher level are chatter.
const INFORMATION: u64 = 3;

#[derive(Deserialize)]
struct Message {
    action: String,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    level: u64,
    #[serde(default, rename = "type")]
    kind: u64,
    #[serde(default)]
    text: String,
    #[serde(default)]
    fields: Vec<Value>,
    #[serde(default)]
    msg: String,
}

/// What has changed that somebody may want to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A derivation is being built, or a path fetched.
    Began(String),
    /// A builder has said something, or a build is over.
    Said,
}

/// Reads Nix's messages, and writes them as plain lines.
pub(super) struct BuildLog {
    file: BufWriter<File>,
    trouble: Option<io::Error>,
    /// Names of the derivations that are being built.
    builds: BTreeMap<u64, String>,
    counter: Option<u64>,
    done: u64,
    expected: u64,
    tail: VecDeque<String>,
    /// What Nix calls errors, first to last.
    pub errors: Vec<String>,
}

impl BuildLog {
    pub fn new(file: File) -> Self {
        Self {
            file: BufWriter::new(file),
            trouble: None,
            builds: BTreeMap::new(),
            counter: None,
            done: 0,
            expected: 0,
            tail: VecDeque::new(),
            errors: Vec::new(),
        }
    }

    /// Takes a line of Nix's standard error.
    pub fn read(&mut self, line: &str) -> Option<Change> {
        let message = line.strip_prefix("@nix ").and_then(|json| serde_json::from_str::<Message>(json).ok());
        let Some(message) = message else {
            // Before the logger is there, and from what Nix starts, plain text comes.
            let line = plain(line);
            self.complain(&line, line.starts_with("error:"));
            return None;
        };
        match message.action.as_str() {
            "msg" if message.level <= INFORMATION => {
                let text = plain(&message.msg);
                self.complain(&text, message.level == 0);
                None
            }
            "start" => self.start(&message),
            "stop" => {
                self.builds.remove(&message.id);
                None
            }
            "result" => self.result(&message),
            _ => None,
        }
    }

    fn complain(&mut self, text: &str, is_error: bool) {
        for line in text.lines() {
            self.write(line);
        }
        if is_error {
            self.errors.push(text.to_owned());
        }
    }

    fn start(&mut self, message: &Message) -> Option<Change> {
        match message.kind {
            BUILDS => {
                self.counter = Some(message.id);
                None
            }
            BUILD => {
                let name = derivation_name(message.fields.first().and_then(Value::as_str).unwrap_or(&message.text));
                self.write(&format!("{name}> building"));
                self.builds.insert(message.id, name.clone());
                Some(Change::Began(format!("building {name}")))
            }
            SUBSTITUTE | COPY_PATH => {
                let path = message.fields.first().and_then(Value::as_str).unwrap_or(&message.text);
                self.write(&format!("fetching {path}"));
                (message.kind == SUBSTITUTE).then(|| Change::Began(format!("fetching {}", derivation_name(path))))
            }
            _ => None,
        }
    }

    fn result(&mut self, message: &Message) -> Option<Change> {
        let number = |index: usize| message.fields.get(index).and_then(Value::as_u64);
        match message.kind {
            BUILD_LOG_LINE => {
                let line = plain(message.fields.first().and_then(Value::as_str).unwrap_or_default());
                let name = self.builds.get(&message.id).map_or("", String::as_str);
                let line = format!("{name}> {line}");
                self.write(&line);
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(line);
                Some(Change::Said)
            }
            PROGRESS if self.counter == Some(message.id) => {
                (self.done, self.expected) = (number(0).unwrap_or(0), number(1).unwrap_or(0));
                None
            }
            _ => None,
        }
    }

    fn write(&mut self, line: &str) {
        let line = crate::text::sanitize(line);
        if self.trouble.is_none() {
            self.trouble = writeln!(self.file, "{line}").err();
        }
    }

    /// `2 of 5`.
    pub fn counts(&self) -> String {
        let current = (self.done + 1).min(self.expected.max(1));
        format!("{current} of {}", self.expected.max(1))
    }

    /// Derivations that are built, and those that have to be.
    pub fn progress(&self) -> (u64, u64) {
        (self.done, self.expected)
    }

    pub fn last(&self) -> &str {
        self.tail.back().map_or("", String::as_str)
    }

    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// Whether all of it is in the file.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.trouble.take() {
            Some(error) => Err(error),
            None => self.file.flush(),
        }
    }
}

/// `/nix/store/<digest>-name.drv` -> `name`.
fn derivation_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name).to_owned()
}

/// Without colours.
fn plain(text: &str) -> String {
    #[allow(clippy::expect_used, reason = "a constant")]
    static COLOURS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("\x1b\\[[0-9;]*[A-Za-z]").expect("a regular expression"));
    COLOURS.replace_all(text, "").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Nix 2.8 says it.
    const SAID: &str = r#"
@nix {"action":"msg","level":4,"msg":"evaluating file '/x/d.nix'"}
@nix {"action":"start","id":57,"level":0,"text":"","type":104}
@nix {"action":"start","fields":["/nix/store/mwwj5y3ra3zxgw0g626p06xpgvjw7sjx-bad.drv","",1,1],"id":60,"level":3,"text":"building '...'","type":105}
@nix {"action":"result","fields":[0,2,1,0],"id":57,"type":105}
@nix {"action":"result","fields":["\u001b[1mhello\u001b[0m"],"id":60,"type":101}
@nix {"action":"result","fields":["oops"],"id":60,"type":101}
@nix {"action":"result","fields":[0,0,0,1],"id":57,"type":105}
@nix {"action":"stop","id":60}
@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m builder for 'x' failed with exit code 4"}
@nix {"action":"start","id":"not a number"}
warning: from somewhere else
"#;

    #[test]
    fn messages_become_lines_counts_and_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = BuildLog::new(file.reopen().unwrap());
        let changes: Vec<Change> = SAID.lines().skip(1).filter_map(|line| log.read(line)).collect();
        assert_eq!(changes, [Change::Began("building bad".into()), Change::Said, Change::Said]);
        assert_eq!(log.tail().collect::<Vec<_>>(), ["bad> hello", "bad> oops"]);
        assert_eq!(log.errors, ["error: builder for 'x' failed with exit code 4"]);
        log.finish().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("bad> building\nbad> hello\nbad> oops\nerror: builder for"), "{text}");
        assert!(text.ends_with("warning: from somewhere else\n") && !text.contains("evaluating"), "{text}");
    }
}
