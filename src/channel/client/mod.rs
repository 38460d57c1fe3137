//! The host's end of the agent's wire.
//!
//! One task pumps the connection and never waits for a consumer; handles (`Execution`, `ChannelStream`, ...) talk to it
//! through shared state. What always holds: whoever waits is woken when the session or the connection ends; dropping a
//! handle cancels what it stood for in the guest; dropping every handle closes the connection.

mod channel;
mod execution;
mod file;
mod outgoing;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use channel::{AgentChannel, ChannelEvent};
pub use execution::Execution;
pub use file::FileReader;
pub use stream::{ChannelStream, PipeReader, PipeWriter};
