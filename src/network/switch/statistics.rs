//! What there was on each port.

/// Of one port, since the switch was started. Bytes include each frame's length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortStatistics {
    pub name: String,
    /// A machine is connected now.
    pub connected: bool,
    /// How often one was.
    pub connections: u64,
    /// Frames that the machine sent. Each went home, or to one port or more.
    pub received_frames: u64,
    pub received_bytes: u64,
    /// Frames that were handed to the machine: written to its socket, or waiting for it to read.
    pub delivered_frames: u64,
    pub delivered_bytes: u64,
    /// Frames for the machine that were dropped because it did not take what was waiting.
    pub dropped_full: u64,
    /// Frames for the machine that were dropped because it was not connected.
    pub dropped_down: u64,
    /// What the machine sent that was too short for a frame.
    pub too_short: u64,
    /// Frames whose receiver is behind the same port.
    pub home: u64,
}
