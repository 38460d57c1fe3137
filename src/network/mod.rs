//! The networks between a run's machines: switched by ourselves, in user space, with faults on their links.
//!
//! A [`Switch`] is one layer-2 network. Machines are at its ports by QEMU's `-netdev stream` on unix sockets, so that it
//! needs neither root nor a bridge; the host may be at one by a TCP/IP stack of its own ([`HostPort`]). Faults are set on
//! directed links and healed while frames pass ([`Switch::set_fault`]), and each counts what it did. A network can be
//! recorded ([`Switch::start_capture`]).
//!
//! What decides is pure and knows no socket: `fabric` (where a frame goes), `fault` (what a link makes of it), `held`
//! (what waits on links), `queue` (what waits for a port), `frame`. The switch's one thread puts them to sockets.
//!
//! What always holds:
//! - Without a fault, a frame reaches every machine that it must, whole, once and in order, or is counted as dropped.
//!   Frames are dropped only for a machine that is not connected, or that has taken nothing for [`STALL`] and has
//!   [`SOURCE_LIMIT`] bytes of one sender waiting; until then the sender is slowed down instead, and only that one.
//! - The same seed, labels and frames on a link give the same decisions there, whatever happens on other links. What a
//!   rate limit does follows from times besides.
//! - Frames of a link keep their order unless a fault was asked to reorder.
//! - Memory is bounded, whatever guests send and do not take. Who sends what is no frame harms itself alone.
//! - Where no fault is set and nothing recorded, a frame's bytes are not copied here but written from where they were
//!   read, as many frames at once as came at once.

mod address;
mod capture;
mod fabric;
mod fault;
mod frame;
mod held;
mod host;
mod links;
mod mac;
mod queue;
mod switch;

pub use address::{AddressError, EndAddress, HOST, Subnet};
pub use capture::{CaptureEnd, CaptureOptions, CaptureSummary};
pub use fault::{Fault, FaultCounters, FaultId, Jitter, LONGEST_DELAY, MOST_BITS, Probability};
pub use frame::{HEADER, Item, LONGEST, SHORTEST, framed, item_at};
pub use host::{DhcpOptions, HostListener, HostPort, HostStream};
pub use links::LinkSelection;
pub use mac::MacAddress;
pub use switch::{Disconnection, PortStatistics, SOURCE_LIMIT, STALL, Switch, SwitchOptions, SwitchReport};
