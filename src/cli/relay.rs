//! `bootproof relay ADDRESS`: carries one connection of a guest to a service that its lane declares on the host.
//! Started by QEMU's user network, once for each connection; not for people.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

use crate::error::{Context as _, Result};

#[derive(clap::Args)]
pub struct Arguments {
    address: String,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let address = arguments.address;
    let stream = TcpStream::connect(&address).infrastructure(|| format!("failed to connect to `{address}`"))?;
    let mut to_service = stream.try_clone().infrastructure(|| "failed to share the connection".into())?;
    std::thread::spawn(move || {
        let _ = carry(&mut io::stdin().lock(), &mut to_service);
        let _ = to_service.shutdown(Shutdown::Write);
    });
    let _ = carry(&mut &stream, &mut io::stdout().lock());
    Ok(ExitCode::SUCCESS)
}

/// As `io::copy`, but whatever has come goes on at once.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = [0; 16 << 10];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count])?;
        to.flush()?;
    }
}
