//! A terminal for a command: both ends of a pseudo-terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};

use crate::channel::protocol::TerminalSize;

pub struct Terminal {
    ours: OwnedFd,
    /// The command's end, until it has it.
    peer: Option<OwnedFd>,
}

impl Terminal {
    pub fn open(size: TerminalSize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        // By descriptor: `/dev/pts` may be another one's, or not be mounted where we look.
        let peer = ioctl_tiocgptpeer(&ours, flags)?;
        let terminal = Self { ours, peer: Some(peer) };
        terminal.resize(size)?;
        Ok(terminal)
    }

    /// The command becomes the leader of a session of its own, whose terminal this is.
    pub fn give_to(&self, command: &mut Command) -> io::Result<()> {
        let peer = || -> io::Result<Stdio> {
            let peer = self.peer.as_ref().ok_or_else(|| io::Error::other("the terminal was given away"))?;
            Ok(peer.try_clone()?.into())
        };
        command.stdin(peer()?).stdout(peer()?).stderr(peer()?);
        // SAFETY: between fork and exec only async-signal-safe system calls happen: setsid and ioctl. Descriptor 0 is
        // the terminal by then, and nothing closes it.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(BorrowedFd::borrow_raw(0))?;
                Ok(())
            });
        }
        Ok(())
    }

    pub fn without_peer(self) -> Self {
        Self { peer: None, ..self }
    }

    /// Our end once more.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.ours.try_clone()
    }

    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.ours, size)?)
    }

    /// No more will be typed: what Ctrl-D says, where the command leaves it its meaning.
    pub fn end_input(&self, input: impl AsFd) {
        let code = tcgetattr(&self.ours).map_or(4, |attributes| attributes.special_codes[SpecialCodeIndex::VEOF]);
        let _ = rustix::io::write(input, &[code]);
    }
}
