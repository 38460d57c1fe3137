//! A command as one line for the login shell at the other end, and the first line that it answers with.
//!
//! SSH carries a line, not an argument vector, and tells neither the process's number nor why it could not be started. So
//! a small script goes first: it makes sure that it leads a process group, enters the folder, looks for the program, says
//! what it found in a line that begins with a word that nobody else knows, and becomes the program.

use crate::channel::{ChannelError, ExecRequest, RefusalReason};

/// Leads a process group in the end, whatever the server did: cancelling kills the group.
const LEADER: &str = r#"s=$1; shift; read -r a b c d g r </proc/$$/stat; if [ "$g" = "$$" ]; then eval "$s"; else exec setsid sh -c "$s" sh "$@"; fi"#;
/// `$1` the word, `$2` the folder, then variables up to `--`, then the program with its arguments.
const STARTER: &str = r#"n=$1; f=; cd "$2" 2>/dev/null || { printf "%s folder\n" "$n"; exit 0; }; shift 2; while [ "$1" != -- ]; do export "$1"; shift; done; shift; case $1 in */*) [ -e "$1" ] || f=missing; [ -d "$1" ] || [ ! -x "$1" ] && f=${f:-denied};; *) command -v "$1" >/dev/null 2>&1 || f=missing;; esac; if [ "$f" ]; then printf "%s %s\n" "$n" "$f"; exit 0; fi; printf "%s runs %s\n" "$n" "$$"; unset n f s a b c d g r; exec "$@""#;
const NO_INPUT: &str = "exec </dev/null; ";

/// One argument of a process takes no more (`MAX_ARG_STRLEN`), and the line is one.
const LONGEST: usize = 128 << 10;
/// What a login shell may print before our line comes.
const PREFACE_LIMIT: usize = 64 << 10;

/// The line to have executed. `word`: what the answer begins with.
///
/// # Errors
/// `Refused` with `Invalid`: no program, a NUL byte, a variable that no shell can set, or too long.
pub(super) fn line(request: &ExecRequest, word: &str) -> Result<String, ChannelError> {
    let invalid = |message: String| ChannelError::Refused { reason: RefusalReason::Invalid, message };
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("the command has no program".into()));
    }
    let mut starter = String::new();
    if !request.stdin {
        starter.push_str(NO_INPUT);
    }
    starter.push_str(STARTER);
    let mut words = vec![starter, word.to_owned(), request.directory.clone().unwrap_or_else(|| "/".into())];
    for (name, value) in &request.environment {
        if !is_name(name) {
            return Err(invalid(format!("a shell cannot set a variable named `{name}`")));
        }
        words.push(format!("{name}={value}"));
    }
    words.push("--".into());
    words.extend(request.argv.iter().cloned());
    let mut line = format!("exec sh -c {} sh", quote(LEADER));
    for word in &words {
        line.push(' ');
        line.push_str(&quote(word));
    }
    if line.contains('\0') {
        return Err(invalid("a command cannot contain a NUL byte".into()));
    }
    if line.len() >= LONGEST {
        let limit = LONGEST >> 10;
        return Err(invalid(format!("the command is longer than the {limit} KiB that a command over SSH can be")));
    }
    Ok(line)
}

/// The line that kills a process group.
pub(super) fn kill_line(group: u32) -> String {
    format!("exec sh -c {}", quote(&format!("kill -KILL -{group}")))
}

/// For any shell of the Bourne family.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What comes before the program's own output.
pub(super) struct Preface {
    wanted: Vec<u8>,
    held: Vec<u8>,
}

/// What the starter said.
pub(super) enum Started {
    /// With the number of the process, and what of its output came along.
    Runs {
        pid: u32,
        output: Vec<u8>,
    },
    Refused(ChannelError),
}

impl Preface {
    pub fn new(word: &str) -> Self {
        Self { wanted: format!("{word} ").into_bytes(), held: Vec::new() }
    }

    /// What has come instead of an answer, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.held).trim().chars().take(200).collect()
    }

    /// Takes in what has come; `None` while the answer is not whole.
    pub fn push(&mut self, bytes: &[u8], request: &ExecRequest) -> Option<Started> {
        self.held.extend_from_slice(bytes);
        let Some(start) = memchr::memmem::find(&self.held, &self.wanted) else {
            if self.held.len() <= PREFACE_LIMIT {
                return None;
            }
            let detail = "the login shell prints without end before the command".into();
            return Some(Started::Refused(ChannelError::Protocol { detail }));
        };
        let answer = &self.held[start + self.wanted.len()..];
        let end = memchr::memchr(b'\n', answer)?;
        let said = String::from_utf8_lossy(&answer[..end]).into_owned();
        let program = request.argv.first().map(String::as_str).unwrap_or_default();
        let refused = |reason, message| Started::Refused(ChannelError::Refused { reason, message });
        Some(match said.trim().split_once(' ') {
            Some(("runs", pid)) if pid.parse::<u32>().is_ok_and(|pid| pid > 1) => {
                Started::Runs { pid: pid.parse().unwrap_or_default(), output: answer[end + 1..].to_vec() }
            }
            None if said == "missing" => refused(
                RefusalReason::NotFound,
                format!("failed to start `{program}`: there is no such program in the guest"),
            ),
            None if said == "denied" => {
                refused(RefusalReason::PermissionDenied, format!("failed to start `{program}`: it may not be executed"))
            }
            None if said == "folder" => refused(
                RefusalReason::NotFound,
                format!(
                    "failed to start `{program}`: the folder `{}` cannot be entered",
                    request.directory.as_deref().unwrap_or("/")
                ),
            ),
            _ => Started::Refused(ChannelError::Protocol { detail: format!("a command was answered with `{said}`") }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    const WORD: &str = "bootproof-0123";

    /// As a server does it: by a login shell, in a session of its own or not.
    fn run(shell: &str, request: &ExecRequest, group: bool) -> (Option<Started>, Option<i32>, String) {
        let mut command = Command::new(shell);
        command.args(["-c", &line(request, WORD).unwrap()]).stdin(Stdio::null());
        if group {
            command.process_group(0);
        }
        let output = command.output().unwrap();
        let started = Preface::new(WORD).push(&output.stdout, request);
        (started, output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_command_arrives_as_it_is_whatever_the_shell() {
        for (shell, group) in [("sh", true), ("bash", true), ("sh", false), ("bash", false)] {
            let mut request = ExecRequest::new(["sh", "-c", "printf '%s|' \"$@\" \"$A\" \"$PWD\"; exit 7", "sh"]);
            request.argv.extend(["it's", "", "a b", "$HOME `x` \\ \"", "line\nline", "!!"].map(String::from));
            request.environment.insert("A".into(), "x'y z=1".into());
            request.directory = Some("/usr".into());
            let (started, status, said) = run(shell, &request, group);
            let Some(Started::Runs { pid, output }) = started else { panic!("{shell}: {said}") };
            assert!(pid > 1);
            assert_eq!(
                String::from_utf8(output).unwrap(),
                "it's||a b|$HOME `x` \\ \"|line\nline|!!|x'y z=1|/usr|",
                "{shell}"
            );
            assert_eq!(status, Some(7));
        }
    }

    #[test]
    fn the_command_leads_its_process_group() {
        for group in [true, false] {
            let request = ExecRequest::new(["sh", "-c", "read -r a b c d g r </proc/$$/stat; echo $$ $g"]);
            let Some(Started::Runs { pid, output }) = run("sh", &request, group).0 else { panic!() };
            assert_eq!(String::from_utf8(output).unwrap(), format!("{pid} {pid}\n"));
        }
    }

    #[test]
    fn what_cannot_be_started_is_told_apart() {
        let refused = |request: &ExecRequest| match run("sh", request, true).0 {
            Some(Started::Refused(error)) => error,
            _ => panic!("it was started"),
        };
        assert!(refused(&ExecRequest::new(["no-such-program"])).is_refused(RefusalReason::NotFound));
        assert!(refused(&ExecRequest::new(["/nowhere/x"])).is_refused(RefusalReason::NotFound));
        assert!(refused(&ExecRequest::new(["/etc/passwd"])).is_refused(RefusalReason::PermissionDenied));
        let nowhere = ExecRequest { directory: Some("/nowhere".into()), ..ExecRequest::new(["true"]) };
        assert!(refused(&nowhere).is_refused(RefusalReason::NotFound));
        for invalid in [
            ExecRequest::new([""]),
            ExecRequest::new(["a\0"]),
            ExecRequest::new(["x".repeat(LONGEST)]),
            ExecRequest { environment: [("a-b".into(), String::new())].into(), ..ExecRequest::new(["true"]) },
        ] {
            assert!(line(&invalid, WORD).unwrap_err().is_refused(RefusalReason::Invalid));
        }
    }

    #[test]
    fn what_a_login_shell_prints_before_is_left_out() {
        let request = ExecRequest::new(["true"]);
        let mut preface = Preface::new(WORD);
        assert!(preface.push(b"Welcome!\nbootproof-01", &request).is_none());
        let Some(Started::Runs { pid, output }) = preface.push(b"23 runs 77\n\0\xff", &request) else { panic!() };
        assert_eq!((pid, output.as_slice()), (77, b"\0\xff".as_slice()));
        let mut endless = Preface::new(WORD);
        assert!(matches!(endless.push(&[b'x'; PREFACE_LIMIT + 1], &request), Some(Started::Refused(_))));
    }

    #[test]
    fn the_kill_line_kills_a_group() {
        let mut sleeper = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let status = Command::new("sh").args(["-c", &kill_line(sleeper.id())]).status().unwrap();
        assert!(status.success());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
    }
}
