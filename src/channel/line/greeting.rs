//! From a line on which anything may be printed to a shell on it.

use std::fmt;

use zeroize::Zeroizing;

/// What `test-instrumentation.nix` prints once its shell is there; versions before 2023 print an empty line instead.
const BACKDOOR: &str = "Spawning backdoor root shell...";
/// As much of what was printed as can matter.
const TAIL: usize = 16 << 10;

/// How one gets a shell.
#[derive(Clone, Debug)]
pub enum Greeting {
    /// A root shell is started on the line by the guest itself, and says so.
    Backdoor,
    /// Somebody logs in.
    Dialogue {
        /// In this order.
        answers: Vec<Answer>,
        /// With one of these the shell asks for a command: what was printed ends with it.
        prompts: Vec<String>,
        /// What is printed where the answers are wrong.
        refusals: Vec<String>,
    },
}

/// What is said when something was printed.
#[derive(Clone)]
pub struct Answer {
    pub expect: String,
    /// Without the line's end. It may be a password.
    pub send: Zeroizing<String>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answer").field("expect", &self.expect).finish_non_exhaustive()
    }
}

/// How far the greeting has got.
pub struct Progress {
    greeting: Greeting,
    /// What was printed since the last answer.
    printed: String,
    answered: usize,
}

/// What follows from what was printed.
pub enum Next {
    Wait,
    Say(Zeroizing<String>),
    /// A shell listens.
    Shell,
    /// In the guest's words.
    Refused(String),
}

impl Progress {
    pub fn new(greeting: Greeting) -> Self {
        Self { greeting, printed: String::new(), answered: 0 }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        self.printed.push_str(&String::from_utf8_lossy(bytes));
        if self.printed.len() > TAIL {
            let cut = self.printed.len() - TAIL / 2;
            let cut = (cut..).find(|at| self.printed.is_char_boundary(*at)).unwrap_or_default();
            self.printed.drain(..cut);
        }
    }

    pub fn next(&mut self) -> Next {
        match &self.greeting {
            Greeting::Backdoor => {
                let whole = self.printed.rfind('\n').map_or("", |end| &self.printed[..end]);
                let is_greeting = |line: &str| line.contains(BACKDOOR);
                let is_empty = |line: &str| line.trim_end_matches('\r').is_empty();
                let greeted = self.printed.contains('\n')
                    && (whole.split('\n').any(is_greeting) || whole.split('\n').all(is_empty));
                if greeted { Next::Shell } else { Next::Wait }
            }
            Greeting::Dialogue { answers, prompts, refusals } => {
                if self.answered > 0
                    && let Some(refusal) = refusals.iter().find(|refusal| self.printed.contains(refusal.as_str()))
                {
                    return Next::Refused(refusal.clone());
                }
                let Some(answer) = answers.get(self.answered) else {
                    let printed = without_escapes(&self.printed);
                    let asks = prompts.iter().any(|prompt| printed.ends_with(prompt.as_str()));
                    return if asks { Next::Shell } else { Next::Wait };
                };
                let Some(at) = self.printed.find(&answer.expect) else { return Next::Wait };
                let rest = at + answer.expect.len();
                self.printed.drain(..rest);
                self.answered += 1;
                Next::Say(answer.send.clone())
            }
        }
    }

    /// What was waited for in vain, and what came instead.
    pub fn describe(&self, device: &str) -> String {
        let waited = match &self.greeting {
            Greeting::Backdoor => "no backdoor has greeted".to_owned(),
            Greeting::Dialogue { answers, .. } => match answers.get(self.answered) {
                Some(answer) => format!("`{}` was not printed", answer.expect.escape_debug()),
                None => "no shell has asked for a command after the login".into(),
            },
        };
        let printed = without_escapes(&self.printed);
        match printed.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("{waited} on `{device}`; it said last `{}`", self.without_answers(line.trim())),
            None => format!("{waited} on `{device}`; nothing was printed there"),
        }
    }

    /// A terminal echoes what is typed; where nothing asked for it, that may be a password.
    fn without_answers(&self, line: &str) -> String {
        let Greeting::Dialogue { answers, .. } = &self.greeting else { return line.escape_debug().to_string() };
        let typed = answers.iter().map(|answer| answer.send.as_str()).filter(|typed| !typed.is_empty());
        typed.fold(line.to_owned(), |line, typed| line.replace(typed, "...")).escape_debug().to_string()
    }
}

/// Whether a line that a shell's driver does not know is the greeting of a shell that was started anew.
pub fn is_backdoor(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).contains(BACKDOOR)
}

/// Without what changes colours and modes of a terminal.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('[') => while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
            Some(']') => while characters.next().is_some_and(|next| next != '\u{7}') {},
            _ => {}
        }
    }
    plain
}
