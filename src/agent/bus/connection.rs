//! A connection: to systemd itself, or to the system's bus.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use super::message::{Call, Message};

/// A line of the greeting is never longer.
const MAX_LINE: usize = 4096;

pub struct Connection {
    socket: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    greeted: bool,
    serial: u32,
}

impl Connection {
    pub fn open(socket: &str) -> io::Result<Self> {
        let socket = UnixStream::connect(socket)?;
        socket.set_nonblocking(true)?;
        // Nobody has to be asked anything before the answer to this is known: it all goes at once.
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        let greeting = format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n");
        let mut connection =
            Self { socket, received: Vec::new(), to_send: greeting.into_bytes(), greeted: false, serial: 0 };
        connection.flush()?;
        Ok(connection)
    }

    /// Sends a call; its answer names the serial.
    pub fn call(&mut self, call: Call<'_>) -> io::Result<u32> {
        self.serial += 1;
        let encoded = call.encode(self.serial);
        self.to_send.extend_from_slice(&encoded);
        self.flush()?;
        Ok(self.serial)
    }

    pub fn descriptor(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, !self.to_send.is_empty());
        (self.socket.as_fd(), flags)
    }

    /// Everything that has come. Never waits.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the other side has gone.
    pub fn receive(&mut self) -> io::Result<Vec<Message>> {
        self.flush()?;
        let mut chunk = [0; 16 << 10];
        let mut messages = Vec::new();
        loop {
            match self.socket.read(&mut chunk) {
                // What came before the end is told first.
                Ok(0) if messages.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(messages),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if !self.greeted && !self.read_greeting()? {
                continue;
            }
            let mut used = 0;
            while let Some((message, length)) = Message::decode(&self.received[used..])? {
                used += length;
                messages.push(message);
            }
            self.received.drain(..used);
        }
    }

    /// Whether the line that lets us in has come.
    fn read_greeting(&mut self) -> io::Result<bool> {
        let Some(end) = self.received.windows(2).position(|bytes| bytes == b"\r\n") else {
            if self.received.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(false);
        };
        if !self.received.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "D-Bus does not let the agent in"));
        }
        self.received.drain(..end + 2);
        self.greeted = true;
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            match self.socket.write(&self.to_send) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => _ = self.to_send.drain(..count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
