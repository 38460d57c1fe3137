//! What HELLO says of the guest.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::channel::protocol::{Hello, PROTOCOL_VERSION, Role};

pub fn hello(role: Role) -> Hello {
    let system = rustix::system::uname();
    Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        boot_id: boot_id(),
        nonce: nonce(),
        hostname: system.nodename().to_string_lossy().into_owned(),
        kernel_release: system.release().to_string_lossy().into_owned(),
        architecture: system.machine().to_string_lossy().into_owned(),
        role,
    }
}

/// Empty where there is no `/proc`.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// Only has to differ from the nonces of other sessions on this connection, so it must not wait for the kernel's entropy;
/// the time is mixed in for kernels that have none yet.
fn nonce() -> String {
    let mut bytes = [0u8; 16];
    let _ = getrandom(&mut bytes[..], GetRandomFlags::INSECURE);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    (u128::from_le_bytes(bytes) ^ now).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
