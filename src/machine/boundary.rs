//! A console's byte source over a machine's whole life, and where the bytes of one epoch end.
//!
//! A reset is told by QEMU's monitor, console bytes come through another socket. QEMU has written everything that the old
//! epoch printed before it tells of the reset, so the epoch ends behind the bytes that wait in the socket at that
//! moment. The reader reports when it has passed that point: no byte is counted for the wrong epoch, and nobody sleeps
//! to be on the safe side.
//!
//! A machine whose power was cut and switched on again has a new QEMU, and so a new socket: the source goes on with that,
//! so that a console is one recording however often its machine was off.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;

use crate::console::Source;

type Callback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Progress {
    /// The socket that is being read, for asking how much waits in it; `None` between two.
    current: Option<UnixStream>,
    /// Bytes read so far, over all sockets.
    read: u64,
    /// Bytes were read that the reader's owner may not have dealt with yet.
    busy: bool,
    /// To be called once everything up to these offsets has been dealt with; ascending.
    pending: Vec<(u64, Callback)>,
}

/// The reader's end: one per console.
pub struct ConsoleSource {
    streams: Receiver<UnixStream>,
    current: Option<UnixStream>,
    progress: Arc<Mutex<Progress>>,
}

/// The other end: hands sockets over and sets boundaries. The source ends when this is dropped and the last socket is
/// at its end.
pub struct ConsoleLine {
    streams: Sender<UnixStream>,
    progress: Arc<Mutex<Progress>>,
}

/// Makes both ends.
pub fn console_line() -> (ConsoleLine, ConsoleSource) {
    let (sender, streams) = channel();
    let progress = Arc::new(Mutex::new(Progress::default()));
    (ConsoleLine { streams: sender, progress: progress.clone() }, ConsoleSource { streams, current: None, progress })
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().expect("nobody panics while counting bytes")
}

impl ConsoleLine {
    /// Goes on with a socket: that of a QEMU that was just started.
    pub fn attach(&self, stream: UnixStream) -> io::Result<()> {
        lock(&self.progress).current = Some(stream.try_clone()?);
        self.streams.send(stream).map_err(|_| io::Error::other("the console's reader is gone"))
    }

    /// Lets go of the present socket, so that somebody else may read what comes.
    pub fn detach(&self) {
        if let Some(stream) = &lock(&self.progress).current {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Calls back once everything that has been printed by now has been dealt with: at once, or from the reader. Gives
    /// how many bytes that is, over all sockets.
    pub fn after_what_is_printed(&self, callback: impl FnOnce() + Send + 'static) -> u64 {
        let mut progress = lock(&self.progress);
        let waiting = progress.current.as_ref().and_then(|stream| ioctl_fionread(stream).ok()).unwrap_or(0);
        let at = progress.read + waiting;
        if waiting == 0 && !progress.busy {
            drop(progress);
            callback();
        } else {
            progress.pending.push((at, Box::new(callback)));
        }
        at
    }
}

impl ConsoleSource {
    /// What was read before has been dealt with; `ended`: and nothing more will come of this socket.
    fn settle(&self, ended: bool) {
        let mut progress = lock(&self.progress);
        progress.busy = false;
        if ended {
            progress.current = None;
        }
        let read = if ended { u64::MAX } else { progress.read };
        let reached = progress.pending.iter().take_while(|(at, _)| *at <= read).count();
        let callbacks: Vec<Callback> = progress.pending.drain(..reached).map(|(_, callback)| callback).collect();
        drop(progress);
        for callback in callbacks {
            callback();
        }
    }

    /// Waits until the socket has something (its end counts), or the time is over.
    fn wait(stream: &UnixStream, time: Option<&Timespec>) -> io::Result<bool> {
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)], time) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for ConsoleSource {
    /// Being called again means: what was read before has been dealt with.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.settle(false);
        loop {
            if self.current.is_none() {
                match self.streams.recv() {
                    Ok(stream) => self.current = Some(stream),
                    Err(_) => return Ok(0),
                }
            }
            let stream = self.current.as_mut().expect("it was just set");
            Self::wait(stream, None)?;
            // Reading and counting are one step for whoever sets a boundary.
            let mut progress = lock(&self.progress);
            // Never past a boundary in one go: what lies behind it belongs to the next epoch.
            let limit = progress.pending.first().map_or(u64::MAX, |(at, _)| at - progress.read);
            let wanted = buffer.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
            match stream.read(&mut buffer[..wanted]) {
                Ok(count) if count > 0 => {
                    progress.read += count as u64;
                    progress.busy = true;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // QEMU is gone: with unread bytes of ours in its socket that is a reset, else an end.
                Ok(_) | Err(_) => {
                    drop(progress);
                    self.current = None;
                    self.settle(true);
                }
            }
        }
    }
}

impl Source for ConsoleSource {
    fn readable_within(&self, time: Duration) -> io::Result<bool> {
        let Some(stream) = &self.current else { return Ok(true) };
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        Self::wait(stream, Some(&time))
    }
}

impl Drop for ConsoleSource {
    fn drop(&mut self) {
        self.settle(true);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    fn attached() -> (UnixStream, ConsoleLine, ConsoleSource) {
        let (guest, host) = UnixStream::pair().unwrap();
        let (line, source) = console_line();
        line.attach(host).unwrap();
        (guest, line, source)
    }

    #[test]
    fn a_boundary_is_reached_only_when_what_was_printed_before_has_been_read_and_dealt_with() {
        let (mut guest, line, mut source) = attached();
        let (sender, reached) = mpsc::channel();
        guest.write_all(b"old epoch").unwrap();
        line.after_what_is_printed(move || sender.send(()).unwrap());
        guest.write_all(b"new epoch").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(source.read(&mut buffer).unwrap(), 4);
        assert!(reached.try_recv().is_err());
        assert_eq!(source.read(&mut buffer).unwrap(), 4);
        assert!(reached.try_recv().is_err());
        assert_eq!(source.read(&mut buffer).unwrap(), 1, "a read never crosses a boundary");
        assert!(reached.try_recv().is_err(), "the ninth byte was read, but not dealt with");
        assert_eq!(source.read(&mut buffer).unwrap(), 4);
        assert!(reached.try_recv().is_ok());
    }

    #[test]
    fn nothing_waiting_means_the_boundary_is_here() {
        let (_guest, line, _source) = attached();
        let (sender, reached) = mpsc::channel();
        line.after_what_is_printed(move || sender.send(()).unwrap());
        assert!(reached.try_recv().is_ok());
    }

    #[test]
    fn one_source_goes_through_all_sockets_and_ends_with_the_line() {
        let (mut guest, line, mut source) = attached();
        let (sender, reached) = mpsc::channel();
        guest.write_all(b"first ").unwrap();
        line.after_what_is_printed(move || sender.send(()).unwrap());
        drop(guest);
        let (mut guest, host) = UnixStream::pair().unwrap();
        line.attach(host).unwrap();
        guest.write_all(b"second").unwrap();
        drop((guest, line));
        let mut words = String::new();
        source.read_to_string(&mut words).unwrap();
        assert_eq!(words, "first second");
        assert!(reached.try_recv().is_ok());
    }
}
