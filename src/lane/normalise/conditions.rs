//! What an `await` step may wait for.

use super::Checker;
use super::text::slug;
use crate::lane::await_document::AwaitDocument;
use crate::lane::model::{Action, Condition};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;

const UNIT_SUFFIXES: [&str; 11] =
    ["automount", "device", "mount", "path", "scope", "service", "slice", "socket", "swap", "target", "timer"];

impl Checker<'_> {
    /// The action and a name for it.
    pub(super) fn awaited(&mut self, document: &Spanned<AwaitDocument>) -> (Action, String) {
        let given = [document.file.is_some(), document.unit.is_some(), document.port.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            self.report(
                Problem::new("an `await` waits for a file, a unit or a port, and for one of them")
                    .at(document.place.clone())
                    .hint("write `{ file = \"/run/ready\" }`, `{ unit = \"ssh.service\" }` or `{ port = 22 }`"),
            );
        }
        let strays = [
            (document.contains.as_ref().map(|value| &value.place), "contains", "file", document.file.is_some()),
            (document.gone.as_ref().map(|value| &value.place), "gone", "file", document.file.is_some()),
            (document.state.as_ref().map(|value| &value.place), "state", "unit", document.unit.is_some()),
            (document.address.as_ref().map(|value| &value.place), "address", "port", document.port.is_some()),
        ];
        for (place, key, owner, fits) in strays {
            if let (Some(place), false) = (place, fits) {
                self.report(Problem::new(format!("`{key}` belongs to `{owner}`")).at(place.clone()));
            }
        }
        let condition = if let Some(unit) = &document.unit {
            self.unit(unit, document)
        } else if let Some(port) = &document.port {
            self.port(port, document)
        } else {
            self.file(document)
        };
        let name = match &condition {
            Condition::File { path } | Condition::FileGone { path } | Condition::FileContains { path, .. } => {
                slug(path.rsplit('/').next().unwrap_or_default(), true)
            }
            Condition::Unit { name, .. } => slug(name, true),
            Condition::Port { port, .. } => format!("port-{port}"),
        };
        (Action::Await { condition }, format!("await-{name}"))
    }

    fn file(&mut self, document: &AwaitDocument) -> Condition {
        let Some(path) = &document.file else { return Condition::File { path: String::new() } };
        if !path.starts_with('/') || path.contains('\0') {
            self.report(
                Problem::new("a path in the guest is a whole one")
                    .at(path.place.clone())
                    .hint("write it like `/run/ready`"),
            );
        }
        let path = path.value.clone();
        let gone = document.gone.as_ref().filter(|gone| gone.value);
        match (&document.contains, gone) {
            (Some(text), Some(gone)) => {
                self.report(
                    Problem::new("a file that is gone contains nothing")
                        .at(gone.place.clone())
                        .also(text.place.clone(), "what it shall contain"),
                );
                Condition::FileGone { path }
            }
            (None, Some(_)) => Condition::FileGone { path },
            (Some(text), None) => {
                if text.is_empty() {
                    self.report(Problem::new("every file contains this").at(text.place.clone()));
                }
                let text = self.without_secrets(text, "what a file is awaited for");
                Condition::FileContains { path, text }
            }
            (None, None) => Condition::File { path },
        }
    }

    fn unit(&mut self, unit: &Spanned<String>, document: &AwaitDocument) -> Condition {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        let suffix = unit.rsplit_once('.').filter(|(name, _)| !name.is_empty()).map(|(_, suffix)| suffix);
        let valid = unit.len() < 256 && unit.bytes().all(named);
        if !valid || !suffix.is_some_and(|suffix| UNIT_SUFFIXES.contains(&suffix)) {
            let problem = Problem::new(format!("`{}` is not a unit of systemd's", unit.value)).at(unit.place.clone());
            self.report(if valid && !unit.is_empty() {
                problem.hint(format!("a unit's name has a suffix: `{}.service`", unit.value))
            } else {
                problem.hint("write it like `postgresql.service`")
            });
        }
        let state = document.state.as_ref().map(|state| state.value).unwrap_or_default();
        Condition::Unit { name: unit.value.clone(), state }
    }

    fn port(&mut self, port: &Spanned<u16>, document: &AwaitDocument) -> Condition {
        if port.value == 0 {
            self.report(Problem::new("nothing listens on port 0").at(port.place.clone()));
        }
        let address = document.address.as_ref().and_then(|address| {
            let parsed = address.parse().ok();
            if parsed.is_none() {
                self.report(
                    Problem::new(format!("`{}` is not an IP address", address.value))
                        .at(address.place.clone())
                        .hint("write it like `127.0.0.1`; the port stands in `port`"),
                );
            }
            parsed
        });
        Condition::Port { port: port.value, address }
    }
}
