//! One error type for everything that a user can be told.
//!
//! What always holds: `Display` gives this error's own message and never its source's; the one printer in `cli` walks
//! the chain and prints the hints. Every error knows which exit code it asks for, so that no caller guesses.

use std::error::Error as StdError;
use std::fmt;

/// What kind of trouble an error is: the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line or a lane file is wrong: exit 2.
    Usage,
    /// Something that the run needs is missing; nothing was started: exit 3.
    Blocked,
    /// The harness or the host failed: exit 4.
    Infrastructure,
    /// A reserved amount of disk, memory or time would be crossed: exit 5.
    Budget,
    /// The user or the host asked us to stop: exit 130.
    Interrupted,
}

impl ErrorKind {
    /// The process exit code for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::Blocked => 3,
            ErrorKind::Infrastructure => 4,
            ErrorKind::Budget => 5,
            ErrorKind::Interrupted => 130,
        }
    }
}

/// What is wrong at one place of a file; line and column count from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedMessage {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// An error with its cause, and what to do about it.
pub struct Error {
    kind: ErrorKind,
    message: String,
    /// A rendered excerpt (file, line, caret) that is printed in place of the message: plain, and with colour.
    excerpt: Option<Box<(String, String)>>,
    /// The same for programs: each message with its place.
    places: Vec<PlacedMessage>,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), excerpt: None, places: Vec::new(), hints: Vec::new(), source: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    pub fn blocked(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Blocked, message)
    }

    pub fn infrastructure(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Infrastructure, message)
    }

    pub fn budget(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Budget, message)
    }

    /// A write that failed: a full file system is the host running out (`budget`), everything else is the host failing.
    pub fn storage(error: std::io::Error, message: impl Into<String>) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::budget(message)
                .with_source(error)
                .hint("free some disk space, or point `--work-root` to where there is more"),
            _ => Self::infrastructure(message).with_source(error),
        }
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do next; printed as a `hint:` line.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds an excerpt, rendered without and with colour; it begins with its own `error:` line.
    pub fn excerpt(mut self, plain: impl Into<String>, colored: impl Into<String>) -> Self {
        self.excerpt = Some(Box::new((plain.into(), colored.into())));
        self
    }

    /// Adds what the excerpt shows in a form for programs.
    pub fn places(mut self, places: Vec<PlacedMessage>) -> Self {
        self.places = places;
        self
    }

    /// What is wrong at which places, where the trouble is in a file.
    pub fn placed_messages(&self) -> &[PlacedMessage] {
        &self.places
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    pub fn rendered_excerpt(&self, color: bool) -> Option<&str> {
        self.excerpt.as_deref().map(|(plain, colored)| if color { colored } else { plain }.as_str())
    }

    /// The whole chain on one line, for places that have no room for more (an event, a log line).
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// Says what was being done when a foreign error came up.
pub trait Context<T> {
    /// The failure is the host's or ours: exit 4.
    fn infrastructure(self, message: impl FnOnce() -> String) -> Result<T>;
    /// The failure is in what the user gave us: exit 2.
    fn usage(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn infrastructure(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::infrastructure(message()).with_source(error))
    }

    fn usage(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::usage(message()).with_source(error))
    }
}
