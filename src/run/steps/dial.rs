//! Connections to what a machine serves: through its agent, or from the host's place in a network.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{RunningMachine, StepContext, StepEnd};
use crate::event::FailureReason;

/// A connection, whatever carries it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// From where something is asked.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// Inside the machine: the address is the guest's own.
    Agent(&'a RunningMachine),
    /// The host's place in a network.
    Network(&'a str),
}

impl Origin<'_> {
    /// Connects, for as long as the step lasts.
    pub async fn dial(self, context: &StepContext, address: &str) -> Result<Box<dyn Duplex>, StepEnd> {
        match self {
            Origin::Agent(machine) => Ok(Box::new(context.agent(machine).await?.connect(address).await?)),
            Origin::Network(network) => {
                let stream = context.faults.networks.connect(network, address).await.map_err(|error| {
                    let message = format!("the connection to `{address}` failed: {error}");
                    StepEnd::Failed(FailureReason::Refused, message)
                })?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Where an answer is kept.
    pub fn response_file(self, index: usize) -> String {
        match self {
            Origin::Agent(machine) => format!("machines/{}/commands/{index}.response", machine.state.name()),
            Origin::Network(_) => format!("artifacts/host/{index}.response"),
        }
    }
}
