//! Addresses for the machine's cards: from the kernel's command line (init has given them), else by DHCP on every card.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode};

use super::machine;

/// The DHCP client's script writes a line here for each card that has got an address.
const NEWS: &str = "/run/bootproof/addresses";
const SCRIPT: &str = "/usr/lib/bootproof/dhcp-event";

/// Comes back once one card has an address. The clients go on, and renew what they got.
pub fn wait_for_one(root: &Path, given: bool) -> Result<(), String> {
    if given {
        return Ok(());
    }
    let cards = machine::cards(root);
    if cards.is_empty() {
        return Err("this machine has no network card that the medium has a driver for".into());
    }
    fs::create_dir_all("/run/bootproof").map_err(|error| format!("failed to make `/run/bootproof`: {error}"))?;
    match rustix::fs::mknodat(CWD, NEWS, rustix::fs::FileType::Fifo, Mode::from(0o600), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(format!("failed to make `{NEWS}`: {error}")),
    }
    // Both ways, so that opening it waits for nobody and it has no end.
    let news = OpenOptions::new()
        .read(true)
        .write(true)
        .open(NEWS)
        .map_err(|error| format!("failed to open `{NEWS}`: {error}"))?;
    for card in &cards {
        Command::new("udhcpc")
            .args(["-f", "-i", &card.name, "-s", SCRIPT, "-t", "5", "-T", "2", "-A", "3"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("failed to start the DHCP client: {error}"))?;
    }
    let mut line = String::new();
    BufReader::new(news).read_line(&mut line).map_err(|error| format!("failed to read `{NEWS}`: {error}"))?;
    Ok(())
}
