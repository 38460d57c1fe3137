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
use rustix::net::{SendFlags, send};
use tokio::sync::mpsc;

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
    /// Those who look on.
    taps: Vec<mpsc::Sender<Vec<u8>>>,
}

/// Reads that may wait for somebody who looks on.
const TAP_QUEUE: usize = 256;

/// Looks on at a console while it is recorded, and types into it. Ends when the machine goes off.
pub struct ConsoleTap {
    output: mpsc::Receiver<Vec<u8>>,
    progress: Arc<Mutex<Progress>>,
}

/// The typing part.
pub struct ConsoleInput(Arc<Mutex<Progress>>);

impl ConsoleTap {
    /// What came next; `None` once the machine is off, or when this was not asked for too long.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.output.recv().await
    }

    pub fn input(&self) -> ConsoleInput {
        ConsoleInput(self.progress.clone())
    }
}

impl ConsoleInput {
    /// Types; waits while the guest does not take it.
    pub async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        let off = || io::Error::from(io::ErrorKind::NotConnected);
        let stream = lock(&self.0).current.as_ref().ok_or_else(off)?.try_clone()?;
        let stream = Arc::new(stream);
        while !bytes.is_empty() {
            // The description is shared with the reader, so it must go on blocking: only these calls do not.
            match send(&*stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Rare: a guest that reads nothing. Its end wakes this, too.
                    let full = stream.clone();
                    let room = move || poll(&mut [PollFd::new(&*full, PollFlags::OUT)], None);
                    let _ = tokio::task::spawn_blocking(room).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
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

    /// Looks on from now; `None` while the machine is off.
    pub fn tap(&self) -> Option<ConsoleTap> {
        let mut progress = lock(&self.progress);
        progress.current.as_ref()?;
        let (sender, output) = mpsc::channel(TAP_QUEUE);
        progress.taps.push(sender);
        Some(ConsoleTap { output, progress: self.progress.clone() })
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
            progress.taps.clear();
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
                    // Who does not keep up loses its place; the recording is for whoever wants all of it.
                    progress.taps.retain(|tap| tap.try_send(buffer[..count].to_vec()).is_ok());
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
    use std::sync::mpsc as blocking;

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
        let (sender, reached) = blocking::channel();
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
        let (sender, reached) = blocking::channel();
        line.after_what_is_printed(move || sender.send(()).unwrap());
        assert!(reached.try_recv().is_ok());
    }

    #[tokio::test]
    async fn who_looks_on_sees_the_same_bytes_and_types_back_until_the_machine_is_off() {
        let (mut guest, line, mut source) = attached();
        let mut tap = line.tap().unwrap();
        let slow = line.tap().unwrap();
        guest.write_all(b"login: ").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(source.read(&mut buffer).unwrap(), 7);
        assert_eq!(tap.next().await.unwrap(), b"login: ");
        tap.input().send(b"root\n").await.unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
        for _ in 0..2 * TAP_QUEUE {
            guest.write_all(b"x").unwrap();
            assert_eq!(source.read(&mut buffer).unwrap(), 1, "nobody who looks on holds up the reader");
            assert_eq!(tap.next().await.unwrap(), b"x");
        }
        drop((guest, slow));
        line.detach();
        drop(line);
        assert_eq!(source.read(&mut buffer).unwrap(), 0);
        assert!(tap.next().await.is_none(), "it is off");
        assert!(tap.input().send(b"x").await.is_err());
    }

    #[test]
    fn one_source_goes_through_all_sockets_and_ends_with_the_line() {
        let (mut guest, line, mut source) = attached();
        let (sender, reached) = blocking::channel();
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
