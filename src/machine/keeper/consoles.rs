//! The consoles of a kept machine: recorded, and shared with whoever asks for one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};

use super::protocol::CONNECTED;

/// A console, its recording, and those who look on.
pub struct KeptConsole {
    /// The recording's name without the ending.
    pub name: String,
    stream: UnixStream,
    file: File,
    /// Bytes that may still be written.
    left: u64,
    callers: Vec<Caller>,
}

struct Caller {
    stream: UnixStream,
    /// Typed, and not yet taken by the machine.
    typed: Vec<u8>,
    gone: bool,
}

impl KeptConsole {
    pub fn open(socket: &Path, file: &Path, limit: u64) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = OpenOptions::new().create(true).append(true).open(file)?;
        Ok(Self { name, stream, file, left: limit, callers: Vec::new() })
    }

    /// Shares the console with somebody; one who cannot be told so is gone already.
    pub fn add(&mut self, mut stream: UnixStream) {
        let told = stream.set_nonblocking(true).and_then(|()| writeln!(stream, "{CONNECTED}"));
        if told.is_ok() {
            self.callers.push(Caller { stream, typed: Vec::new(), gone: false });
        }
    }

    /// What is waited for: the machine's word, callers', and room for what they typed.
    pub fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let has_input = self.callers.iter().any(|caller| !caller.typed.is_empty());
        polled.push(PollFd::new(&self.stream, if has_input { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }));
        // Who has typed more than the machine takes waits with the rest.
        let listening = self.callers.iter().filter(|caller| caller.typed.is_empty());
        polled.extend(listening.map(|caller| PollFd::new(&caller.stream, PollFlags::IN)));
    }

    /// Does what can be done now without waiting; false at the machine's end, or when the recording cannot be written.
    pub fn go_on(&mut self) -> bool {
        let goes_on = !matches!(self.record(), Recorded::Ended);
        for caller in &mut self.callers {
            caller.type_into(&self.stream);
        }
        self.callers.retain(|caller| !caller.gone);
        goes_on
    }

    /// The machine has ended: takes in what is still under way.
    pub fn finish(&mut self) {
        while let Recorded::Bytes = self.record() {}
    }

    fn record(&mut self) -> Recorded {
        let mut bytes = [0; 16 << 10];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Recorded::Ended,
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Recorded::Nothing,
                    _ => Recorded::Ended,
                };
            }
        };
        // Beyond the cap the console is still read, so that the guest does not stall on it.
        let wanted = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= wanted as u64;
        if self.file.write_all(&bytes[..wanted]).is_err() {
            return Recorded::Ended;
        }
        // One who does not read loses its place: the keeper waits for nobody.
        self.callers.retain_mut(|caller| matches!(caller.stream.write(&bytes[..count]), Ok(all) if all == count));
        Recorded::Bytes
    }
}

enum Recorded {
    Bytes,
    Nothing,
    Ended,
}

impl Caller {
    fn type_into(&mut self, mut console: &UnixStream) {
        if self.typed.is_empty() {
            let mut bytes = [0; 4 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.gone = true,
                Ok(count) => self.typed.extend_from_slice(&bytes[..count]),
                Err(error) => {
                    self.gone = !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                }
            }
        }
        // Else it is asked again when there is room; its end is told by its own stream.
        if let Ok(count) = console.write(&self.typed) {
            self.typed.drain(..count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn it_is_recorded_whoever_looks_on_and_who_does_not_read_loses_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let file = folder.path().join("kept").join("console.raw");
        let mut console = KeptConsole::open(&socket, &file, 1 << 20).unwrap();
        assert_eq!(console.name, "console");
        let (mut machine, _) = listener.accept().unwrap();
        let pair = || UnixStream::pair().unwrap();
        let ((mut one, ours), (lazy, theirs)) = (pair(), pair());
        console.add(ours);
        console.add(theirs);
        machine.write_all(b"login: ").unwrap();
        assert!(console.go_on());
        let mut seen = vec![0; 10 + 7];
        one.read_exact(&mut seen).unwrap();
        assert_eq!(seen, b"connected\nlogin: ");
        one.write_all(b"root\n").unwrap();
        assert!(console.go_on());
        let mut typed = [0; 5];
        machine.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
        let mut all = b"login: ".to_vec();
        while console.callers.len() > 1 {
            machine.write_all(&[b'x'; 4096]).unwrap();
            assert!(console.go_on());
            all.extend([b'x'; 4096]);
            let mut chunk = vec![0; 4096];
            one.read_exact(&mut chunk).unwrap();
        }
        drop((one, lazy));
        assert!(console.go_on());
        assert!(console.callers.is_empty(), "who goes away is forgotten");
        machine.write_all(&[b'y'; 40_000]).unwrap();
        all.extend([b'y'; 40_000]);
        drop(machine);
        console.finish();
        assert!(!console.go_on());
        assert_eq!(fs::read(&file).unwrap(), all);
    }
}
