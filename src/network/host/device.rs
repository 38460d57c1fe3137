//! Frames between the stack and its port of the switch. Pure: whoever owns it moves the bytes.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::network::frame::HEADER;

/// The stack sends nothing more while so many bytes wait for the switch.
const OUTGOING: usize = 256 << 10;

/// An Ethernet frame that carries 1500 bytes.
const FRAME: usize = 1514;

#[derive(Debug, Default)]
pub struct FrameDevice {
    /// Without their lengths.
    pub incoming: VecDeque<Vec<u8>>,
    /// Bytes for the switch, each frame with its length before it.
    pub outgoing: Vec<u8>,
}

pub struct Received(Vec<u8>);

pub struct Sending<'a>(&'a mut Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.extend_from_slice(&(length as u32).to_be_bytes());
        let begin = self.0.len();
        self.0.resize(begin + length, 0);
        fill(&mut self.0[begin..])
    }
}

impl FrameDevice {
    /// Sends a frame that did not come from the stack; where there is no room, the network loses it.
    pub fn send(&mut self, frame: &[u8]) {
        if self.has_room() {
            Sending(&mut self.outgoing).consume(frame.len(), |place| place.copy_from_slice(frame));
        }
    }

    fn has_room(&self) -> bool {
        self.outgoing.len() + HEADER + FRAME <= OUTGOING
    }
}

impl Device for FrameDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        // What is received may have to be answered.
        if !self.has_room() {
            return None;
        }
        let frame = self.incoming.pop_front()?;
        Some((Received(frame), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        if self.has_room() { Some(Sending(&mut self.outgoing)) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}
