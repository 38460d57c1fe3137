//! The commands of [`super::APPLETS`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

/// Runs the applet of that name; the answer is its exit status, or `None` when there is no such applet.
pub fn run(name: &OsStr, arguments: &[OsString]) -> Option<u8> {
    let result = match name.to_str()? {
        "true" => Ok(0),
        "false" => Ok(1),
        "hold" => hold(),
        "poweroff" => power_off(),
        "echo" => echo(arguments),
        "cat" => cat(arguments),
        "uname" => uname(arguments),
        _ => return None,
    };
    Some(result.unwrap_or_else(|error| complain(name, &error.to_string())))
}

fn complain(name: &OsStr, message: &str) -> u8 {
    // Standard error may be gone as well; the exit status says enough then.
    let _ = writeln!(io::stderr(), "{}: {message}", name.to_string_lossy());
    1
}

fn hold() -> io::Result<u8> {
    loop {
        // No descriptors and no time: only a signal ends it.
        match rustix::event::poll(&mut [], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn power_off() -> io::Result<u8> {
    // As process 1 (`rdinit=/bin/poweroff`) it is the shortest life that a machine can have.
    rustix::fs::sync();
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    Ok(0)
}

fn echo(arguments: &[OsString]) -> io::Result<u8> {
    let (words, newline) = match arguments.split_first() {
        Some((first, rest)) if first == "-n" => (rest, false),
        _ => (arguments, true),
    };
    let mut line = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' ');
    if newline {
        line.push(b'\n');
    }
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()?;
    Ok(0)
}

fn cat(arguments: &[OsString]) -> io::Result<u8> {
    let mut status = 0;
    if arguments.is_empty() {
        copy(io::stdin().lock())?;
    }
    for path in arguments {
        let result = if path == "-" { copy(io::stdin().lock()) } else { File::open(path).and_then(copy) };
        if let Err(error) = result {
            status = complain(OsStr::new("cat"), &format!("{}: {error}", path.to_string_lossy()));
        }
    }
    Ok(status)
}

fn copy(mut input: impl Read) -> io::Result<()> {
    // Not through the line-buffered standard output.
    let mut output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    let mut chunk = vec![0; 64 << 10];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => output.write_all(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn uname(arguments: &[OsString]) -> io::Result<u8> {
    let system = rustix::system::uname();
    let fields = [
        ('s', system.sysname()),
        ('n', system.nodename()),
        ('r', system.release()),
        ('v', system.version()),
        ('m', system.machine()),
    ];
    let mut wanted = String::new();
    for argument in arguments {
        match argument.to_str().and_then(|text| text.strip_prefix('-')) {
            Some("a") => wanted.extend(fields.iter().map(|(letter, _)| letter)),
            Some(letters) if !letters.is_empty() && letters.chars().all(|letter| "snrvm".contains(letter)) => {
                wanted.push_str(letters)
            }
            _ => {
                let argument = argument.to_string_lossy();
                return Ok(complain(OsStr::new("uname"), &format!("`{argument}` is none of -s -n -r -v -m -a")));
            }
        }
    }
    if wanted.is_empty() {
        wanted.push('s');
    }
    let words: Vec<&[u8]> =
        fields.iter().filter(|(letter, _)| wanted.contains(*letter)).map(|(_, text)| text.to_bytes()).collect();
    let mut line = words.join(&b' ');
    line.push(b'\n');
    io::stdout().lock().write_all(&line)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_but_the_endless_one_is_an_applet() {
        for name in crate::agent::APPLETS {
            if !["hold", "cat", "poweroff"].contains(name) {
                assert!(run(OsStr::new(name), &[]).is_some(), "{name}");
            }
        }
        assert_eq!(run(OsStr::new("sh"), &[]), None);
        assert_eq!(run(OsStr::new("true"), &[]), Some(0));
        assert_eq!(run(OsStr::new("false"), &[]), Some(1));
        assert_eq!(run(OsStr::new("cat"), &["/no/such/file".into()]), Some(1));
        assert_eq!(run(OsStr::new("uname"), &["-q".into()]), Some(1));
    }
}
