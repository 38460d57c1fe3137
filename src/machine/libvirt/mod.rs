//! The libvirt backend.
//!
//! `target` is which libvirt, `mark` how our domains are told from others', `domain` a machine as domain XML (pure, written
//! through `xml`), `machine` the `Machine` that a run drives with `supervisor` watching it. libvirt's C library is spoken to
//! by processes of ours that hold one domain each (`holder`, `events`), over `protocol`; `monitor` is the run's end of that.
//! What always holds: a domain is transient and ends with the connection of its holder, which ends with its keeper; a domain
//! that is nobody's any more is removed only where it has both our name and our run's mark.

#[cfg(feature = "libvirt")]
mod connection;
mod domain;
#[cfg(feature = "libvirt")]
mod events;
#[cfg(feature = "libvirt")]
mod holder;
mod host;
mod machine;
mod mark;
mod monitor;
mod protocol;
mod supervisor;
mod target;
#[cfg(not(feature = "libvirt"))]
mod without;
mod xml;

#[cfg(feature = "libvirt")]
pub use connection::{describe, prune};
pub use domain::Domain;
#[cfg(feature = "libvirt")]
pub use holder::main as hold;
pub use host::{Host, Left};
pub use machine::{LibvirtMachine, LibvirtSetup};
pub use mark::{Mark, PREFIX};
pub use target::{DEFAULT_URI, Target};
#[cfg(not(feature = "libvirt"))]
pub use without::{describe, hold, prune};

/// User and group that a machine's QEMU runs as, where that can be said: who runs us.
pub fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}
