//! What single actions may be: expectations, commands, requests and copies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Checker;
use super::faults::Targets;
use super::steps::default_bound;
use super::text::{is_address, slug};
use crate::lane::document::{
    CommandForm, CopyDocument, ExpectationForm, HttpDocument, StepDocument, TcpDocument, Terse,
};
use crate::lane::model::{Action, Command, Expectation, Expected, TextCheck};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::Span;

const GUEST: &str = "guest:";
/// In a copy, in place of a file on the host.
const PROGRAM: &str = "${program}";

impl Checker<'_> {
    pub(super) fn expect(
        &mut self,
        step: &StepDocument,
        expect: &Spanned<Vec<Spanned<ExpectationForm>>>,
        bound: Option<Span>,
    ) -> (Action, Span, String) {
        if expect.is_empty() {
            self.report(
                Problem::new("nothing is expected here")
                    .at(expect.place.clone())
                    .hint("name a marker: `expect = [\"boot\"]`; to let time pass, `hold = \"10s\"`"),
            );
        }
        let bound = bound.unwrap_or(default_bound::EXPECTATION);
        let mut name = None;
        let mut expectations = Vec::new();
        for item in expect.iter() {
            let (what, within) = match &item.value {
                Terse::Short(marker) => {
                    let marker = Spanned { value: marker.clone(), place: item.place.clone() };
                    self.marker_name(&marker, "a marker's name");
                    (Expected::Marker { name: marker.value, arguments: BTreeMap::new() }, bound)
                }
                Terse::Full(full) => {
                    if let Some(within) = &full.within {
                        self.not_zero(within);
                    }
                    let within = full.within.as_ref().map_or(bound, |within| within.value);
                    match (&full.marker, &full.console) {
                        (Some(marker), None) => {
                            self.marker_name(marker, "a marker's name");
                            (Expected::Marker { name: marker.value.clone(), arguments: full.arguments.clone() }, within)
                        }
                        (None, Some(console)) => {
                            self.regular_expression(console, &console.place);
                            if !full.arguments.is_empty() {
                                self.report(
                                    Problem::new("only a marker carries arguments")
                                        .at(item.place.clone())
                                        .hint("match them with the regular expression"),
                                );
                            }
                            (Expected::Console { pattern: console.value.clone() }, within)
                        }
                        _ => {
                            self.report(
                                Problem::new("an expectation is either a marker or a console line")
                                    .at(item.place.clone())
                                    .hint("write `{ marker = \"boot\" }` or `{ console = 'login:' }`"),
                            );
                            continue;
                        }
                    }
                }
            };
            if name.is_none() {
                name = Some(match &what {
                    Expected::Marker { name, .. } => slug(name, true),
                    Expected::Console { .. } => "console".into(),
                });
            }
            expectations.push(Expectation { what, within });
        }
        let mut forbid = Vec::new();
        for marker in step.forbid.iter().flat_map(|forbid| forbid.iter()) {
            self.marker_name(marker, "a marker's name");
            let expected = expectations
                .iter()
                .any(|expectation| matches!(&expectation.what, Expected::Marker { name, .. } if *name == marker.value));
            if expected {
                self.report(
                    Problem::new(format!("`{}` is expected and forbidden in the same step", marker.value))
                        .at(marker.place.clone())
                        .also(expect.place.clone(), "expected here"),
                );
            }
            forbid.push(marker.value.clone());
        }
        let sum: Duration = expectations
            .iter()
            .map(|expectation| expectation.within.duration())
            .fold(Duration::ZERO, Duration::saturating_add);
        let name = format!("expect-{}", name.unwrap_or_default());
        let across_reboot = step.across_reboot.as_ref().is_some_and(|across| across.value);
        (Action::Expect { expectations, forbid, across_reboot }, Span(sum), name)
    }

    /// `on_host`: a program that is a path is from the lane file's folder.
    pub(super) fn command(&mut self, form: &Spanned<CommandForm>, on_host: bool) -> Command {
        let (argv, place, full) = match &form.value {
            Terse::Short(argv) => (argv, &form.place, None),
            Terse::Full(full) => (&full.argv.value, &full.argv.place, Some(full)),
        };
        if argv.first().is_none_or(|program| program.is_empty()) {
            self.report(
                Problem::new("a command needs a program")
                    .at(place.clone())
                    .hint("write its words: `[\"uname\", \"-r\"]`; for a shell, `[\"sh\", \"-c\", \"...\"]`"),
            );
        }
        let mut words: Vec<String> = argv.iter().map(|word| self.with_secrets(word)).collect();
        for word in argv.iter().filter(|word| word.contains('\0')) {
            self.report(Problem::new("a command's word cannot hold a NUL").at(word.place.clone()));
        }
        if on_host
            && let (Some(word), Some(program)) = (words.first_mut(), argv.first())
            && program.contains('/')
        {
            *word = self.host_path(program).to_string_lossy().into_owned();
            // `./` keeps it a path: a bare word would be looked for in the search path.
            if !word.contains('/') {
                word.insert_str(0, "./");
            }
        }
        let mut environment = BTreeMap::new();
        if let Some(full) = full {
            for (name, value) in &full.environment {
                if name.is_empty() || name.contains(['=', '\0']) {
                    self.report(
                        Problem::new(format!("`{}` cannot be a variable's name", name.value)).at(name.place.clone()),
                    );
                }
                environment.insert(name.value.clone(), self.with_secrets(value));
            }
        }
        Command {
            argv: words,
            environment,
            stdin: full.and_then(|full| full.stdin.as_ref()).map(|stdin| self.with_secrets(stdin)),
            status: full.map_or(0, |full| full.status),
            stdout: self.text_check(full.and_then(|full| full.stdout.as_ref())),
            stderr: self.text_check(full.and_then(|full| full.stderr.as_ref())),
        }
    }

    fn text_check(&mut self, check: Option<&Spanned<TextCheck>>) -> TextCheck {
        let Some(check) = check else { return TextCheck::default() };
        if let Some(pattern) = &check.matches {
            self.regular_expression(pattern, &check.place);
        }
        check.value.clone()
    }

    pub(super) fn http(&mut self, form: &Spanned<Terse<String, HttpDocument>>, targets: &Targets<'_>) -> Action {
        let short;
        let (url, full) = match &form.value {
            Terse::Short(url) => {
                short = Spanned { value: url.clone(), place: form.place.clone() };
                (&short, None)
            }
            Terse::Full(full) => (&full.url, Some(full)),
        };
        let authority = url.strip_prefix("http://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let valid = authority.is_some_and(|authority| is_address(authority) || is_address(&format!("{authority}:80")))
            && url.bytes().all(|byte| byte.is_ascii_graphic());
        if !valid {
            let problem =
                Problem::new(format!("`{}` is not a URL that a guest answers", url.value)).at(url.place.clone());
            self.report(if url.starts_with("https://") {
                problem.hint("TLS is not spoken here; ask with `exec = [\"curl\", ...]` inside the guest")
            } else {
                problem.hint("write it like `http://127.0.0.1:8080/health`; the address is the guest's")
            });
        }
        let method = full.and_then(|full| full.method.as_ref());
        if let Some(method) = method
            && (method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()))
        {
            self.report(
                Problem::new(format!("`{}` is not an HTTP method", method.value))
                    .at(method.place.clone())
                    .hint("write it like `GET` or `POST`"),
            );
        }
        let status = full.and_then(|full| full.status.as_ref());
        if let Some(status) = status
            && !(100..600).contains(&status.value)
        {
            self.report(Problem::new("an HTTP status is from 100 to 599").at(status.place.clone()));
        }
        let mut headers = BTreeMap::new();
        for (name, value) in full.iter().flat_map(|full| &full.headers) {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
                self.report(Problem::new(format!("`{}` cannot be an HTTP header", name.value)).at(name.place.clone()));
            }
            headers.insert(name.value.clone(), self.with_secrets(value));
        }
        Action::Http {
            url: self.without_secrets(url, "a URL"),
            method: method.map_or("GET".into(), |method| method.value.clone()),
            headers,
            body: full.and_then(|full| full.body.as_ref()).map(|body| self.with_secrets(body)),
            status: status.map_or(200, |status| status.value),
            response: self.text_check(full.and_then(|full| full.response.as_ref())),
            network: self.through(full.and_then(|full| full.network.as_ref()), targets),
        }
    }

    /// The network from whose host's place something is asked.
    fn through(&mut self, network: Option<&Spanned<String>>, targets: &Targets<'_>) -> Option<String> {
        let network = network?;
        if !targets.networks.contains_key(&network.value) {
            self.report(
                Problem::new(format!("the lane has no network `{}`", network.value))
                    .at(network.place.clone())
                    .nearest(network, targets.networks.keys().map(String::as_str)),
            );
        }
        Some(network.value.clone())
    }

    pub(super) fn tcp(&mut self, form: &Spanned<Terse<String, TcpDocument>>, targets: &Targets<'_>) -> Action {
        let short;
        let (address, full) = match &form.value {
            Terse::Short(address) => {
                short = Spanned { value: address.clone(), place: form.place.clone() };
                (&short, None)
            }
            Terse::Full(full) => (&full.address, Some(full)),
        };
        if !is_address(address) {
            self.report(
                Problem::new(format!("`{}` is not an address with a port", address.value))
                    .at(address.place.clone())
                    .hint("write it like `127.0.0.1:6379`; the address is the guest's"),
            );
        }
        Action::Tcp {
            address: address.value.clone(),
            send: full.and_then(|full| full.send.as_ref()).map(|send| self.with_secrets(send)),
            response: self.text_check(full.and_then(|full| full.response.as_ref())),
            network: self.through(full.and_then(|full| full.network.as_ref()), targets),
        }
    }

    pub(super) fn copy(&mut self, copy: &Spanned<CopyDocument>) -> (Action, String) {
        let name = |path: &str| slug(path.rsplit('/').next().unwrap_or_default(), true);
        match (copy.from.strip_prefix(GUEST), copy.to.strip_prefix(GUEST)) {
            (None, Some(to)) if copy.from.as_str() == PROGRAM => {
                self.guest_path(to, &copy.to.place);
                (Action::CopyProgram { to: to.to_owned() }, "copy-in-program".into())
            }
            (None, Some(to)) => {
                self.guest_path(to, &copy.to.place);
                (
                    Action::CopyIn { from: self.host_path(&copy.from), to: to.to_owned() },
                    format!("copy-in-{}", name(to)),
                )
            }
            (Some(from), None) => {
                self.guest_path(from, &copy.from.place);
                let to = super::join("".as_ref(), copy.to.as_str().as_ref());
                if to.is_absolute() || to.starts_with("..") || to.as_os_str() == "." || copy.to.ends_with('/') {
                    self.report(
                        Problem::new(format!("`{}` is not a file below the proof's artifacts", copy.to.value))
                            .at(copy.to.place.clone())
                            .label("it is put into `artifacts/<machine>/`")
                            .hint("write a relative path: `report.json`"),
                    );
                }
                (Action::CopyOut { from: from.to_owned(), to }, format!("copy-out-{}", name(from)))
            }
            (from, _) => {
                let said = if from.is_some() { "both sides are the guest's" } else { "neither side is the guest's" };
                self.report(
                    Problem::new("a copy goes into or out of the guest").at(copy.place.clone()).label(said).hint(
                        "write `{ from = \"guest:/run/report.json\", to = \"report.json\" }`, or the other way round",
                    ),
                );
                (Action::Reboot {}, String::new())
            }
        }
    }

    fn guest_path(&mut self, path: &str, place: &Place) {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            self.report(
                Problem::new("a path in the guest is a whole one, and a file's")
                    .at(place.clone())
                    .hint("write it like `guest:/run/report.json`"),
            );
        }
    }
}

/// A name for a command: its program, without the path.
pub(super) fn program(command: &Command) -> String {
    let program = command.argv.first().map_or("", String::as_str);
    slug(program.rsplit('/').next().unwrap_or_default(), true)
}
