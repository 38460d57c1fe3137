//! What the kernel's random generator is given.

use std::fs::OpenOptions;
use std::io;

use rustix::ioctl::{NoArg, Setter, ioctl, opcode};

/// Bytes that are taken at once.
const ROOM: usize = 128;

/// `struct rand_pool_info` of the kernel's `linux/random.h`.
#[repr(C)]
struct PoolInfo {
    /// In bits.
    entropy_count: i32,
    /// In bytes.
    size: i32,
    bytes: [u8; ROOM],
}

/// `RNDADDENTROPY`; its size is that of the two numbers before the bytes.
const ADD: rustix::ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 3);
/// `RNDRESEEDCRNG`: what is given out from now on comes from the new seed.
const RESEED: rustix::ioctl::Opcode = opcode::none(b'R', 7);

/// Adds what nobody else has, and lets the generator begin anew from it.
pub fn stir(secret: &[u8]) -> io::Result<()> {
    let size = secret.len().min(ROOM);
    let mut pool = PoolInfo { entropy_count: 0, size: 0, bytes: [0; ROOM] };
    pool.bytes[..size].copy_from_slice(&secret[..size]);
    // `ROOM` fits.
    pool.size = size as i32;
    // Hexadecimal digits: half of the bits.
    pool.entropy_count = pool.size * 4;
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: the kernel reads a `rand_pool_info` whose `size` is that of the bytes it has.
    unsafe { ioctl(&random, Setter::<ADD, PoolInfo>::new(pool)) }?;
    // SAFETY: this takes no argument.
    unsafe { ioctl(&random, NoArg::<RESEED>::new()) }?;
    Ok(())
}
