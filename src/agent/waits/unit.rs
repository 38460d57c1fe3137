//! Units of systemd's, by its signals.
//!
//! Spoken with over systemd's own socket, where signals need no broker and are there from early on; over the system's bus
//! where that is not to be had. Everything is asked for and nothing waited for: answers and signals come in order, so what
//! came last is what holds.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::event::PollFlags;

use super::file::FileWatch;
use super::{Sight, Watch};
use crate::agent::bus::{Call, Connection, Kind, Message};
use crate::channel::protocol::{FileState, ToldBy};

const PRIVATE_SOCKET: &str = "/run/systemd/private";
const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";
/// There wherever systemd runs as init.
const BOOTED: &str = "/run/systemd/system";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const BUS: &str = "org.freedesktop.DBus";

/// Results of a start's job after which nothing goes on by itself.
const LOST_JOBS: [&str; 5] = ["assert", "dependency", "invalid", "timeout", "unsupported"];
/// Why the main process ended, as the kernel numbers it.
const ENDS: [(&str, &str); 3] = [("1", "exited with"), ("2", "was killed by signal"), ("3", "dumped core at signal")];

pub struct UnitWatch {
    name: String,
    wanted: String,
    link: Option<Link>,
    /// For systemd's socket to be there again: it is made anew when systemd executes itself anew.
    door: FileWatch,
    unit: Seen,
    signalled: bool,
}

/// What is known of the unit.
#[derive(Default)]
struct Seen {
    path: String,
    properties: BTreeMap<&'static str, String>,
    /// It has been in the wanted state, if only in passing.
    reached: bool,
    lost_job: Option<String>,
    invalid: Option<String>,
}

struct Link {
    connection: Connection,
    destination: Option<&'static str>,
    /// What was asked under which serial.
    asked: BTreeMap<u32, Question>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Loads the unit where it is not.
    Load,
    /// Only looks.
    Find,
    Property(&'static str),
    /// Whatever comes is good.
    Formality,
}

impl UnitWatch {
    pub fn new(name: &str, wanted: &str) -> io::Result<Self> {
        if !Path::new(BOOTED).is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "systemd does not run in this guest"));
        }
        let door = FileWatch::new(PRIVATE_SOCKET, &FileState::Present)?;
        let unit = Seen::default();
        Ok(Self { name: name.into(), wanted: wanted.into(), link: None, door, unit, signalled: false })
    }

    fn connect(&mut self) -> io::Result<()> {
        let (connection, destination) = match Connection::open(PRIVATE_SOCKET) {
            Ok(connection) => (connection, None),
            Err(error) => (Connection::open(BUS_SOCKET).map_err(|_| error)?, Some(SYSTEMD)),
        };
        let mut link = Link { connection, destination, asked: BTreeMap::new() };
        if destination.is_some() {
            let bus = |member, arguments| Call {
                destination: Some(BUS),
                path: "/org/freedesktop/DBus",
                interface: BUS,
                member,
                arguments,
            };
            link.ask(Question::Formality, bus("Hello", &[]))?;
            let all = format!("type='signal',sender='{SYSTEMD}'");
            link.ask(Question::Formality, bus("AddMatch", &[&all]))?;
        }
        link.ask(Question::Formality, manager(destination, "Subscribe", &[]))?;
        // Told from here on: what was before is answered now.
        link.ask(Question::Load, manager(destination, "LoadUnit", &[&self.name]))?;
        self.link = Some(link);
        Ok(())
    }

    /// Takes a message in; whether it says something of the unit.
    fn hear(&mut self, message: &Message) -> io::Result<bool> {
        let Some(link) = &mut self.link else { return Ok(false) };
        if let Some(question) = link.asked.remove(&message.reply_to)
            && message.reply_to > 0
        {
            return self.unit.answered(link, question, message, &self.name).map(|()| true);
        }
        let about_us = if message.interface == MANAGER {
            let mut body = message.body();
            match message.member.as_str() {
                "UnitNew" => {
                    body.string()?;
                    let ours = body.string()? == self.unit.path;
                    if ours {
                        link.ask(Question::Find, manager(link.destination, "GetUnit", &[&self.name]))?;
                    }
                    ours
                }
                "UnitRemoved" => {
                    body.string()?;
                    let ours = body.string()? == self.unit.path;
                    if ours {
                        self.unit.is_unloaded();
                    }
                    ours
                }
                "JobRemoved" => {
                    body.word()?;
                    body.string()?;
                    let (unit, result) = (body.string()?, body.string()?);
                    let ours = unit == self.name || Some(&unit) == self.unit.properties.get("Id");
                    if ours && LOST_JOBS.contains(&result.as_str()) {
                        self.unit.lost_job = Some(result);
                    }
                    ours
                }
                // Unit files may have come, and names may lead elsewhere now.
                "Reloading" if body.word()? == 0 => {
                    link.ask(Question::Load, manager(link.destination, "LoadUnit", &[&self.name]))?;
                    true
                }
                _ => false,
            }
        } else {
            let changed = message.is_signal(PROPERTIES, "PropertiesChanged") && message.path == self.unit.path;
            changed && self.unit.changed(link, message, &self.wanted, &self.name)?
        };
        self.signalled |= about_us;
        Ok(about_us)
    }

    fn sight(&self) -> Sight {
        let shown = self.unit.shown(&self.name);
        let active = self.unit.property("ActiveState");
        if self.unit.reached || is_state(active, &self.wanted) {
            return Sight::Holds(shown);
        }
        // Answers are under way that may say why.
        if self.link.as_ref().is_some_and(|link| !link.asked.is_empty()) || active.is_empty() {
            return Sight::NotYet(if active.is_empty() { "systemd has not answered yet".into() } else { shown });
        }
        if active == "failed" {
            return Sight::Impossible(shown);
        }
        match &self.unit.lost_job {
            Some(result) if self.wanted == "active" => {
                Sight::Impossible(format!("{shown}, and its start ended with `{result}`"))
            }
            _ => Sight::NotYet(shown),
        }
    }
}

impl Watch for UnitWatch {
    fn look(&mut self) -> io::Result<Sight> {
        if let Some(reason) = self.unit.invalid.take() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        if self.link.is_none() {
            // First told, then tried.
            self.door.look()?;
            if let Err(error) = self.connect() {
                return Ok(Sight::NotYet(format!("systemd cannot be asked: {error}")));
            }
        }
        Ok(self.sight())
    }

    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match &self.link {
            Some(link) => vec![link.connection.descriptor()],
            None => self.door.descriptors(),
        }
    }

    fn take(&mut self) -> io::Result<bool> {
        let Some(link) = &mut self.link else { return self.door.take() };
        let heard = link.connection.receive().and_then(|messages| {
            let mut worth = false;
            for message in &messages {
                worth |= self.hear(message)?;
            }
            Ok(worth)
        });
        if heard.is_err() {
            // systemd executes itself anew, or is going down: it is asked again when its socket is there again.
            self.link = None;
            self.unit = Seen { reached: self.unit.reached, ..Seen::default() };
        }
        Ok(heard.unwrap_or(true))
    }

    fn told_by(&self) -> ToldBy {
        if self.signalled { ToldBy::Systemd } else { ToldBy::FirstLook }
    }
}

impl Seen {
    fn answered(&mut self, link: &mut Link, question: Question, message: &Message, name: &str) -> io::Result<()> {
        if message.kind == Kind::Error {
            match question {
                Question::Load => {
                    let said = message.body().string().unwrap_or_default();
                    self.invalid = Some(if said.is_empty() { message.error.clone() } else { said });
                }
                Question::Find => self.is_unloaded(),
                // Kinds of units differ in what they have.
                Question::Property(property) => _ = self.properties.insert(property, String::new()),
                Question::Formality => {}
            }
            return Ok(());
        }
        match question {
            Question::Load | Question::Find => {
                self.path = message.body().string()?;
                for property in ["Id", "LoadState", "SubState", "ActiveState"] {
                    self.ask_for(link, UNIT, property)?;
                }
            }
            Question::Property(property) => {
                let value = message.body().variant()?;
                let failed = property == "ActiveState" && value == "failed";
                self.properties.insert(property, value);
                if failed {
                    self.ask_why(link, name)?;
                }
            }
            Question::Formality => {}
        }
        Ok(())
    }

    fn changed(&mut self, link: &mut Link, message: &Message, wanted: &str, name: &str) -> io::Result<bool> {
        let mut body = message.body();
        if body.string()? != UNIT {
            return Ok(false);
        }
        for (property, value) in body.dictionary()? {
            match property.as_str() {
                "ActiveState" => {
                    self.reached |= is_state(&value, wanted);
                    if value == "failed" {
                        self.ask_why(link, name)?;
                    }
                    self.properties.insert("ActiveState", value);
                }
                "SubState" => _ = self.properties.insert("SubState", value),
                _ => {}
            }
        }
        Ok(true)
    }

    fn ask_for(&self, link: &mut Link, interface: &'static str, property: &'static str) -> io::Result<()> {
        let arguments = &[interface, property][..];
        let (destination, path) = (link.destination, &self.path);
        let call = Call { destination, path, interface: PROPERTIES, member: "Get", arguments };
        link.ask(Question::Property(property), call)
    }

    /// Asks why it failed.
    fn ask_why(&self, link: &mut Link, name: &str) -> io::Result<()> {
        let interface = match name.rsplit_once('.').map_or("", |(_, suffix)| suffix) {
            "service" => SERVICE,
            "mount" => "org.freedesktop.systemd1.Mount",
            "socket" => "org.freedesktop.systemd1.Socket",
            "swap" => "org.freedesktop.systemd1.Swap",
            "timer" => "org.freedesktop.systemd1.Timer",
            "path" => "org.freedesktop.systemd1.Path",
            "scope" => "org.freedesktop.systemd1.Scope",
            _ => return Ok(()),
        };
        self.ask_for(link, interface, "Result")?;
        if interface == SERVICE {
            self.ask_for(link, interface, "ExecMainCode")?;
            self.ask_for(link, interface, "ExecMainStatus")?;
        }
        Ok(())
    }

    fn is_unloaded(&mut self) {
        self.properties.insert("ActiveState", "inactive".into());
        self.properties.insert("SubState", "dead".into());
    }

    fn property(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }

    /// `ssh.service is failed (failed): exit-code, its main process exited with 3`.
    fn shown(&self, name: &str) -> String {
        let (active, sub, load) = (self.property("ActiveState"), self.property("SubState"), self.property("LoadState"));
        let mut shown = format!("`{name}` is {active} ({sub})");
        if !load.is_empty() && load != "loaded" {
            shown.push_str(&format!(", as a unit file it is {load}"));
        }
        if active == "failed" {
            let result = self.property("Result");
            if !result.is_empty() {
                shown.push_str(&format!(": {result}"));
            }
            let end = ENDS.iter().find(|(code, _)| *code == self.property("ExecMainCode"));
            if let Some((_, end)) = end {
                shown.push_str(&format!(", its main process {end} {}", self.property("ExecMainStatus")));
            }
        }
        shown
    }
}

impl Link {
    fn ask(&mut self, question: Question, call: Call<'_>) -> io::Result<()> {
        let serial = self.connection.call(call)?;
        self.asked.insert(serial, question);
        Ok(())
    }
}

fn manager<'a>(destination: Option<&'a str>, member: &'a str, arguments: &'a [&'a str]) -> Call<'a> {
    Call { destination, path: SYSTEMD_PATH, interface: MANAGER, member, arguments }
}

fn is_state(active: &str, wanted: &str) -> bool {
    // A service that reads its configuration anew goes on serving.
    active == wanted || wanted == "active" && matches!(active, "reloading" | "refreshing")
}
