//! A recording of a network's frames that Wireshark and tshark read.
//!
//! Each of the switch's ports is an interface of the recording. A frame is recorded when its machine sends it (inbound,
//! as the switch sees it), and again at each port that it is handed to (outbound), with whatever the links' faults made
//! of it and when: what was lost, late or damaged shows without looking into the guests.
//!
//! What always holds: the file never grows beyond its limit and is whole when the recording ends; a disk that is slower
//! than the network costs frames of the recording, which are counted and said, never frames of the network.

mod pcapng;
mod recorder;

pub use pcapng::Direction;
pub use recorder::{CaptureEnd, CaptureOptions, CaptureSummary};
pub(super) use recorder::{Recorder, RunningCapture};
