//! What the program does: it follows from its process id, the name it was called with, and its arguments.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::marker::MarkerJournal;
use super::serve::{Agent, Children, Connection, serve};
use super::surface::{self, Manifest};
use super::{applets, converge, datagrams, disturb, init, installer, say};
use crate::channel::protocol::Role;

const USAGE: &str = "\
usage: bootproof-agent serve [--port DEVICE | --socket PATH] [MARKER OPTIONS]
       bootproof-agent marker NAME [KEY=VALUE...] [--node NODE] [MARKER OPTIONS]
       bootproof-agent surface check MANIFEST [--json]
       bootproof-agent surface show [--json]
       bootproof-agent disturb process NAME kill|terminate|stop|continue
       bootproof-agent disturb clock SHIFT-MS | clock-set UNIX-MS | memory BYTES | fill FOLDER
       bootproof-agent datagrams send HOST:PORT COUNT INTERVAL-MS | receive PORT DURATION-MS [WANTED]
       bootproof-agent install
       bootproof-agent converge
       bootproof-agent --version
marker options: --console PATH (default /dev/console), --run-directory PATH (default /run/bootproof)
";

/// Exit status for arguments that make no sense.
const MISUSED: u8 = 2;

/// The program. Called as `init` and being process 1 it is init; called by an applet's name it is that.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_owned();
    if std::process::id() == 1 && name == "init" {
        init::run(&arguments.collect::<Vec<_>>());
    }
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(status) = applets::run(&name, &arguments) {
        return ExitCode::from(status);
    }
    let words: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    let result = match &words {
        Ok(words) => dispatch(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        Err(word) => Err(Trouble::Misuse(format!("`{}` is not UTF-8", word.to_string_lossy()))),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(Trouble::Misuse(message)) => {
            say(&message);
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(MISUSED)
        }
        Err(Trouble::Failure(message)) => {
            say(&message);
            ExitCode::FAILURE
        }
    }
}

enum Trouble {
    Misuse(String),
    Failure(String),
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::Failure(format!("failed to {what}: {error}"))
}

fn dispatch(words: &[&str]) -> Result<u8, Trouble> {
    match words {
        ["serve", rest @ ..] => serve_command(rest),
        ["marker", rest @ ..] => marker_command(rest),
        ["surface", "check", rest @ ..] => surface_check(rest),
        ["surface", "show", rest @ ..] => surface_show(rest),
        ["disturb", rest @ ..] => print(&disturb::run(rest).map_err(Trouble::Failure)?),
        ["datagrams", rest @ ..] => print(&datagrams::run(rest).map_err(Trouble::Failure)?),
        ["converge"] => converge::run().map_err(Trouble::Failure),
        ["install"] => installer::run().map_err(Trouble::Failure),
        ["--version"] => print(concat!("bootproof-agent ", env!("CARGO_PKG_VERSION"), "\n")),
        ["--help"] => print(USAGE),
        [] => Err(Trouble::Misuse("no command was given".into())),
        [word, ..] => Err(Trouble::Misuse(format!("`{word}` is no command"))),
    }
}

fn print(text: &str) -> Result<u8, Trouble> {
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("print"))?;
    Ok(0)
}

/// Takes `--name VALUE` out of the words, for the names given; what is left has to be plain words.
fn options<'a>(words: &[&'a str], names: &[&str]) -> Result<(Vec<Option<&'a str>>, Vec<&'a str>), Trouble> {
    let mut values = vec![None; names.len()];
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(index) = names.iter().position(|name| name == word) {
            let value = words.next().ok_or_else(|| Trouble::Misuse(format!("`{word}` needs a value")))?;
            values[index] = Some(*value);
        } else if word.starts_with("--") {
            return Err(Trouble::Misuse(format!("`{word}` is no option of this command")));
        } else {
            plain.push(*word);
        }
    }
    Ok((values, plain))
}

fn journal(console: Option<&str>, run_directory: Option<&str>) -> MarkerJournal {
    let mut journal = MarkerJournal::of_this_boot();
    let absolute = |path: &str| std::path::absolute(path).unwrap_or_else(|_| path.into());
    if let Some(console) = console {
        journal = journal.to_console(absolute(console));
    }
    if let Some(directory) = run_directory {
        journal = journal.in_directory(absolute(directory));
    }
    journal
}

fn serve_command(words: &[&str]) -> Result<u8, Trouble> {
    let (values, plain) = options(words, &["--port", "--socket", "--console", "--run-directory"])?;
    let (port, socket) = (values[0].map(PathBuf::from), values[1]);
    if let Some(word) = plain.first() {
        return Err(Trouble::Misuse(format!("`serve` does not know what to do with `{word}`")));
    }
    let connection = match (port, socket) {
        (Some(_), Some(_)) => return Err(Trouble::Misuse("`--port` and `--socket` exclude each other".into())),
        (Some(port), None) => Connection::open_port(&port),
        (None, Some(socket)) => UnixStream::connect(socket).and_then(Connection::from_socket),
        (None, None) => Connection::find_port(),
    };
    let connection = connection.map_err(failed("open the channel"))?;
    // Where commands run, and nothing that could be unmounted is held.
    std::env::set_current_dir("/").map_err(failed("enter `/`"))?;
    let agent = Agent::new(Role::Service, journal(values[2], values[3]), Arc::new(Children::of_service()));
    serve(connection, Arc::new(agent)).map_err(failed("serve the channel"))?;
    Ok(0)
}

fn marker_command(words: &[&str]) -> Result<u8, Trouble> {
    let (values, plain) = options(words, &["--node", "--console", "--run-directory"])?;
    let Some((name, pairs)) = plain.split_first() else {
        return Err(Trouble::Misuse("`marker` needs a name".into()));
    };
    let arguments = pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.into(), value.into())),
            None => Err(Trouble::Misuse(format!("`{pair}` is not of the form `key=value`"))),
        })
        .collect::<Result<Vec<(String, String)>, _>>()?;
    journal(values[1], values[2]).emit(name, values[0], &arguments).map_err(failed("emit the marker"))?;
    Ok(0)
}

fn surface_check(words: &[&str]) -> Result<u8, Trouble> {
    let (json, paths): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| **word == "--json");
    let [path] = paths[..] else {
        return Err(Trouble::Misuse("`surface check` needs one manifest".into()));
    };
    let manifest = Manifest::read(Path::new(path)).map_err(Trouble::Failure)?;
    let report = surface::check(&manifest);
    print(&if json.is_empty() { report.to_text() } else { report.to_json() })?;
    Ok(u8::from(!report.passed))
}

fn surface_show(words: &[&str]) -> Result<u8, Trouble> {
    let json = match words {
        [] => false,
        ["--json"] => true,
        _ => return Err(Trouble::Misuse("`surface show` takes `--json` and nothing else".into())),
    };
    let observed = surface::show();
    print(&if json { observed.to_json() } else { observed.to_text() })
}
