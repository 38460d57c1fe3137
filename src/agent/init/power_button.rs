//! The power button: an init is expected to switch the machine off when it is pressed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::agent::say;

const INPUT: &str = "/dev/input";

/// `struct input_event` of the kernel's `linux/input.h` on 64-bit machines: time (16 bytes), type, code, value.
const EVENT_LENGTH: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Watches every input device that is there by now, a thread each. A machine without one has no button.
pub fn watch() -> io::Result<()> {
    let devices = match fs::read_dir(INPUT) {
        Ok(devices) => devices,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for device in devices {
        let path = device?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event")) {
            watch_device(&path)?;
        }
    }
    Ok(())
}

fn watch_device(path: &Path) -> io::Result<()> {
    let mut device = File::open(path)?;
    std::thread::Builder::new().name("power-button".into()).spawn(move || {
        let mut event = [0; EVENT_LENGTH];
        while device.read_exact(&mut event).is_ok() {
            if is_power_press(&event) {
                rustix::fs::sync();
                let off = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
                say(&format!("failed to switch off: {off:?}"));
            }
        }
    })?;
    Ok(())
}

fn is_power_press(event: &[u8; EVENT_LENGTH]) -> bool {
    let kind = u16::from_ne_bytes([event[16], event[17]]);
    let code = u16::from_ne_bytes([event[18], event[19]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (kind, code, value) == (EV_KEY, KEY_POWER, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_LENGTH] {
        let mut event = [0; EVENT_LENGTH];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..24].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        assert!(is_power_press(&event(1, 116, 1)));
        assert!(!is_power_press(&event(1, 116, 0)), "it was let go");
        assert!(!is_power_press(&event(1, 30, 1)), "another key");
        assert!(!is_power_press(&event(0, 0, 0)), "the mark behind each report");
    }
}
