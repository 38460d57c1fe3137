//! Why a request is not done: a status, a code for programs, and a sentence for people. Never a secret.

use std::fmt;

use crate::provisioning::Problem;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// For programs: `token-used`.
    pub code: &'static str,
    pub title: &'static str,
    pub detail: Option<String>,
}

pub type Outcome<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub const fn new(status: u16, code: &'static str, title: &'static str) -> Self {
        Self { status, code, title, detail: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// What was sent cannot be understood.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "malformed", "the request cannot be understood").detail(detail)
    }

    pub fn unknown_node(name: &str) -> Self {
        Self::new(404, "unknown-node", "there is no such node").detail(format!("`{name}`"))
    }

    /// The state cannot be read or written. What went wrong goes to the log, not to whoever asked.
    pub const fn storage() -> Self {
        Self::new(503, "storage", "the deployer's state cannot be read or written; nothing was changed")
    }

    pub fn problem(&self) -> Problem {
        Problem { title: self.title.into(), status: self.status, detail: self.detail.clone(), code: self.code.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(formatter, "{} ({}): {detail}", self.title, self.code),
            None => write!(formatter, "{} ({})", self.title, self.code),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        tracing::error!(%error, "failed to use the deployer's database");
        Self::storage()
    }
}

impl From<serde_json::Error> for Refusal {
    /// Of what is kept as JSON in the database.
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "failed to understand what the deployer's database holds");
        Self::storage()
    }
}
