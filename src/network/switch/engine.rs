//! The switch's thread: everything that happens on a network happens here, one thing after the other.
//!
//! The sockets are waited for with `poll`: there are few, and which of them matter changes from round to round (a
//! machine that has too much waiting elsewhere is not read). Measured against the same switch on edge-triggered `epoll`
//! it is no slower, and against tasks of tokio's its round trips are shorter by a tenth and more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::outbox::Outbox;
use super::port::{Connection, Port};
use super::statistics::PortStatistics;
use super::{Disconnection, Report, SwitchReport};
use crate::network::capture::{Direction, Recorder};
use crate::network::fabric::{Fabric, Leaving, Route};
use crate::network::fault::Nanoseconds;
use crate::network::frame::{HEADER, Item, LONGEST, item_at};
use crate::network::held::HeldFrame;
use crate::network::queue::OutputQueue;

/// Bytes that one read takes at most.
const READ: usize = 256 << 10;

/// Something to do on the switch's thread.
pub type Command = Box<dyn FnOnce(&mut Engine) + Send>;

/// What a descriptor that is waited for is about.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Wake,
    Listener(usize),
    Connection(usize),
}

pub struct Engine {
    pub fabric: Fabric,
    pub recorder: Option<Recorder>,
    pub running: bool,
    start: Instant,
    ports: Vec<Port>,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    report: Report,
    buffer: Box<[u8]>,
    outbox: Outbox,
    /// Reused in every round.
    ready: Vec<(Waited, PollFlags)>,
}

impl Engine {
    pub fn new(
        fabric: Fabric,
        start: Instant,
        wake: Arc<OwnedFd>,
        commands: Receiver<Command>,
        report: Report,
    ) -> Self {
        Self {
            fabric,
            recorder: None,
            running: true,
            start,
            ports: Vec::new(),
            wake,
            commands,
            report,
            buffer: vec![0; HEADER + LONGEST + READ].into(),
            outbox: Outbox::default(),
            ready: Vec::new(),
        }
    }

    /// Runs until it is told to end.
    pub fn run(mut self) {
        if let Err(errno) = self.turn() {
            (self.report)(SwitchReport::Failed { detail: format!("failed to watch the network's sockets: {errno}") });
        }
    }

    fn turn(&mut self) -> Result<(), Errno> {
        while self.running {
            self.wait()?;
            let now = self.now();
            if let Some(recorder) = &mut self.recorder {
                recorder.set_time(now);
            }
            let ready = std::mem::take(&mut self.ready);
            // What makes room and what was due comes before what is new.
            for (waited, flags) in &ready {
                match waited {
                    Waited::Wake => self.obey(),
                    Waited::Listener(port) => self.accept(*port),
                    Waited::Connection(port) if flags.contains(PollFlags::OUT) => self.write_waiting(*port, now),
                    Waited::Connection(_) => {}
                }
            }
            self.release_due(now);
            for (waited, flags) in &ready {
                // A connection that has ended is read to its end whatever waits elsewhere.
                if let Waited::Connection(port) = waited
                    && flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                {
                    self.read(*port, now);
                }
            }
            self.ready = ready;
        }
        Ok(())
    }

    /// Waits until there is something to do, and notes what.
    fn wait(&mut self) -> Result<(), Errno> {
        let now = self.now();
        let recording = self.recorder.as_ref().is_some_and(|recorder| recorder.has_waiting());
        self.hand_over_recording(false);
        let mut until = self.fabric.next_release();
        let mut descriptors = Vec::with_capacity(1 + self.ports.len());
        let mut waited = Vec::with_capacity(1 + self.ports.len());
        descriptors.push(PollFd::new(&self.wake, PollFlags::IN));
        waited.push(Waited::Wake);
        for (number, port) in self.ports.iter().enumerate() {
            let Some(connection) = &port.connection else {
                // Who comes while another is there waits until that one is gone.
                if let Some((listener, _)) = &port.listener {
                    descriptors.push(PollFd::new(listener, PollFlags::IN));
                    waited.push(Waited::Listener(number));
                }
                continue;
            };
            let mut flags = PollFlags::empty();
            match self.held_up_until(number, now) {
                None => flags |= PollFlags::IN,
                Some(held) => until = Some(until.map_or(held, |until| until.min(held))),
            }
            if !connection.output.is_empty() {
                flags |= PollFlags::OUT;
            }
            if !flags.is_empty() {
                descriptors.push(PollFd::from_borrowed_fd(connection.socket.as_fd(), flags));
                waited.push(Waited::Connection(number));
            }
        }
        let after = match until {
            // With something to write to disk, only a look whether there is time for it.
            _ if recording => Some(0),
            until => until.map(|until| until.saturating_sub(now)),
        };
        let timeout = after
            .map(|after| Timespec { tv_sec: (after / 1_000_000_000) as i64, tv_nsec: (after % 1_000_000_000) as i64 });
        let count = match poll(&mut descriptors, timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno),
        };
        self.ready.clear();
        let flags = descriptors.iter().map(PollFd::revents);
        self.ready.extend(waited.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()));
        if count == 0 {
            self.hand_over_recording(true);
        }
        Ok(())
    }

    fn now(&self) -> Nanoseconds {
        self.start.elapsed().as_nanos() as Nanoseconds
    }

    /// Until when a machine is not to be read, because somebody has too much of it waiting.
    fn held_up_until(&self, port: usize, now: Nanoseconds) -> Option<Nanoseconds> {
        let connections = self.ports.iter().filter_map(|port| port.connection.as_ref());
        connections.filter_map(|connection| connection.holds_up(port, now)).max()
    }

    fn obey(&mut self) {
        let mut number = [0; 8];
        // Nothing there is as well.
        let _ = rustix::io::read(&self.wake, &mut number);
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
    }

    fn write_waiting(&mut self, port: usize, now: Nanoseconds) {
        if let Some(connection) = &mut self.ports[port].connection {
            let written = connection.write_waiting(now);
            self.settle_output(port, written);
        }
    }

    fn accept(&mut self, port: usize) {
        let Some((listener, _)) = &self.ports[port].listener else { return };
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = self.attach(port, stream) {
                    self.tell_failure(port, &error);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // It would be readable for ever.
                self.ports[port].listener = None;
                self.tell_failure(port, &error);
            }
        }
    }

    fn tell_failure(&self, port: usize, error: &io::Error) {
        let name = &self.fabric.names()[port];
        (self.report)(SwitchReport::Failed { detail: format!("failed to take the connection of `{name}`: {error}") });
    }

    /// Reads once what a machine has sent, and passes it on.
    fn read(&mut self, port: usize, now: Nanoseconds) {
        let Some(connection) = &mut self.ports[port].connection else { return };
        let kept = connection.partial.len();
        let received = recv(&connection.socket, &mut self.buffer[kept..kept + READ], RecvFlags::DONTWAIT);
        let count = match received {
            Ok((_, 0)) | Err(Errno::CONNRESET | Errno::PIPE) => return self.disconnect(port, Disconnection::Ended),
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(errno) => return self.disconnect(port, Disconnection::Failed(errno.to_string())),
        };
        self.buffer[..kept].copy_from_slice(&connection.partial);
        connection.partial.clear();
        let garbage = self.forward_all(port, kept + count, now);
        self.flush(now);
        if let Some(length) = garbage {
            self.disconnect(port, Disconnection::Garbage { length });
        }
    }

    /// Sorts the frames at the buffer's beginning into the outbox and keeps what is begun. Gives the length that is none,
    /// if there is one.
    fn forward_all(&mut self, from: usize, end: usize, now: Nanoseconds) -> Option<u32> {
        let (mut at, mut frames, mut short) = (0, 0, 0);
        let mut last: Option<([u8; 12], Route)> = None;
        let garbage = loop {
            match item_at(&self.buffer[..end], at) {
                Item::Frame(range) => {
                    let frame = &self.buffer[range.start + HEADER..range.end];
                    frames += 1;
                    at = range.end;
                    let addresses: [u8; 12] = frame[..12].try_into().expect("a frame has its addresses");
                    // Frames come in runs between the same two machines.
                    let route = match last {
                        Some((before, route)) if before == addresses => route,
                        _ => self.fabric.route(from, frame),
                    };
                    last = Some((addresses, route));
                    if let Some(recorder) = &mut self.recorder
                        && !recorder.record(from, Direction::Inbound, frame)
                    {
                        self.recorder = None;
                    }
                    match route {
                        Route::One(to) => self.cross(from, to, range, now),
                        Route::Flood => {
                            for to in (0..self.ports.len()).filter(|to| *to != from) {
                                if self.ports[to].connection.is_some() {
                                    self.cross(from, to, range.clone(), now);
                                }
                            }
                        }
                        Route::Home => self.ports[from].statistics.home += 1,
                    }
                }
                Item::TooShort(range) => {
                    short += 1;
                    at = range.end;
                }
                Item::Incomplete => break None,
                Item::Garbage { length } => break Some(length),
            }
        };
        let statistics = &mut self.ports[from].statistics;
        statistics.received_frames += frames;
        statistics.received_bytes += at as u64;
        statistics.too_short += short;
        if let Some(connection) = &mut self.ports[from].connection
            && garbage.is_none()
        {
            connection.partial.extend_from_slice(&self.buffer[at..end]);
        }
        garbage
    }

    #[inline]
    fn cross(&mut self, from: usize, to: usize, range: std::ops::Range<usize>, now: Nanoseconds) {
        if self.fabric.is_clear(from, to) {
            return self.outbox.push_range(to, from, &range);
        }
        let Self { fabric, outbox, buffer, .. } = self;
        fabric.cross(from, to, &buffer[range.clone()], now, |leaving| match leaving {
            Leaving::AsItCame => outbox.push_range(to, from, &range),
            Leaving::Changed(framed) => outbox.push_owned(to, from, framed),
        });
    }

    /// Lets go of the frames whose time has come.
    pub fn release_due(&mut self, now: Nanoseconds) {
        while let Some(HeldFrame { from, to, framed, .. }) = self.fabric.release_due(now) {
            self.outbox.push_owned(to, from, framed);
        }
        self.flush(now);
    }

    /// Lets go of frames that a healed fault held.
    pub fn release(&mut self, frames: Vec<HeldFrame>) {
        for HeldFrame { from, to, framed, .. } in frames {
            self.outbox.push_owned(to, from, framed);
        }
        self.flush(self.now());
    }

    /// Hands the outbox over to the ports.
    fn flush(&mut self, now: Nanoseconds) {
        while let Some((to, entries)) = self.outbox.take_next() {
            if self.recorder.is_some() && self.ports[to].connection.is_some() {
                for entry in &entries {
                    for frame in entry.frames(&self.buffer) {
                        if let Some(recorder) = &mut self.recorder
                            && !recorder.record(to, Direction::Outbound, frame)
                        {
                            self.recorder = None;
                        }
                    }
                }
            }
            let delivered = self.ports[to].deliver(&entries, &self.buffer, now);
            self.outbox.reuse(to, entries);
            self.settle_output(to, delivered);
        }
    }

    /// Looks after a connection that something was written to.
    fn settle_output(&mut self, port: usize, written: Result<(), Errno>) {
        match written {
            Ok(()) => {}
            // Reading comes to the same end, behind what the machine has still sent.
            Err(Errno::PIPE | Errno::CONNRESET) => {
                if let Some(connection) = &mut self.ports[port].connection {
                    connection.output = OutputQueue::default();
                }
            }
            Err(errno) => self.disconnect(port, Disconnection::Failed(errno.to_string())),
        }
    }

    fn disconnect(&mut self, port: usize, why: Disconnection) {
        let Some(connection) = self.ports[port].connection.take() else { return };
        drop(connection);
        self.ports[port].statistics.connected = false;
        self.fabric.forget_port(port);
        (self.report)(SwitchReport::PortDown { port: self.fabric.names()[port].clone(), why });
    }

    fn hand_over_recording(&mut self, idle: bool) {
        if let Some(recorder) = &mut self.recorder
            && !recorder.hand_over(idle)
        {
            self.recorder = None;
        }
    }

    /// The number of the port, which is new if need be.
    pub fn port(&mut self, name: &str) -> usize {
        if let Some(port) = self.fabric.names().iter().position(|other| other == name) {
            return port;
        }
        self.outbox.add_port();
        let statistics = PortStatistics { name: name.into(), ..PortStatistics::default() };
        self.ports.push(Port { listener: None, connection: None, statistics });
        if let Some(recorder) = &mut self.recorder {
            recorder.add_interface(name);
        }
        self.fabric.add_port(name)
    }

    /// Takes connections to the listener as the port's machine, one after the other.
    pub fn listen(&mut self, port: usize, listener: UnixListener, path: PathBuf) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.ports[port].listener = Some((listener, path));
        Ok(())
    }

    /// Takes a connected socket as the port's machine, in place of the one that is there.
    pub fn attach(&mut self, port: usize, stream: UnixStream) -> io::Result<()> {
        self.disconnect(port, Disconnection::Replaced);
        stream.set_nonblocking(true)?;
        let entry = &mut self.ports[port];
        entry.connection = Some(Connection::new(stream.into()));
        entry.statistics.connected = true;
        entry.statistics.connections += 1;
        (self.report)(SwitchReport::PortUp { port: self.fabric.names()[port].clone() });
        Ok(())
    }

    pub fn statistics(&self) -> Vec<PortStatistics> {
        self.ports.iter().map(|port| port.statistics.clone()).collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (_, path) in self.ports.iter().filter_map(|port| port.listener.as_ref()) {
            // Gone with its folder already, perhaps.
            let _ = std::fs::remove_file(path);
        }
    }
}
