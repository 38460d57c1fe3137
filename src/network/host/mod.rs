//! The host's own place on a network: a TCP/IP stack in user space, so that steps and workloads reach machines without
//! root, without a tun device and inside a build sandbox.
//!
//! The stack (smoltcp) sits behind a port of the switch like any machine, named `host`: it answers ARP and ping, its
//! frames are recorded, and links to and from it can have faults. One task moves frames and time; connections are
//! ordinary streams.
//!
//! It serves the machines their addresses by DHCP and their names by DNS, where it is asked to.
//!
//! What always holds: nothing here waits for ever by itself nor gives up by itself. A connection to a machine that does
//! not answer is tried for as long as the caller waits; dropping what waits ends it. Memory is bounded: so many
//! connections, each with buffers of a fixed size.

mod device;
mod port;
mod services;
mod stack;
mod stream;

pub use port::HostPort;
pub use services::DhcpOptions;
pub use stream::{HostListener, HostStream};
