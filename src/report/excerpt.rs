//! A few lines of a file of the proof root, around a place that an event points to.

use std::path::{Component, Path, PathBuf};

use super::text::{one_line, shorten};
use crate::console;
use crate::event::Evidence;

const LINES_BEFORE: usize = 15;
const LINES_AFTER: usize = 10;
const LONGEST_LINE: usize = 240;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Relative to the proof root.
    pub file: String,
    /// Harmless, and not empty.
    pub lines: Vec<String>,
}

/// The lines up to the end of the evidence and some after it; `None` where there is nothing to show.
///
/// A log may come from anywhere: nothing outside of `root` is read, and no link followed.
pub fn excerpt(root: &Path, evidence: &Evidence) -> Option<Excerpt> {
    let file = plain_file_below(root, Path::new(&evidence.file))?;
    let last_byte = evidence.offset.saturating_add(evidence.length.saturating_sub(1));
    let around = console::excerpt(&file, last_byte, LINES_BEFORE, LINES_AFTER).ok()?;
    let lines = around.lines.iter().map(|line| shorten(one_line(line).trim_end(), LONGEST_LINE));
    let lines: Vec<String> = lines.filter(|line| !line.trim().is_empty()).collect();
    (!lines.is_empty()).then(|| Excerpt { file: evidence.file.clone(), lines })
}

fn plain_file_below(root: &Path, relative: &Path) -> Option<PathBuf> {
    let mut path = root.to_path_buf();
    for part in relative.components() {
        let Component::Normal(name) = part else { return None };
        path.push(name);
        if path.symlink_metadata().ok()?.is_symlink() {
            return None;
        }
    }
    path.metadata().ok()?.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(content: &[u8], offset: u64, length: u64) -> Option<Vec<String>> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("machines")).unwrap();
        std::fs::write(root.path().join("machines/raw"), content).unwrap();
        excerpt(root.path(), &Evidence { file: "machines/raw".into(), offset, length }).map(|excerpt| excerpt.lines)
    }

    #[test]
    fn it_ends_a_little_after_the_place() {
        let content: String = (0..100).map(|number| format!("line {number}\r\n\r\n")).collect();
        let offset = content.find("line 50").unwrap() as u64;
        let lines = show(content.as_bytes(), offset, 4).unwrap();
        assert_eq!(lines.len(), LINES_BEFORE + 1 + LINES_AFTER);
        assert_eq!((lines[0].as_str(), lines[15].as_str(), lines[16].as_str()), ("line 35", "line 50", "line 51"));
    }

    #[test]
    fn any_place_in_any_bytes_gives_harmless_lines() {
        let content = b"\x1b[2Jfirst\n\xff\xfe\x00\x9b second\x07\nwithout an end";
        for offset in 0..content.len() as u64 + 3 {
            for length in [0, 1, u64::MAX] {
                for line in show(content, offset, length).unwrap_or_default() {
                    assert!(line.chars().all(super::super::text::is_harmless), "{line:?}");
                }
            }
        }
        assert_eq!(show(&vec![b'x'; 100_000], 50_000, 10).map(|lines| lines.len()), Some(1));
        assert_eq!(show(b"", 0, 10), None);
    }

    #[test]
    fn nothing_outside_of_the_root_is_shown() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret\n").unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let absolute = outside.path().join("secret").to_str().unwrap().to_owned();
        for file in ["../secret", "link", "up/secret", &absolute, "", "."] {
            assert_eq!(excerpt(&root, &Evidence { file: file.into(), offset: 0, length: 6 }), None, "{file}");
        }
    }
}
